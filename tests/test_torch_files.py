"""Reading what torch has saved, without torch: true files to the bit, hostile ones not at all."""

import pickle
import pickletools
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipref import ClipError, WeightsError
from clipref.weights_tools import torch_files
from clipref.weights_tools.stored import safetensors_tensors
from clipref.weights_tools.torch_files import TorchFile, read_torch_file
from clipref.weights_tools.torch_pickle import unpickle

from . import cases
from .hostile_files import BOMBS, FOOLED, HOSTILE, HOSTILE_SAFETENSORS
from .torch_archives import Call, Storage, archive, doubling, dump, honest, opened, pickled, tensor

TORCH = cases.GOLDEN / "torch"


@pytest.mark.parametrize("name", ["vit.pt", "vit.bin", "rn.bin"])
def test_what_torch_saved_is_read_to_the_bit(name: str) -> None:
    file = read_torch_file(TORCH / name)
    if name == "rn.bin":  # as a training run saves it
        inside = "state_dict.module."
        assert all(n.startswith(inside) for n in file.tensors)
        file = TorchFile({n.removeprefix(inside): stored for n, stored in file.tensors.items()}, file.code)
    expected = safetensors_tensors(TORCH / f"{name.split('.')[0]}.safetensors")
    extra = {n for n in file.tensors if n.endswith("num_batches_tracked")}
    assert file.tensors.keys() - extra == expected.keys() | (
        {"input_resolution", "context_length", "vocab_size"} if name == "vit.pt" else set()
    )
    for key, stored in expected.items():
        ours = file.tensors[key]
        assert (ours.dtype, ours.shape) == (stored.dtype, stored.shape)
        assert ours.read().tobytes() == stored.read().tobytes()
    assert "sigmoid(" in str(file.code) if name.endswith(".pt") else file.code is None


def test_the_writer_is_honest(tmp_path: Path) -> None:
    assert np.array_equal(opened(honest(), tmp_path)["w"], np.arange(6, dtype="f4").reshape(2, 3))


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "expected"),
    [
        (0, (3, 2), (1, 3), [[0, 3], [1, 4], [2, 5]]),
        (4, (2,), (1,), [4, 5]),
        (1, (2,), (3,), [1, 4]),
        (5, (), (), 5),
        (6, (0, 3), (3, 1), np.zeros((0, 3))),
    ],
)
def test_views_of_a_storage(offset: int, shape: Any, strides: Any, expected: Any, tmp_path: Path) -> None:
    content = archive(pickled({"w": tensor(offset=offset, shape=shape, strides=strides)}))
    read = opened(content, tmp_path)["w"]
    assert read.shape == shape and read.flags.c_contiguous and np.array_equal(read, expected)


def test_bfloat16_and_what_is_beside_the_tensors(tmp_path: Path) -> None:
    state = {"module.w": tensor(Storage("BFloat16Storage", numel=12)), "module.note": "text"}
    content = archive(
        pickled({"epoch": 3, "state_dict": state, "loss": tensor(), "optimizer": {"state": {0: tensor()}}})
    )
    found = opened(content, tmp_path)
    assert found["state_dict.module.w"].dtype == np.uint16 and found.keys() == {"state_dict.module.w", "loss"}


def test_a_module_may_be_part_of_two(tmp_path: Path) -> None:
    content = archive(b"\x80\x02" + doubling(2, tensor()) + b".")
    assert opened(content, tmp_path).keys() == {"a.a.w", "a.b.w", "b.a.w", "b.b.w"}


@pytest.mark.slow_cases("tuples as keys", "3,000 names", "tuples without end", "300,000 numbers")
@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in BOMBS])
def test_hostile_file(name: str, tmp_path: Path) -> None:
    make, message = HOSTILE[name]
    refused(make(), message, tmp_path)
    assert not FOOLED.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BOMBS))
def test_bomb(name: str, tmp_path: Path) -> None:
    make, message = HOSTILE[name]
    refused(make(), message, tmp_path)


def test_an_unpickler_is_fooled(tmp_path: Path) -> None:
    """What the files above would do to one: so that `not FOOLED.exists()` means something."""
    marker = tmp_path / "fooled"
    pickle.loads(pickled(Call("os", "system", f"touch {marker}")))
    assert marker.exists()


def test_numbers_scattered_over_a_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = archive(pickled({"w": tensor(shape=(2,), strides=(5,))}))
    assert opened(content, tmp_path)["w"].tolist() == [0, 5]
    monkeypatch.setattr(torch_files, "MAX_GAPS", 3)
    with pytest.raises(WeightsError, match="its 2 numbers lie scattered among 6"):
        opened(content, tmp_path)


def refused(content: bytes, message: str, folder: Path) -> None:
    started = time.process_time()
    with pytest.raises(WeightsError) as caught:
        opened(content, folder)
    assert message in str(caught.value) and str(folder) in str(caught.value), caught.value
    assert len(str(caught.value)) < 1000 and time.process_time() - started < 10


@pytest.mark.parametrize("name", ["vit.pt", "rn.bin"])
def test_cut_short_at_every_kilobyte(name: str, tmp_path: Path) -> None:
    content = (TORCH / name).read_bytes()
    for end in [*range(0, len(content), 1024), len(content) - 1]:
        with pytest.raises(WeightsError):
            opened(content[:end], tmp_path)


def reads_or_refuses(content: bytes, folder: Path) -> None:
    """What a reader may do with any bytes at all."""
    with suppress(WeightsError):
        opened(content, folder)


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray((TORCH / data.draw(st.sampled_from(["vit.bin", "vit.pt"]))).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1) | st.integers(len(content) - 3000, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    reads_or_refuses(bytes(content), tmp_path_factory.getbasetemp())


OPCODES = [operation.code.encode("latin-1") for operation in pickletools.opcodes]


@pytest.mark.slow
@settings(deadline=None, max_examples=1000)
@given(
    st.lists(
        st.sampled_from(OPCODES) | st.binary(max_size=4) | st.builds(dump, st.integers(-5, 5) | st.text(max_size=3)),
        max_size=30,
    )
)
def test_random_pickles(parts: list[bytes]) -> None:
    with suppress(WeightsError):
        unpickle(b"\x80\x02" + b"".join(parts) + b".")


@pytest.mark.parametrize("content", HOSTILE_SAFETENSORS, ids=range(len(HOSTILE_SAFETENSORS)))
def test_hostile_safetensors(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.safetensors").write_bytes(content)
    with pytest.raises(ClipError):
        safetensors_tensors(tmp_path / "file.safetensors")
