"""The tokenizer of onnxruntime-extensions, an operation of ONNX Runtime in C++. Needs merges_table.py beside it."""

import json

import numpy as np
from merges_table import vocabulary_and_merges
from onnxruntime_extensions import OrtPyFunction


class Engine:
    def __init__(self, folder):
        vocab, merges = vocabulary_and_merges()
        self.operation = OrtPyFunction.from_customop(
            "CLIPTokenizer", vocab=json.dumps(vocab), merges="\n".join(["#version: 0.2", *merges, ""])
        )

    def tokenize(self, texts, context_length, truncate):
        rows = np.zeros((len(texts), context_length), np.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = self.operation(np.array([text]))[0][0]
            if len(ids) > context_length:
                raise NotImplementedError("it gives as many ids as there are")
            row[: len(ids)] = ids
        return rows
