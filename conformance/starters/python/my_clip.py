#!/usr/bin/env python3
"""A starter for an engine of CLIP under test, in Python. It answers as it stands, in either of two ways:

    clipref conformance run my_clip:MyClip --levels describe taps similarity
    clipref conformance run "exec:python3 my_clip.py" --levels describe taps similarity

The first runs it in clipref's environment, in a process that stays. The second runs it with any Python, such as that of
another environment (exec:/their/venv/bin/python my_clip.py), and starts it once for each question. Your CLIP belongs
between "yours begins" and "yours ends"; the rest may stay as it is, and what a second way needs may go.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np

DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U8": "u1", "BOOL": "?"}


def read_tensors(path):
    """A safetensors file: the length of a JSON header, the header, the bytes of the tensors."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


class MyClip:
    """Made of a checkpoint's folder, or of None for verbs that need no model. What it has no method for is skipped."""

    def __init__(self, folder):
        self.taps = {}  # activations by the names of their modules in the checkpoint: what a trace answers with
        if folder is not None:
            self.config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
            tensors = read_tensors(Path(folder, "model.safetensors"))
            self.weights = {name: x.astype(np.float32) for name, x in tensors.items()}

    # --- yours begins -------------------------------------------------------------------------------------------------

    def encode_image(self, pixels):
        """Preprocessed pixels [N, 3, R, R] float32 -> embeddings [N, E] float32, not normalised."""
        vision = self.config["vision"]
        if vision["kind"] != "vit":
            raise NotImplementedError(f"no image tower of the kind {vision['kind']!r}")
        # A first activation, to show how a trace is asked: the patches [N, G*G, W], row by row from the top left.
        patch, kernel = vision["patch_size"], self.weights["visual.conv1.weight"]
        n, grid = len(pixels), vision["resolution"] // patch
        cut = pixels.reshape(n, 3, grid, patch, grid, patch).transpose(0, 2, 4, 1, 3, 5)
        self.taps["visual.conv1"] = cut.reshape(n, grid * grid, -1) @ kernel.reshape(len(kernel), -1).T
        raise NotImplementedError("the image tower")  # TODO: return the embeddings; keep more in self.taps on the way

    def encode_text(self, ids):
        """Ids [N, T] int64, padded with 0 -> embeddings [N, E] float32, of the first end of text, vocab_size - 1."""
        self.taps["token_embedding"] = self.weights["token_embedding.weight"][ids]
        raise NotImplementedError("the text tower")  # TODO: the same

    # Declined, as long as there are no such methods: tokenize(texts, context_length, truncate),
    # preprocess(image, resolution), operation(name, **arguments), embed_image(image), embed_text(texts),
    # compare(image, texts). An image is the bytes of a file.

    # --- yours ends ---------------------------------------------------------------------------------------------------

    def trace_image(self, pixels):
        return self._trace(self.encode_image, pixels)

    def trace_text(self, ids):
        return self._trace(self.encode_text, ids)

    def _trace(self, encode, x):
        """The activations that `encode` keeps, and the embeddings if it gets so far."""
        self.taps = {}
        try:
            return {"embeddings": encode(x), **self.taps}
        except NotImplementedError:
            if not self.taps:
                raise
            return self.taps

    def describe(self):
        text = self.config["text"]
        return {
            "embed_dim": self.config["embed_dim"],
            "resolution": self.config["vision"]["resolution"],
            "context_length": text["context_length"],
            "vocab_size": text["vocab_size"],
        }

    def similarity(self, image, text, logit_scale):
        image, text = (x / np.sqrt((x * x).sum(1, keepdims=True)) for x in (image, text))
        cosines = image @ text.T
        return {"cosines": cosines, "logits": np.exp(logit_scale) * cosines}


# --- the second way: my_clip.py VERB CASE_DIR OUT.safetensors ---------------------------------------------------------

DECLINED = 3


def write_tensors(path, tensors):
    """A safetensors file of float32, and int64 for whole numbers."""
    header, parts, end = {}, [], 0
    for name, array in tensors.items():
        kind = "I64" if array.dtype.kind == "i" else "F32"
        parts.append(np.ascontiguousarray(array, DTYPES[kind]).tobytes())
        begin, end = end, end + len(parts[-1])
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(encoded)) + encoded + b"".join(parts))


def answer(engine, verb, inputs, attributes):
    """The outputs of a verb by name, from the method of the same name."""
    method = getattr(engine, verb, None)
    if method is None:
        raise NotImplementedError(verb)
    decoders = {"image": lambda x: x.tobytes(), "texts": lambda x: json.loads(x.tobytes())}  # else they stay arrays
    given = dict(inputs) if verb == "similarity" else {k: decoders.get(k, lambda x: x)(x) for k, x in inputs.items()}
    if verb in ("describe", "similarity", "trace_image", "trace_text"):
        return {name: np.asarray(x) for name, x in method(**given).items()}
    if verb == "operation":
        return {"y": method(**attributes, **given)}
    if verb == "tokenize":
        return {"ids": method(**given, **attributes)}
    if verb == "preprocess":
        return {"pixels": method(**given, **attributes)}
    return {"similarity" if verb == "compare" else "embeddings": method(**given)}


def main():
    if len(sys.argv) != 4:
        sys.exit("usage: my_clip.py VERB CASE_DIR OUT.safetensors")
    verb, case_dir, out = sys.argv[1:]
    case = json.loads(Path(case_dir, "case.json").read_text(encoding="utf-8"))
    folder = None if case["checkpoint"] is None else Path(case_dir, case["checkpoint"])
    inputs = read_tensors(Path(case_dir, "inputs.safetensors"))
    try:
        outputs = answer(MyClip(folder), verb, inputs, case["attributes"])
    except NotImplementedError as problem:
        print(f"declined: {problem}")
        return DECLINED
    write_tensors(out, outputs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
