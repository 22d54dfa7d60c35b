"""Answers for an engine in Python in an environment of its own, which has numpy and nothing of clipref.

    PYTHON elsewhere.py ADAPTER.py NAME

A script of its own: the suite starts it with the interpreter of that environment, and speaks with it as with its own
workers (worker.py). Each line of standard input names the folder of a case, and the file for its answer; each line of
output says {} or what was raised. NAME in ADAPTER.py is a factory as python.py has it, whose methods are the verbs.
Needs Python 3.8.
"""

import importlib.util
import json
import os
import struct
import sys
from pathlib import Path

import numpy as np

_DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U8": "u1", "BOOL": "?"}


def read_arrays(path):
    """The arrays of a safetensors file by name."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        array = np.frombuffer(data[begin:end], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        arrays[name] = array.copy()  # which may be written to
    return arrays


def write_arrays(path, arrays):
    """A safetensors file of arrays by name. Raises TypeError for what no such file has."""
    kinds = {np.dtype(dtype): kind for kind, dtype in _DTYPES.items()}
    header, parts, end = {}, [], 0
    for name, array in arrays.items():
        if not isinstance(array, (np.ndarray, np.generic)):
            raise TypeError(f"{name!r} is a {type(array).__name__}, expected an array of numpy")
        if array.dtype not in kinds:
            raise TypeError(f"{name!r} has the dtype {array.dtype}, expected one of {', '.join(map(str, kinds))}")
        parts.append(np.ascontiguousarray(array).tobytes())
        begin, end = end, end + len(parts[-1])
        header[name] = {"dtype": kinds[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(encoded)) + encoded + b"".join(parts))


def texts(inputs):
    return json.loads(inputs["texts"].tobytes())


# Verbs: each one's answer by its name, and its method's arguments. Others take their inputs and give arrays by name.
VERBS = {
    "tokenize": ("ids", lambda x, given: (texts(x), given["context_length"], given["truncate"])),
    "preprocess": ("pixels", lambda x, given: (x["image"].tobytes(), given["resolution"])),
    "encode_image": ("embeddings", lambda x, given: (x["pixels"],)),
    "encode_text": ("embeddings", lambda x, given: (x["ids"],)),
    "embed_image": ("embeddings", lambda x, given: (x["image"].tobytes(),)),
    "embed_text": ("embeddings", lambda x, given: (texts(x),)),
    "compare": ("similarity", lambda x, given: (x["image"].tobytes(), texts(x))),
}


class Unsupported(Exception):
    """A verb that the engine doesn't have."""


class Garbage(Exception):
    """An answer that can't be written."""


class Answers:
    """A factory's engines: one is made for each checkpoint, and the last one kept."""

    def __init__(self, adapter, name):
        # The folders of this script and of the adapter may have files with names such as onnx.
        sys.path[:1] = []
        sys.path.append(str(adapter.parent))
        spec = importlib.util.spec_from_file_location(f"adapter_{adapter.stem}", str(adapter))
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        self._factory = getattr(module, name)
        self._made = ()

    def answer(self, folder, out):
        """Writes the answer of a case. Raises what the engine raises, Unsupported or Garbage."""
        case = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        verb, attributes, checkpoint = case["verb"], case["attributes"], case["checkpoint"]
        inputs = read_arrays(folder / "inputs.safetensors")
        if not self._made or self._made[0] != checkpoint:
            self._made = ()  # before the next one is made, so that two never lie in memory
            self._made = checkpoint, self._factory(None if checkpoint is None else folder / checkpoint)
        method = getattr(self._made[1], verb, None)
        if method is None:
            raise Unsupported(f"has no {verb}")
        if verb == "operation":
            named = {"y": method(**attributes, **inputs)}
        elif verb in VERBS:
            name, arguments = VERBS[verb]
            named = {name: method(*arguments(inputs, attributes))}
        else:
            named = method(**inputs)
        try:
            write_arrays(out, {name: np.asarray(x) if verb == "describe" else x for name, x in named.items()})
        except (TypeError, AttributeError) as problem:
            raise Garbage(f"what it gave can't be written to a file: {problem}") from problem


def main():
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what an engine prints is for people

    def reply(said):
        sys.stdout.flush()
        replies.write(json.dumps(said).encode() + b"\n")
        replies.flush()

    requests.readline()  # the suite's name of the engine
    path, name = sys.argv[1:]
    try:
        answers = Answers(Path(path).absolute(), name)
    except (Exception, SystemExit) as problem:  # whatever somebody's module raises
        reply({"InputError": f"{path} can't be imported: {type(problem).__name__}: {problem}"})
        return
    reply({})
    for line in requests:
        request = json.loads(line)
        try:
            answers.answer(Path(request["case"]), Path(request["out"]))
            reply({})
        except NotImplementedError as problem:
            reply({"raised": "Unsupported", "words": words(problem), "ended": False})
        except BaseException as problem:  # whatever somebody's engine raises is the verdict, SystemExit too
            ended = not isinstance(problem, Exception)
            reply({"raised": type(problem).__name__, "words": words(problem), "ended": ended})


def words(problem):
    return " ".join(str(problem).split())[:300]


if __name__ == "__main__":
    main()
