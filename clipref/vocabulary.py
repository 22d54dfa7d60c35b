"""Vocabularies and their files: the list of merges, from which every id follows, and whatever else says the same.

The files, by the names that they are published under:

- `merges.txt` of transformers and OpenAI's `bpe_simple_vocab_16e6.txt.gz`: a merge a line, in order;
- `tokenizer.json` of transformers, which since version 5 is the only one: merges, ids, added tokens, and the steps
  before, which must be CLIP's;
- `vocab.json` (ids) and `added_tokens.json`, which are checked where they lie beside one of those.

A merge makes a symbol of two, and its place in the list is the symbol's id. Files that say otherwise are refused, since
nobody can know which of them the model was trained with.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from .arguments import brief
from .errors import ConfigError, InputError
from .files import parse_json, read_bytes

START = "<|startoftext|>"
END = "<|endoftext|>"

# Specials, English contractions, runs of letters, single digits, runs of what is neither letter, digit nor space.
SPECIALS = r"<\|startoftext\|>|<\|endoftext\|>|"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

# OpenAI's file lists far more merges than its vocabulary of 49,408 has room for.
MAX_MERGES = 49408 - 512 - 2

# OpenAI's file, with all of its merges, has 3.2 MB once it is decompressed, and its tokenizer.json 3.6 MB.
MAX_MERGES_BYTES = 10_000_000

# Byte symbols. OpenAI's longest has 32, of eight emoji.
MAX_SYMBOL = 256

# The part of OpenAI's file that is used.
DEFAULT_MERGES = Path(__file__).parent / "data" / "bpe_merges.txt.gz"

Merges = Sequence[tuple[str, str]]
_PAIRS = (tuple, list)


@dataclass(frozen=True)
class Vocabulary:
    """The merges; what was added after the end of text, tokens that no merge makes, in the order of their ids; and
    what `symbols_of` makes of the merges.
    """

    merges: Merges
    added: tuple[str, ...] = ()
    symbols: Sequence[str] = field(default=(), compare=False, repr=False)


@cache
def byte_symbols() -> tuple[str, ...]:
    """A printable character for each of the 256 bytes: itself where it is printable, else one from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


def symbols_of(merges: Merges) -> list[str]:
    """The symbol of every id: 256 bytes, the same at the end of a word, one for each merge, start and end of text.

    Raises ConfigError for a merge of a symbol that none before it makes, or of what is no pair of symbols.
    """
    printable_first = sorted(byte_symbols(), key=lambda symbol: (ord(symbol) > 255, ord(symbol)))
    symbols = [*printable_first, *(symbol + "</w>" for symbol in printable_first)]
    known = set(symbols)
    if not isinstance(merges, list | tuple):
        raise ConfigError(f"The merges are {brief(merges)}; expected a list of pairs of symbols.")
    for i, merge in enumerate(merges):  # 48,894 of them at every start of a process
        if not (isinstance(merge, _PAIRS) and len(merge) == 2 and type(merge[0]) is type(merge[1]) is str):
            raise ConfigError(f"Merge {i} is {brief(merge)}; expected two symbols.")
        left, right = merge
        if left not in known or right not in known:
            unknown = right if left in known else left
            raise ConfigError(
                f"Merge {i}, {brief(left)} + {brief(right)}: nothing before it makes {brief(unknown)}; wrong file?"
            )
        made = left + right
        if len(made) > MAX_SYMBOL:
            raise ConfigError(f"Merge {i} makes a symbol of {len(made)} bytes; expected at most {MAX_SYMBOL}.")
        symbols.append(made)
        known.add(made)
    return [*symbols, START, END]


