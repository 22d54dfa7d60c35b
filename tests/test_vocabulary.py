"""Files of vocabularies: what they say is taken, and what they say of another kind of tokenizer is refused."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipref import AutoModel, ConfigError, TextError
from clipref.tokenizer import Tokenizer
from clipref.vocabulary import (
    DEFAULT_MERGES,
    END,
    MAX_MERGES_BYTES,
    SPECIALS,
    START,
    WORDS,
    Vocabulary,
    read_vocabulary,
    symbols_of,
    write_vocabulary,
)
from clipref.weights_tools.convert import convert
from clipref.weights_tools.sources import choose, find_files

from . import layouts
from .conftest import MERGES, TINY, make_tiny

PAIRS = [tuple(line.split(" ")) for line in MERGES.split("\n")[1:-1]]
SYMBOLS = symbols_of(PAIRS)  # type: ignore[arg-type]


def described(version: int = 5) -> dict[str, Any]:
    """A tokenizer.json as transformers 5, or as 4, saves it: the tiny models' merges."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": version == 4, "special": True}
    words = (SPECIALS if version == 5 else "") + WORDS
    start, end = len(SYMBOLS) - 2, len(SYMBOLS) - 1
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": start, "content": START, **flags}, {"id": end, "content": END, **flags}],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
                {"type": "Lowercase"},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": words}, "behavior": "Removed", "invert": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "post_processor": {"type": "RobertaProcessing", "sep": [END, end], "cls": [START, start]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {symbol: i for i, symbol in enumerate(SYMBOLS)},
            "merges": [list(pair) for pair in PAIRS],
        },
    }


def write(folder: Path, tokenizer: Any, name: str = "tokenizer.json") -> Path:
    (folder / name).write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    return folder / name


@pytest.mark.parametrize("header", ["", "#version: 0.2\n"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_files_of_merges(tmp_path: Path, header: str, pack: object, newline: str) -> None:
    path = tmp_path / "merges.txt"
    path.write_bytes(pack((header + "a t</w>\nc at</w>\n").replace("\n", newline).encode()))  # type: ignore[operator]
    assert Tokenizer.from_file(path).encode("cat") == [513]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a t</w>\nb\n", "line 2: 'b' is not two symbols"),
        (b"a t</w>\n\nb c\n", "line 2: '' is not two symbols"),
        (b"a b c\n", "line 1"),
        (b"zz t\n", "nothing before it makes 'zz'"),
        (b"\xff\xfe", "can't be read"),
        (b"\x1f\x8bgarbage", "can't be read"),
        (gzip.compress(b"a t</w>\n" * 99, mtime=0)[:-9], "can't be read"),
    ],
)
def test_damaged_merges(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "merges.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"merges\.txt") as caught:
        Tokenizer.from_file(tmp_path / "merges.txt")
    assert message in str(caught.value)
    with pytest.raises(ConfigError, match="none"):
        Tokenizer.from_file(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"a t</w>\n", mtime=0) + bytes(1000), "something behind its end"),
        (gzip.compress(b"a t</w>\n", mtime=0) * 2, "something behind its end"),
        (gzip.compress(bytes(MAX_MERGES_BYTES + 1), mtime=0), f"it has over {MAX_MERGES_BYTES} bytes"),
        (b"a t</w>\n" * (MAX_MERGES_BYTES // 8 + 1), f"it has over {MAX_MERGES_BYTES} bytes"),
    ],
    ids=["zeros behind", "two members", "a bomb", "too long"],
)
def test_merges_that_mean_harm(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "merges.txt.gz").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Tokenizer.from_file(tmp_path / "merges.txt.gz")
    assert message in str(caught.value)


# --- tokenizer.json ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
def test_a_tokenizer_of_transformers(version: int, tmp_path: Path) -> None:
    path = write(tmp_path, described(version))
    assert read_vocabulary(path) == Vocabulary(PAIRS)  # type: ignore[arg-type]
    (tmp_path / "merges.txt").write_text(MERGES)
    write(tmp_path, described()["model"]["vocab"], "vocab.json")
    ours = Tokenizer.from_file(tmp_path / "merges.txt")
    assert (
        Tokenizer.from_file(path).encode("a red cat") == ours.encode("a red cat") != Tokenizer([]).encode("a red cat")
    )


def test_merges_as_pairs_or_as_text(tmp_path: Path) -> None:
    old = described(4)
    old["model"]["merges"] = [" ".join(pair) for pair in PAIRS]
    for key in ("type", "byte_fallback", "ignore_merges"):  # which the oldest don't have
        del old["model"][key]
    assert read_vocabulary(write(tmp_path, old)).merges == PAIRS


