#!/usr/bin/env python3
"""A whole engine of CLIP as a program: ViTs and texts, Python and numpy, nothing of clipref. Write yours like this.

    engine.py VERB CASE_DIR OUT.safetensors

reads CASE_DIR/case.json and CASE_DIR/inputs.safetensors, writes the outputs to OUT.safetensors and exits with 0, or
with 3 for what it doesn't do: ResNets, tokens, pixels, single operations. Any other exit code is a crash, and what was
printed last is shown with the verdict. Try it: `clipref conformance run "exec:python3 engine.py" --levels towers`.
"""

import json
import math
import struct
import sys
from pathlib import Path

import numpy as np

UNSUPPORTED = 3
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


def write_tensors(path, tensors):
    """The same the other way, for what this engine puts out: float32, and int64."""
    header, parts, end = {}, [], 0
    for name, array in tensors.items():
        kind = "I64" if array.dtype.kind == "i" else "F32"
        parts.append(np.ascontiguousarray(array, DTYPES[kind]).tobytes())
        begin, end = end, end + len(parts[-1])
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(encoded)) + encoded + b"".join(parts))


def linear(x, w, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def layer_norm(x, w, name):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-5)) * w[f"{name}.weight"] + w[f"{name}.bias"]


def activation(x, kind):
    if kind == "quick_gelu":
        return x / (1 + np.exp(-1.702 * x))
    return (0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))).astype(np.float32)


def attention(x, w, name, heads, causal):
    n, length, width = x.shape
    qkv = x @ w[f"{name}.in_proj_weight"].T + w[f"{name}.in_proj_bias"]
    q, k, v = qkv.reshape(n, length, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(2, 3) / np.float32(math.sqrt(width // heads))
    if causal:
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf).astype(np.float32)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    y = (scores / scores.sum(-1, keepdims=True)) @ v
    return linear(y.transpose(0, 2, 1, 3).reshape(n, length, width), w, f"{name}.out_proj")


def transformer(x, w, prefix, config, causal):
    for i in range(config["layers"]):
        block = f"{prefix}resblocks.{i}"
        x = x + attention(layer_norm(x, w, f"{block}.ln_1"), w, f"{block}.attn", config["heads"], causal)
        y = activation(linear(layer_norm(x, w, f"{block}.ln_2"), w, f"{block}.mlp.c_fc"), config["activation"])
        x = x + linear(y, w, f"{block}.mlp.c_proj")
    return x


def encode_image(pixels, w, config):
    patch, width = config["patch_size"], config["width"]
    n, grid = len(pixels), config["resolution"] // patch
    patches = pixels[:, :, : grid * patch, : grid * patch].reshape(n, 3, grid, patch, grid, patch)
    patches = patches.transpose(0, 2, 4, 1, 3, 5).reshape(n, grid * grid, 3 * patch * patch)
    x = patches @ w["visual.conv1.weight"].reshape(width, -1).T
    token = np.broadcast_to(w["visual.class_embedding"], (n, 1, width))
    x = np.concatenate([token, x], 1) + w["visual.positional_embedding"]
    x = layer_norm(x, w, "visual.ln_pre")
    x = transformer(x, w, "visual.transformer.", config, causal=False)
    return layer_norm(x[:, 0], w, "visual.ln_post") @ w["visual.proj"]


def encode_text(ids, w, config):
    x = w["token_embedding.weight"][ids] + w["positional_embedding"][: ids.shape[1]]
    x = transformer(x, w, "transformer.", config, causal=True)
    x = layer_norm(x, w, "ln_final")
    return x[np.arange(len(ids)), ids.argmax(1)] @ w["text_projection"]


def similarity(image, text, logit_scale):
    image, text = (x / np.sqrt((x * x).sum(1, keepdims=True)) for x in (image, text))
    cosines = image @ text.T
    return {"cosines": cosines, "logits": np.exp(logit_scale) * cosines}


def answer(verb, case_dir):
    """The outputs by name; None for what this engine doesn't do."""
    case = json.loads((case_dir / "case.json").read_text(encoding="utf-8"))
    inputs = read_tensors(case_dir / "inputs.safetensors")
    if verb == "similarity":
        return similarity(**inputs)
    if verb not in ("describe", "encode_image", "encode_text"):
        return None
    checkpoint = case_dir / case["checkpoint"]  # which is absolute, or relative to the case
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    vision, text = config["vision"], config["text"]
    if verb == "describe":
        numbers = {"embed_dim": config["embed_dim"], "resolution": vision["resolution"]}
        numbers |= {name: text[name] for name in ("context_length", "vocab_size")}
        return {name: np.array(value) for name, value in numbers.items()}
    if verb == "encode_image" and vision["kind"] != "vit":
        return None
    weights = {name: x.astype("f4") for name, x in read_tensors(checkpoint / "model.safetensors").items()}
    if verb == "encode_image":
        return {"embeddings": encode_image(inputs["pixels"], weights, vision)}
    return {"embeddings": encode_text(inputs["ids"], weights, text)}


def main():
    verb, case_dir, out = sys.argv[1:]
    outputs = answer(verb, Path(case_dir))
    if outputs is None:
        return UNSUPPORTED
    write_tensors(out, outputs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
