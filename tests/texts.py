"""Texts of every kind that a tokenizer meets, from a seed: words, entities, mojibake, scripts, emoji, controls."""

import random
from collections.abc import Iterator

GOLDEN = 2_000  # of which the ids are committed
ALL = 20_000  # which are compared where the oracle is installed

WORDS = (
    "a photo of the cat dog aeroplane zebra colour Straße naïve café Ωmega don't it's we've I'll they're HE'D 'S 'twas "
    "antidisestablishmentarianism supercalifragilistic xylophone GPU iPhone COVID-19 e.g. U.S.A. rock'n'roll o'clock "
    "1st 2nd 1,234.56 3.14159 0x7f 50% $9.99 #hashtag @user http://example.com/a?b=c&d=e me@example.org C++ C# "
    "~/.bashrc"
).split()
SCRIPTS = (
    "фотография кота",
    "μια φωτογραφία γάτας",
    "צילום של חתול",
    "صورة قطة",
    "一张猫的照片",
    "猫の写真",
    "고양이 사진",
    "बिल्ली की तस्वीर",
    "ภาพถ่ายของแมว",
    "לְחַיִּים",
    "ﬁne ﬂow ǅ ŉ",
    "İstanbul ıı ẞ",
    "Ａｂｃ１２３",
    "𝓬𝓪𝓽 𝟙𝟚𝟛 Ⅷ ½ ²",
    "𐍈𐌰 𒀀",
)
EMOJI = ("😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇪🇺", "❤️", "☃", "✈︎", "1️⃣", "\u200d", "\ufe0f")
ENTITIES = (
    "&amp;",
    "&lt;b&gt;",
    "&amp;amp;",
    "&#39;",
    "&#x1F600;",
    "&nbsp;",
    "&eacute;",
    "&notanentity;",
    "&",
    "&quot;q&quot;",
)
MOJIBAKE = ("cafÃ©", "donâ€™t", "â€œquotedâ€\x9d", "Ã¼ber", "schÃ¶n", "l’humanitÃ©", "ï»¿bom", "ðŸ˜€", "â€¦")
SPECIAL = ("<|startoftext|>", "<|endoftext|>", "<|ENDOFTEXT|>", "<|endoftext|", "<start_of_text>", "</w>", "a</w>")
SPACES = (
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\u200b",
    "\x0b",
    "\x1c",
    "\x85",
    "\u2028",
    "\ufeff",
)
CONTROLS = (
    "\x00",
    "\x01",
    "\x07",
    "\x1b[31m",
    "\x7f",
    "\x9f",
    "\u202e",
    "\u0301",
    "\ufffd",
    "\ufffe",
    "\U0010ffff",
    "\ue000",
)
PUNCTUATION = (
    "!",
    "!!!",
    "...",
    "…",
    "—",
    "--",
    "«»",
    '"',
    "''",
    "?!",
    "(",
    ")",
    "[]",
    "{}",
    "/\\",
    "|",
    "^_^",
    ":-)",
    "¡",
    "€",
    "§",
)
POOLS = (WORDS, SCRIPTS, EMOJI, ENTITIES, MOJIBAKE, SPECIAL, CONTROLS, PUNCTUATION)


def texts(n: int) -> Iterator[str]:
    """The first n texts, always the same."""
    rng = random.Random("texts 1")
    fixed = [
        "",
        " ",
        "Hello World!",
        "a photo of a cat",
        *SCRIPTS,
        *EMOJI,
        *ENTITIES,
        *MOJIBAKE,
        *SPECIAL,
        *SPACES,
        *CONTROLS,
    ]
    for i in range(n):
        yield fixed[i] if i < len(fixed) else text(rng)


def text(rng: random.Random) -> str:
    """One text: mostly words, or a mixture, or single characters from all of Unicode, or a length around 77 tokens."""
    kind = rng.random()
    if kind < 0.35:
        return joined(rng, [rng.choice(WORDS) for _ in range(rng.randint(1, 15))])
    if kind < 0.75:
        return joined(rng, [rng.choice(rng.choice(POOLS)) for _ in range(rng.randint(1, 8))])
    if kind < 0.9:
        return "".join(character(rng) for _ in range(rng.randint(1, 20)))
    if kind < 0.97:
        return " ".join(rng.choice(WORDS[:12]) for _ in range(rng.randint(70, 80)))
    return rng.choice("abcxyz1!é猫") * rng.randint(1, 300)


def joined(rng: random.Random, parts: list[str]) -> str:
    """Parts with spaces of every kind between them, or none, some in other cases."""
    cased = [rng.choice((str, str, str.upper, str.title, str.swapcase))(part) for part in parts]
    return "".join(
        part + (rng.choice(SPACES) if rng.random() < 0.3 else rng.choice(("", " ", " ", " "))) for part in cased
    )


def character(rng: random.Random) -> str:
    """Any character but a surrogate, the lower planes more often."""
    limit = rng.choice((0x80, 0x250, 0x3000, 0x10000, 0x20000, 0x110000))
    code = rng.randrange(limit)
    return chr(code) if not 0xD800 <= code < 0xE000 else "?"
