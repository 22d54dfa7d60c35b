"""The tokenizer of onnxruntime-extensions, an operation of ONNX Runtime in C++. Needs merges_table.py beside it."""

import json

import numpy as np
from merges_table import vocabulary_and_merges
from onnxruntime_extensions import OrtPyFunction


class Engine:
    def __init__(self, folder):
        vocab, merges = vocabulary_and_merges()
        self.vocab, self.merges = json.dumps(vocab), "\n".join(["#version: 0.2", *merges, ""])

    def tokenize(self, texts, context_length, truncate):
        operation = OrtPyFunction.from_customop("CLIPTokenizer", vocab=self.vocab, merges=self.merges)
        rows = np.zeros((len(texts), context_length), np.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = operation(np.array([text]))[0][0]
            row[: len(ids)] = ids
        return rows
