"""Texts as the original cleans them: mojibake repaired, HTML unescaped, white space collapsed, lower case.

A line at a time, because no step looks further than a line's end, so that whoever needs only the beginning of a long
text pays for no more. From OpenAI's clip/simple_tokenizer.py, basic_clean and whitespace_clean.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from .errors import TextError
from .lazy import no_fork

# Characters, before and after the cleaning. A text as long as this has thousands of times the tokens of the longest
# context.
MAX_LENGTH = 1_000_000

# Characters that the repair of one text may go over: four times those of the longest. Usually it takes two passes.
MAX_REPAIR = 4 * MAX_LENGTH

# A number in HTML that has seven digits, the most that a character has, or more; without the zeros before them.
_NUMBER = re.compile(r"&#0*([0-9]{7,})")


def clean(text: str) -> str:
    """A whole text, cleaned. Raises TextError as `cleaned_lines` does."""
    return str(_space().sub(" ", "".join(cleaned_lines(text)))).strip()


def cleaned_lines(text: str) -> Iterator[str]:
    """The lines of a text, in lower case, with the white space as it is, which separates words and is in none.

    Raises TextError for a text that is too long, before or after, or whose HTML escapes are nested too deeply.
    """
    with no_fork:
        import ftfy

    if len(text) > MAX_LENGTH:
        raise TextError(f"a text of {len(text)} characters; at most {MAX_LENGTH} are taken. Shorten it.")
    passes, length, start = _Passes(), 0, 0
    config = ftfy.TextFixerConfig(explain=False, remove_control_chars=passes)  # type: ignore[arg-type]
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        line, start = text[start:end], end
        if "<" in line:
            config = config._replace(unescape_html=False)  # ftfy takes what follows for HTML that is meant to be
        if "&" in line or not line.isascii() or not line.rstrip("\n").isprintable():  # else nothing is to be repaired
            passes.cost = len(line)
            line = _unescape_html(_unescape_html(ftfy.fix_text(line, config)))
        line = line.lower()
        length += len(line)
        if length > MAX_LENGTH:
            raise TextError(f"a text of over {MAX_LENGTH} characters once it is cleaned. Shorten it.")
        yield line


class _Passes:
    """True, as often as ftfy may go over a text. It goes over a line until nothing changes, and asks once each time.

    Escapes of escapes (&amp;amp;amp;...) need a pass each, which for a million characters takes hours.
    """

    def __init__(self) -> None:
        self.left = MAX_REPAIR
        self.cost = 0

    def __bool__(self) -> bool:
        self.left -= self.cost
        if self.left < 0:
            raise TextError("a text whose HTML escapes are nested in one another too deeply. Unescape it first.")
        return True


def _unescape_html(text: str) -> str:
    """HTML's entities as characters. Numbers of thousands of digits, which Python won't convert, are no character's."""
    return html.unescape(_NUMBER.sub(lambda match: f"&#{match[1] if len(match[1]) == 7 else '9999999'}", text))


@cache
def _space() -> Any:
    """White space, which the module `regex` sees more of than `re`."""
    with no_fork:
        import regex

    return regex.compile(r"\s+")