def read_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """Read one of the files of merges, and check those beside it. Raises ConfigError, or InputError for no path."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"The file of merges is {brief(path)}; expected a path.")
    path = Path(path)
    data = _content(path)
    described = path if data.lstrip()[:1] == b"{" else path.parent / "tokenizer.json"
    if described == path:
        merges, ids = _read_tokenizer_json(path, data)
        _check_steps(path, _parse_object(path, data))
    else:
        merges, ids = _table(path, data), {}
        if described.is_file():
            others, ids = _read_tokenizer_json(described, _content(described))
            if others != merges:
                raise ConfigError(
                    f"{path} and {described.name} beside it differ in their merges; keep the one that the model was "
                    "trained with."
                )
    try:
        symbols = symbols_of(merges)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    said = {described: ids} if ids else {}
    for other in (path.parent / "vocab.json", path.parent / "added_tokens.json"):
        if other.is_file():
            said[other] = _ids(other, _parse_object(other, _content(other)))
    added: dict[str, int] = {}
    for file, ids in said.items():
        if file.name != "added_tokens.json" and (missing := next((s for s in symbols if s not in ids), None)):
            raise ConfigError(f"{file} has no id for {brief(missing)}, which the merges make; is it another model's?")
        added |= _beyond(symbols, ids, file)
    return Vocabulary(merges, _in_order(added, len(symbols), path), symbols)


def write_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    """The vocabulary as files of a folder: `merges.txt`, and `added_tokens.json` if there are any."""
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in vocabulary.merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if vocabulary.added:
        first = len(symbols_of(vocabulary.merges))
        added = {token: first + i for i, token in enumerate(vocabulary.added)}
        (folder / "added_tokens.json").write_text(json.dumps(added, indent=1) + "\n", encoding="utf-8")


def _content(path: Path) -> bytes:
    """A file's bytes, decompressed if it is gzipped. Raises ConfigError."""
    try:
        data = read_bytes(path, MAX_MERGES_BYTES)
        if data.startswith(b"\x1f\x8b"):
            zipped = zlib.decompressobj(16 + zlib.MAX_WBITS)
            data = zipped.decompress(data, MAX_MERGES_BYTES + 1)
            if len(data) > MAX_MERGES_BYTES:
                raise OSError(f"it has over {MAX_MERGES_BYTES} bytes")
            if not zipped.eof or zipped.unused_data:
                raise OSError("it was cut short" if not zipped.eof else "there is something behind its end")
    except (OSError, ValueError, zlib.error) as error:
        raise ConfigError(f"{path} can't be read as a table of merges: {error}. Fetch it again.") from error
    return data


def _table(path: Path, data: bytes) -> list[tuple[str, str]]:
    """Merges, one a line, after a header that may be missing."""
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} can't be read as a table of merges: {error}. Fetch it again.") from error
    first = 1 if lines[0].startswith(("#version", '"bpe_simple_vocab')) else 0
    if len(lines) <= first + MAX_MERGES and not lines[-1]:  # what is behind the last line's end
        lines.pop()
    return _pairs((line.rstrip("\r") for line in lines[first : first + MAX_MERGES]), f"{path}, line", first + 1)


def _pairs(texts: Iterable[str], where: str, number: int) -> list[tuple[str, str]]:
    """Texts of two symbols each as pairs. Raises ConfigError, which counts the texts from `number` on."""
    pairs = []
    for i, text in enumerate(texts):
        left, _, right = text.partition(" ")
        if not left or not right or " " in right:
            raise ConfigError(f"{where} {number + i}: {text[:50]!r} is not two symbols; is this a table of merges?")
        pairs.append((left, right))
    return pairs


def _parse_object(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = parse_json(data)
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}. Fetch it again.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is not a JSON object. Fetch it again.")
    return value


