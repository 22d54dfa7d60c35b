"""Write a model as two ONNX files for any ONNX runtime, one a tower: visual.onnx and textual.onnx.

PATH is what `from_pretrained` takes. Each file is complete in itself, float32, with standard operators only, and takes
any batch; texts may have any number of columns up to the context length. Names and types are those that roboflow's
inference and clip-onnx users expect: `visual.onnx` takes preprocessed pixels [batch, 3, R, R] float32, `textual.onnx`
token ids [batch, columns] int32 (or int64, see --ids); both give embeddings [batch, E], not normalised. The files are
checked with onnx.checker, then run once and compared with the reference.

--roboflow writes a third file, model_config.json, with which the folder is one that roboflow's own AutoModel opens
(inference_models). It always tokenizes in the published vocabulary, so a model with another one is refused.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clipref.cli.common import add_activation_argument
from clipref.config import Activation, NoTower, TextConfig
from clipref.engine import ReferenceEngine
from clipref.errors import BackendError, InputError
from clipref.hub import locate
from clipref.kernels.onnx import is_utf8
from clipref.kernels.recording import complete, record_image, record_text
from clipref.kernels.runtime import onnxruntime
from clipref.vocabulary import DEFAULT_MERGES, read_vocabulary
from clipref.weights import Checkpoint

from .folder import new_folder
from .stored import Array

# The largest error allowed, as a share of the RMS; float32 towers err about 1e-5 at most, a wrong one thousands of
# times as much.
MAX_ERROR = 1e-3
# Vocabulary and context length of the nine published models: openai/CLIP, clip/simple_tokenizer.py and clip/clip.py.
VOCABULARY, CONTEXT = 49408, 77


# What inference_models 0.39 reads of a package of its own: auto_loaders, model_config.json.
ROBOFLOW_CONFIG = {"model_architecture": "clip", "task_type": "embedding", "backend_type": "onnx"}


def export_onnx(
    path: str | Path,
    out: str | Path,
    ids: str = "int32",
    *,
    activation: Activation | None = None,
    roboflow: bool = False,
) -> Iterator[tuple[str, float]]:
    """Write the folder `out`; yields each file's name and how far it is from the reference, relative to the RMS.

    `roboflow`: for the AutoModel of roboflow's inference_models. Raises InputError if `out` exists, or a model isn't
    one that it can open; BackendError if a tower is over 2 GiB or a file fails its check.
    """
    if ids not in ("int32", "int64"):
        raise InputError(f"ids is {ids!r}; expected 'int32' or 'int64'.")
    if not is_utf8(Path(out).absolute()):
        raise InputError(f"{str(out)!r} is not UTF-8, as ONNX Runtime needs a file's path to be; choose another name.")
    checkpoint = Checkpoint(*locate(path, activation=activation))
    if roboflow:
        check_for_roboflow(checkpoint, ids)
    config, reference = checkpoint.config, ReferenceEngine(checkpoint, "float32")
    notes = {"config": json.dumps(config.to_dict()), "logit_scale": repr(checkpoint.logit_scale)}
    with new_folder(out) as folder:
        if not isinstance(config.vision, NoTower):
            side = config.vision.resolution
            pixels = np.random.Generator(np.random.PCG64(0)).uniform(-1.8, 2.1, (2, 3, side, side)).astype(np.float32)
            visual = record_image(config, checkpoint.visual("float32"))
            (folder / "visual.onnx").write_bytes(complete(visual, "visual", notes))
            yield "visual.onnx", check(folder / "visual.onnx", pixels, reference.encode_image(pixels))
        if not isinstance(config.text, NoTower):
            tokens = _tokens(config.text, ids)
            textual = record_text(config, checkpoint.text("float32"), ids)
            (folder / "textual.onnx").write_bytes(complete(textual, "textual", notes))
            yield "textual.onnx", check(folder / "textual.onnx", tokens, reference.encode_text(tokens))
        if roboflow:
            (folder / "model_config.json").write_text(json.dumps(ROBOFLOW_CONFIG, indent=2) + "\n", encoding="utf-8")


def check_for_roboflow(checkpoint: Checkpoint, ids: str) -> None:
    """Raise InputError for what inference_models would open and compute wrongly, or not at all."""
    vision, text = checkpoint.config.vision, checkpoint.config.text
    if isinstance(vision, NoTower) or isinstance(text, NoTower):
        raise InputError("roboflow's AutoModel opens models with both towers; export without --roboflow.")
    own = checkpoint.merges is not None and read_vocabulary(checkpoint.merges) != read_vocabulary(DEFAULT_MERGES)
    if own or (text.vocab_size, text.context_length) != (VOCABULARY, CONTEXT):
        raise InputError(
            f"roboflow's AutoModel always uses CLIP's published vocabulary, of {VOCABULARY} tokens, {CONTEXT} of them "
            f"in a text; this model has its own, of {text.vocab_size} and {text.context_length}, and its texts would "
            "come out wrong. Export without --roboflow."
        )
    if ids != "int32":
        raise InputError("roboflow's AutoModel gives token ids as int32; leave out --ids.")


def _tokens(text: TextConfig, ids: str) -> Array:
    """Two texts, as short and as long as they can be."""
    tokens, end = np.zeros((2, text.context_length), ids), text.end_of_text or text.vocab_size - 1
    tokens[:, 0] = end - 1
    tokens[0, 1], tokens[1, 1:] = end, text.vocab_size - 1 if text.eos_token_id else 7
    tokens[1, -1] = end
    return tokens


def check(path: Path, given: Array, expected: Array) -> float:
    """Raise BackendError unless the file is sound and computes what the reference does; returns how far it is off."""
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
        session: Any = onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: given})
    except (onnx.checker.ValidationError, RuntimeError) as error:
        raise BackendError(f"{path.name} is not sound: {error}") from error
    if found.shape != expected.shape:
        raise BackendError(f"{path.name} gives {found.shape}, expected {expected.shape}.")
    error_ = float(np.abs(found - expected).max() / np.sqrt(np.square(expected).mean()))
    if not error_ <= MAX_ERROR:
        raise BackendError(f"{path.name} is {error_:.2g} of the RMS off the reference; at most {MAX_ERROR} is right.")
    return error_


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("path", metavar="PATH", help="id, folder or file of a model")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    parser.add_argument("--ids", choices=("int32", "int64"), default="int32", help="type of the token ids (int32)")
    parser.add_argument("--roboflow", action="store_true", help="for roboflow's own AutoModel (inference_models)")
    add_activation_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Export, and print each file's error."""
    written = export_onnx(args.path, args.out, args.ids, activation=args.activation, roboflow=args.roboflow)
    for name, error in written:
        print(f"{args.out / name}  checked; {error:.1e} of the RMS off the reference")