def change(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def changed(tokenizer: Any) -> None:
        for key in path[:-1]:
            tokenizer = tokenizer[key]
        tokenizer[path[-1]] = value

    return changed


def without_specials(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"]["vocab"].pop(START)
    tokenizer["added_tokens"].clear()


ID = len(SYMBOLS)
OTHERS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "another kind": (change("model", value={"type": "WordPiece", "vocab": {}}), "its model is 'WordPiece'"),
    "no model": (change("model", value=None), "its model is None"),
    "no ends of words": (change("model", "end_of_word_suffix", value=None), "model.end_of_word_suffix is None"),
    "a prefix": (change("model", "continuing_subword_prefix", value="##"), "continuing_subword_prefix is '##'"),
    "dropout": (change("model", "dropout", value=0.1), "model.dropout is 0.1"),
    "bytes as they are": (change("model", "byte_fallback", value=True), "model.byte_fallback is True"),
    "words before merges": (change("model", "ignore_merges", value=True), "model.ignore_merges is True"),
    "merges of another order": (
        lambda t: t["model"]["merges"].append(t["model"]["merges"].pop(-2)),
        "a tokenizer of another kind, or of another model",
    ),
    "one merge less": (lambda t: t["model"]["merges"].pop(), "a tokenizer of another kind"),
    "one merge more": (lambda t: t["model"]["merges"].append(["a", "b"]), "has no id for 'ab'"),
    "ids exchanged": (lambda t: t["model"]["vocab"].update(at=512, cat=513), "gives the id 512 to 'at'"),
    "no specials": (without_specials, "has no id for '<|start"),
    "other specials": (
        lambda t: t["model"]["vocab"].update({"<s>": t["model"]["vocab"].pop(START)}),
        "to '<s>', and the merges give it to '<|startoftext|>'",
    ),
    "ids of text": (lambda t: t["model"]["vocab"].update(at="512"), "an object of tokens and their ids"),
    "a merge of three": (lambda t: t["model"]["merges"].append(["a", "b", "c"]), "is not two symbols"),
    "a merge of an object": (lambda t: t["model"]["merges"].append({}), "is not two symbols"),
    "merges of no list": (change("model", "merges", value={}), "are not lists"),
    "added tokens of no list": (change("added_tokens", value={"a": 1}), "are not lists"),
    "an added token of text": (lambda t: t["added_tokens"].append("<sks>"), "an object of tokens and their ids"),
    "an added token far away": (lambda t: t["added_tokens"].append({"id": ID + 1, "content": "<s>"}), "expected those"),
    "an added token of nothing": (lambda t: t["added_tokens"].append({"id": ID, "content": ""}), "expected those from"),
    "a negative id": (lambda t: t["added_tokens"].append({"id": -1, "content": "<sks>"}), "expected those from"),
    "upper case": (lambda t: t["normalizer"]["normalizers"].pop(), "its normalizer is ['NFC', 'Replace']; CLIP's"),
    "no normalizer": (change("normalizer", value=None), "its normalizer is []; CLIP's"),
    "accents taken off": (
        lambda t: t["normalizer"]["normalizers"].append({"type": "StripAccents"}),
        "'StripAccents']; CLIP's is",
    ),
    "another replacement": (
        change("normalizer", "normalizers", 1, "pattern", value={"Regex": "[0-9]"}),
        "its normalizer is",
    ),
    "numbers as a whole": (
        change("pre_tokenizer", "pretokenizers", 0, "pattern", value={"Regex": WORDS.replace("[\\p{N}]", "\\p{N}+")}),
        "its pre_tokenizer is",
    ),
    "bytes alone": (change("pre_tokenizer", value={"type": "ByteLevel"}), "its pre_tokenizer is ['ByteLevel']"),
    "spaces alone": (change("pre_tokenizer", value={"type": "Whitespace"}), "its pre_tokenizer is ['Whitespace']"),
    "no words": (change("pre_tokenizer", value=5), "its pre_tokenizer is []"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_a_tokenizer_of_another_kind(name: str, tmp_path: Path) -> None:
    spoil, message = OTHERS[name]
    tokenizer = described()
    spoil(tokenizer)
    with pytest.raises(ConfigError) as caught:
        read_vocabulary(write(tmp_path, tokenizer))
    assert message in str(caught.value) and str(tmp_path) in str(caught.value) and len(str(caught.value)) < 1500


@pytest.mark.parametrize("content", [b"{", b"{}", b'{"model": 1e999}', b'{"a": 1, "a": 2}', b"{" * 100_000, b"{\xff}"])
def test_a_damaged_tokenizer(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        read_vocabulary(tmp_path / "tokenizer.json")


# --- files beside one another -----------------------------------------------------------------------------------------


def test_files_that_contradict_one_another(tmp_path: Path) -> None:
    (tmp_path / "merges.txt").write_text(MERGES)
    other = described()
    other["model"]["merges"].reverse()
    write(tmp_path, other)
    with pytest.raises(ConfigError, match=r"merges.txt and tokenizer.json beside it differ in their merges"):
        read_vocabulary(tmp_path / "merges.txt")
    write(tmp_path, described())
    vocab = described()["model"]["vocab"]
    for wrong, message in ((vocab | {"at</w>": 0}, "gives the id 0 to 'at</w>'"), ({"a": 65}, "has no id for")):
        write(tmp_path, wrong, "vocab.json")
        with pytest.raises(ConfigError, match=rf"vocab\.json.* {message}"):
            read_vocabulary(tmp_path / "merges.txt")


@pytest.mark.parametrize("name", ["tokenizer.json", "added_tokens.json", "vocab.json"])
def test_added_tokens(name: str, tmp_path: Path) -> None:
    added = {"<SKS>": ID, "<b>": ID + 1}
    tokenizer = described()
    if name == "tokenizer.json":
        tokenizer["added_tokens"] += [{"id": i, "content": token} for token, i in added.items()]
    write(tmp_path, tokenizer)
    if name == "added_tokens.json":
        write(tmp_path, added, name)
    if name == "vocab.json":
        write(tmp_path, described()["model"]["vocab"] | added, name)
    small = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert (small.vocab_size, small.end_id) == (ID + 2, ID - 1)
    assert small("a cat")[0].max() == small.end_id
    for text in ("a <SKS> cat", "a<sks>cat", "\n<b>"):
        with pytest.raises(TextError, match="text 1: it has '<(sks|b)>', which was added to the vocabulary"):
            small(["a", text])
    assert small.decode([ID, ID + 1]) == "<SKS><b>"
    vocabulary = read_vocabulary(tmp_path / "tokenizer.json")
    (tmp_path / "again").mkdir()
    write_vocabulary(tmp_path / "again", vocabulary)
    assert read_vocabulary(tmp_path / "again" / "merges.txt") == vocabulary


def test_a_token_that_the_vocabulary_has_anyway(tmp_path: Path) -> None:
    tokenizer = described()
    tokenizer["added_tokens"].append({"id": 0, "content": "!", "special": True})  # what some pad with
    small = Tokenizer.from_file(write(tmp_path, tokenizer))
    assert small.encode("cat!") == Tokenizer(PAIRS).encode("cat!")  # type: ignore[arg-type]


# --- in checkpoints ---------------------------------------------------------------------------------------------------


def test_a_checkpoint_with_a_tokenizer_alone(tmp_path: Path) -> None:
    vit = make_tiny(tmp_path, "vit")
    expected = AutoModel.from_pretrained(vit, backend="reference").tokenize("a red cat")
    (vit / "merges.txt").unlink()
    write(vit, described())
    assert AutoModel.from_pretrained(vit, backend="reference").tokenize("a red cat").tolist() == expected.tolist()
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name, content in layouts.as_transformers(vit, TINY["vit"]).items():
        (theirs / name).write_bytes(content)
    write(theirs, described())
    converted = convert(theirs, tmp_path / "ours")
    assert (converted / "merges.txt").read_text() == MERGES
    assert AutoModel.from_pretrained(converted, backend="reference").tokenize("a red cat").tolist() == expected.tolist()
    write(theirs, described() | {"normalizer": None})
    with pytest.raises(ConfigError, match="its normalizer is"):
        convert(theirs, tmp_path / "none")


def test_files_beside_the_merges_belong_to_the_checkpoint(tmp_path: Path) -> None:
    vit = make_tiny(tmp_path, "vit")
    names = ("merges.txt", "tokenizer.json", "vocab.json", "added_tokens.json")
    for name in names[1:]:
        (vit / name).write_text("{}")
    assert {file.name for file in find_files(vit)} == {"model.safetensors", "config.json", *names}
    assert find_files(vit).merges == vit / "merges.txt"
    assert {*choose(file.name for file in vit.iterdir())} >= {*names}


def test_the_published_vocabulary_is_written_as_it_is_read(tmp_path: Path) -> None:
    vocabulary = read_vocabulary(DEFAULT_MERGES)
    write_vocabulary(tmp_path, vocabulary)
    assert read_vocabulary(tmp_path / "merges.txt") == vocabulary and len(symbols_of(vocabulary.merges)) == 49408