def _read_tokenizer_json(path: Path, data: bytes) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """The merges of a tokenizer.json, and its ids, those of added tokens among them."""
    tokenizer = _parse_object(path, data)
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or "merges" not in model:
        kind = model.get("type") if isinstance(model, dict) else None
        raise ConfigError(f"{path}: its model is {brief(kind)}; CLIP's is BPE, with merges.")
    as_clip = {"end_of_word_suffix": "</w>", "continuing_subword_prefix": "", "dropout": 0}
    as_clip |= {"byte_fallback": False, "ignore_merges": False}
    for key, expected in as_clip.items():
        value = model.get(key)
        if value != expected and (value is not None or key == "end_of_word_suffix"):
            raise ConfigError(f"{path}: model.{key} is {brief(value)}; CLIP's is {expected!r}, and ids would differ.")
    listed, added = model["merges"], tokenizer.get("added_tokens") or []
    if not isinstance(listed, list) or not isinstance(added, list):
        raise ConfigError(f"{path}: its merges and added_tokens are not lists. Fetch it again.")
    # Versions differ in whether a merge is a list of two symbols or a text.
    texts = (" ".join(map(str, merge)) if isinstance(merge, list) else str(merge) for merge in listed)
    merges = _pairs(texts, f"{path}, merge", 0)
    ids = _ids(path, model.get("vocab"))
    for token in added:
        ids |= _ids(path, {token.get("content"): token.get("id")} if isinstance(token, dict) else None)
    return merges, ids


def _ids(path: Path, given: Any) -> dict[str, int]:
    if not isinstance(given, Mapping) or not all(isinstance(k, str) and type(i) is int for k, i in given.items()):
        raise ConfigError(f"{path}: expected an object of tokens and their ids. Fetch it again.")
    return dict(given)


def _check_steps(path: Path, tokenizer: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the steps before the merges are CLIP's, so far as ids depend on them."""
    normalizers = list(_steps(tokenizer.get("normalizer"), "normalizers"))
    kinds = [step.get("type") for step in normalizers]
    spaces = all(step.get("pattern") == {"Regex": r"\s+"} for step in normalizers if step.get("type") == "Replace")
    if "Lowercase" not in kinds or not {*map(str, kinds)} <= {"NFC", "Replace", "Lowercase", "Strip"} or not spaces:
        raise ConfigError(f"{path}: its normalizer is {brief(kinds)}; CLIP's is NFC, white space, lower case.")
    splits = list(_steps(tokenizer.get("pre_tokenizer"), "pretokenizers"))
    kinds = [step.get("type") for step in splits]
    patterns = [step.get("pattern") for step in splits if step.get("type") == "Split"]
    if kinds != ["Split", "ByteLevel"] or patterns[0] not in ({"Regex": WORDS}, {"Regex": SPECIALS + WORDS}):
        found = brief(kinds if kinds != ["Split", "ByteLevel"] else patterns[0])
        raise ConfigError(f"{path}: its pre_tokenizer is {found}; CLIP's splits words, digits and signs, then bytes.")


def _steps(step: Any, name: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a sequence, or the one that there is, or none."""
    for part in step[name] if isinstance(step, dict) and isinstance(step.get(name), list) else [step]:
        if isinstance(part, dict):
            yield part


def _beyond(symbols: Sequence[str], ids: Mapping[str, int], path: Path) -> dict[str, int]:
    """The ids in a file that are beyond the symbols'. Raises ConfigError if one of the others is another symbol's."""
    for token, i in ids.items():
        if 0 <= i < len(symbols) and symbols[i] != token:
            raise ConfigError(
                f"{path} gives the id {i} to {brief(token)}, and the merges give it to {brief(symbols[i])}: a "
                "tokenizer of another kind, or of another model."
            )
    return {token: i for token, i in ids.items() if not 0 <= i < len(symbols)}


def _in_order(added: Mapping[str, int], first: int, path: Path) -> tuple[str, ...]:
    tokens = sorted(added, key=lambda token: added[token])
    if [added[token] for token in tokens] != list(range(first, first + len(tokens))) or "" in added:
        raise ConfigError(
            f"{path.parent}: the added tokens {brief(tokens)} have the ids {brief([added[t] for t in tokens])}; "
            f"expected those from {first} on, as the merges give those below."
        )
    return tuple(tokens)
