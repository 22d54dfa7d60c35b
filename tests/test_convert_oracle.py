"""What torch and transformers save themselves, converted without them: the same bits, the same embeddings."""

import gc
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref.config import ClipConfig, TextConfig, ViTConfig
from clipref.engine import NumpyEngine
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic
from clipref.weights_tools.convert import convert
from clipref.weights_tools.sources import Options

from . import cases
from .tolerances import assert_close

pytestmark = pytest.mark.oracle

FULL = ["clip/ViT-B-32", "clip/RN50"]
CASES = {**{name: cases.TINY[name] for name in ("vit-a", "vit-b", "rn-a", "rn-b")}, **{n: cases.FULL[n] for n in FULL}}
TRANSFORMERS = {name: cases.TINY[name] for name in ("vit-c", "vit-mlp", "vit-gelu")}
TRANSFORMERS["clip/ViT-B-32"] = cases.FULL["clip/ViT-B-32"]
# open_clip's ViT-g-14 but for its depth, its vocabulary and the size of its images.
TRANSFORMERS["ViT-g-14"] = ClipConfig(
    1024, ViTConfig(56, 14, 1408, 2, 16, 6144, "gelu"), TextConfig(77, 999, 1024, 2, 16, 4096, "gelu")
)


def checkpoint(folder: Path, config: ClipConfig) -> Checkpoint:
    return Checkpoint(synthetic.write(folder / "checkpoint", config, cases.SEED, "trained"))


def options(name: str, config: ClipConfig) -> Options:
    """What the files of a published size tell of themselves, and those of a tiny one can't."""
    if name in FULL:
        return Options()
    return Options(**cases.heads_of(config))


def same_bits(converted: Path, theirs: Mapping[str, Any]) -> None:
    """Every tensor of ours is one of theirs, to the bit, and none of theirs is lost but what doesn't matter."""
    file = Checkpoint(converted).file
    rest = {name for name in theirs if name not in file.shapes}
    assert all(name.endswith(("num_batches_tracked", "_resolution", "_length", "vocab_size")) for name in rest), rest
    for name, shape in file.shapes.items():
        tensor = theirs[name].contiguous()
        assert (
            tuple(tensor.shape) == shape
            and {"torch.float16": "F16", "torch.float32": "F32"}[str(tensor.dtype)] == file.dtypes[name]
        )
        assert tensor.numpy().tobytes() == file.stored(name).tobytes(), name


def same_embeddings(converted: Path, config: ClipConfig, oracle: Any) -> None:
    """What the converted folder gives, against the oracle that saved it, both in float64."""
    engine = NumpyEngine(Checkpoint(converted), "float64")
    assert engine.config == config
    pixels, ids = cases.pixels(config, 2), cases.ids(config, 2)
    assert_close(engine.encode_image(pixels), oracle.encode_image(pixels), "oracle float64")
    assert_close(engine.encode_text(ids), oracle.encode_text(ids), "oracle float64")


@pytest.mark.parametrize("name", CASES)
def test_openais_archives(name: str, tmp_path: Path) -> None:
    import torch

    from . import oracles, torch_writers

    original = checkpoint(tmp_path, CASES[name])
    state = torch_writers.save_torchscript(tmp_path / "model.pt", original)
    converted = convert(tmp_path / "model.pt", tmp_path / "ours", options(name, CASES[name]))
    same_bits(converted, state)
    same_embeddings(converted, CASES[name], oracles.OpenAI(original, torch.float64))
    gc.collect()


def test_a_scripted_archive(tmp_path: Path) -> None:
    """Scripting leaves other things in the pickle than tracing does: lists, whole numbers, constants."""
    import torch

    from . import torch_writers

    original = checkpoint(tmp_path, cases.TINY["rn-a"])
    model = torch_writers.openai_module(original)
    first = model.visual.layer1  # the whole of OpenAI's code can't be scripted by this torch

    class Whole(torch.nn.Module):  # type: ignore[misc]
        sizes: list[int]

        def __init__(self) -> None:
            super().__init__()
            self.layer1, self.sizes, self.rate, self.label = first, [64, 19], 0.5, "RN"

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer1(x) * self.rate + self.sizes[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Whole()), str(tmp_path / "scripted.pt"))
    from clipref.weights_tools.torch_files import read_torch_file

    file = read_torch_file(tmp_path / "scripted.pt")
    state = {f"layer1.{n}": x for n, x in model.visual.layer1.state_dict().items()}
    assert file.tensors.keys() == state.keys()
    assert all(file.tensors[n].read().tobytes() == x.numpy().tobytes() for n, x in state.items())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_torch_save(name: str, training: bool, tmp_path: Path) -> None:
    import torch

    from . import oracles, torch_writers

    original = checkpoint(tmp_path, CASES[name])
    state = torch_writers.save_state_dict(tmp_path / "model.bin", original, training=training)
    settled = options(name, CASES[name])
    converted = convert(
        tmp_path / "model.bin",
        tmp_path / "ours",
        Options(activation="quick_gelu", vision_heads=settled.vision_heads, text_heads=settled.text_heads),
    )
    same_bits(converted, state)
    same_embeddings(converted, CASES[name], oracles.OpenAI(original, torch.float64))
    gc.collect()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_other_views_and_dtypes(dtype: str, tmp_path: Path) -> None:
    """Tensors that share a storage, begin in its middle or lie transposed in it."""
    import torch

    from clipref.weights_tools.torch_files import read_torch_file

    whole = torch.randn(7, 5, 3, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    tensors = {"a": whole, "b": whole[2:5], "c": whole.permute(2, 0, 1), "d": whole[1, 3], "e": whole[::2, 1:, 2]}
    tensors |= {"f": torch.nn.Parameter(whole[0]), "g": whole[3, 2, 1]}
    torch.save(tensors, tmp_path / "views.bin")
    for name, stored in read_torch_file(tmp_path / "views.bin").tensors.items():
        expected = tensors[name].detach().contiguous()
        assert stored.shape == tuple(expected.shape)
        bits = expected.view(torch.int16) if expected.element_size() == 2 else expected
        assert stored.read().tobytes() == bits.numpy().tobytes()


@pytest.mark.parametrize("shard", ["5GB", "sharded"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_save_pretrained(name: str, shard: str, tmp_path: Path) -> None:
    import torch

    from . import oracles, torch_writers

    config = TRANSFORMERS[name]
    original = checkpoint(tmp_path, config)
    size = shard if shard != "sharded" else "40KB" if name in cases.TINY else "50MB"
    model = torch_writers.save_pretrained(tmp_path / "theirs", original, shard=size)
    files = list((tmp_path / "theirs").glob("*.safetensors"))
    assert (len(files) > 1) == (shard == "sharded")
    converted = convert(tmp_path / "theirs", tmp_path / "ours")
    file, theirs = Checkpoint(converted).file, model.state_dict()
    # transformers' layout, made once more by the code that the oracle is built with.
    ours = {n: torch.from_numpy(np.array(file.stored(n))) for n in file.shapes}
    renamed = oracles.Transformers.transformers_names(ours)
    assert renamed.keys() == {n for n in theirs if not n.endswith("position_ids")}
    for n, tensor in renamed.items():
        assert tensor.dtype == theirs[n].dtype and torch.equal(tensor, theirs[n]), n
    oracle = oracles.Transformers.__new__(oracles.Transformers)  # around the very model that was saved
    oracle.model, oracle.dtype = model.double(), torch.float64
    same_embeddings(converted, config, oracle)
    gc.collect()
