"""The towers under torch, on its CPU or a GPU: `pip install 'clipref[torch]'`.

The operations of clipref.ops in torch's own functions; the towers that call them are clipref's, unchanged. Weights are
placed on the device once, inputs and embeddings travel once a batch, and what comes out is numpy's. Training calls the
same operations (weights_tools/shapes/train.py).

A precision below float32 is for weights and activations both; torch's kernels add up in float32. TF32, with which GPUs
round the factors of products to 10 bits, is off unless it is the precision asked for. `mps` is untested. A forked child
computes with one thread, as torch's own workers do, and not on a GPU.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipref.architecture import TowerConfig
from clipref.backends import Traits
from clipref.engine import check_threads
from clipref.errors import BackendError
from clipref.lazy import no_fork, once, once_a_process

from .fold import fold_norms

if TYPE_CHECKING:
    import torch

Array: TypeAlias = NDArray[Any]
Tensor: TypeAlias = "torch.Tensor"

# Numbers of an item's widest activation that go through together: on a CPU what its caches hold, on a GPU what keeps
# it busy and leaves most of its memory to weights.
WIDEST_ON_CPU, WIDEST = 2**25, 2**29
# torch's switches for TF32 are the whole process's: one tower at a time, so that none runs with another's.
_switches = once_a_process(threading.Lock)


@once
def _prepare_forks() -> None:
    """The threads of OpenMP stay behind in a fork, and a child that calls for them would wait for ever."""
    import torch

    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def _speed(precision: str, kind: str, features: frozenset[str]) -> float:
    if precision == "float32":
        return 1.8 if kind == "vit" else 2.1
    if precision == "bfloat16":
        return 7.0 if "amx_bf16" in features else 3.0 if "avx512_bf16" in features else 0.1
    return 0.1 if precision in ("tf32", "float16") else 0.0


TRAITS = Traits(
    {
        "float32": "graded float32",
        "float64": "within 1e-13 of the reference",
        "tf32": "float32 on a CPU; graded float16 on an H100",
        "bfloat16": "graded bfloat16; cosine 0.9999 with exact embeddings of ViT-B-32",
        "float16": "graded float16",
    },
    speed=_speed,
)


class TorchOps:
    """The operations of clipref.ops on torch's tensors, whatever device and dtype those have."""

    def __init__(self) -> None:
        with no_fork:
            import torch
            import torch.nn.functional
        self.torch, self.functional = torch, torch.nn.functional

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        # Rows with gaps between them, such as the first position of each item, torch multiplies item by item, and in
        # bfloat16 copies the weight for each.
        return self.functional.linear(x.contiguous(), weight, bias)

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.functional.layer_norm(x, weight.shape, weight, bias, 1e-5)

    def quick_gelu(self, x: Tensor) -> Tensor:
        return x * self.torch.sigmoid(1.702 * x)

    def gelu(self, x: Tensor) -> Tensor:
        return self.functional.gelu(x)

    def relu(self, x: Tensor) -> Tensor:
        return self.functional.relu(x)

    def softmax(self, x: Tensor) -> Tensor:
        return self.torch.softmax(x, -1)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
        mask = None if visible is None else visible[:, None]
        return self.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def conv2d(
        self, x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, bias: Tensor | None = None
    ) -> Tensor:
        return self.functional.conv2d(x, weight, bias, stride=stride, padding=padding)

    def batch_norm(self, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
        return self.functional.batch_norm(x, running_mean, running_var, weight, bias, False, 0.0, 1e-5)

    def avg_pool(self, x: Tensor, size: int) -> Tensor:
        return self.functional.avg_pool2d(x, size)

    def prepend_mean(self, x: Tensor) -> Tensor:
        return self.torch.cat([x.mean(1, keepdim=True), x], 1)

    def prepend_token(self, x: Tensor, token: Tensor) -> Tensor:
        return self.torch.cat([token.to(x.dtype).expand(x.shape[0], 1, -1), x], 1)

    def add_positions(self, x: Tensor, positional_embedding: Tensor, positions: Tensor | None = None) -> Tensor:
        rows = positional_embedding[: x.shape[1]] if positions is None else self.embed(positions, positional_embedding)
        return x + rows

    def embed(self, ids: Tensor, weight: Tensor) -> Tensor:
        return self.functional.embedding(ids, weight)

    def take(self, x: Tensor, positions: Tensor) -> Tensor:
        return self.torch.take_along_dim(x, positions[:, :, None], 1)


class PlacedTorchOps(TorchOps):
    """The same on a device, in a precision, from numpy's arrays to numpy's arrays."""

    def __init__(self, device: str, precision: str, compiled: bool) -> None:
        super().__init__()
        torch = self.torch
        self.device = torch.device(device)
        self.tf32, self.compiled = precision == "tf32", compiled
        self.process = os.getpid()
        _prepare_forks()
        # float32 and float64 stay what they are as arrays.
        self.narrow: Any = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)

    def place(self, array: Array) -> Tensor:
        """A copy of a numpy array on the device; integers are int64, as torch indexes with them."""
        dtype = np.int64 if array.dtype.kind in "iu" else array.dtype
        on_cpu = self.device.type == "cpu"
        # The way to a GPU is a copy already. torch warns of arrays that can't be written to.
        copied = on_cpu or not array.flags.writeable
        tensor = self.torch.from_numpy((np.array if copied else np.asarray)(array, dtype, order="C"))
        placed = tensor.to(self.device, self.narrow if array.dtype.kind == "f" else None)
        # Channels of a pixel side by side make convolutions faster on a CPU; on GPUs that wasn't tried.
        return placed.contiguous(memory_format=self.torch.channels_last) if on_cpu and placed.ndim == 4 else placed

    def prepare(self, params: Any) -> Any:
        """A ResNet's norms as part of its convolutions."""
        return fold_norms(params)

    def batch_norm(self, x: Tensor, *norm: Tensor, **named: Tensor) -> Tensor:
        # A norm that `prepare` has made part of its convolution has no parameters left.
        return super().batch_norm(x, *norm, **named) if norm or named else x

    def fetch(self, own: Tensor) -> Array:
        """A result as a numpy array, of float32 if it is narrower."""
        wide = own.float() if self.narrow is not None else own
        found: Array = wide.detach().cpu().numpy()
        return found

    def batch_size(self, tower: TowerConfig) -> int:
        """As many items as the device has room for."""
        limit = WIDEST_ON_CPU if self.device.type == "cpu" else WIDEST
        return max(1, limit // tower.widest)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Without gradients, and with TF32 as asked for, whatever the rest of the program has it set to.

        Raises BackendError in a forked child of a process that has opened a GPU, and where its memory is too small.
        """
        torch = self.torch
        if self.device.type != "cpu" and os.getpid() != self.process:
            raise BackendError(f"A forked process can't use the device {self.device}; start the process by spawn.")
        with torch.inference_mode(), self._memory_errors():
            if self.device.type != "cuda":
                yield
                return
            matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
            with _switches():
                before = matmul.allow_tf32, cudnn.allow_tf32
                matmul.allow_tf32 = cudnn.allow_tf32 = self.tf32
                try:
                    yield
                finally:
                    matmul.allow_tf32, cudnn.allow_tf32 = before

    @contextmanager
    def _memory_errors(self) -> Iterator[None]:
        try:
            yield
        except self.torch.OutOfMemoryError as error:
            reason = str(error).partition("\n")[0]
            raise BackendError(f"{self.device} lacks memory ({reason}); give batches of fewer items.") from error

    def compile(self, tower: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """By torch.compile where that was asked for; lengths that change don't compile anew."""
        return self.torch.compile(tower) if self.compiled else tower


def available() -> None:
    """Raise BackendError where torch is missing."""
    try:
        with no_fork:
            import torch  # noqa: F401
    except ImportError as error:
        raise BackendError(f"It needs torch ({error}): pip install 'clipref[torch]'.") from error


def operations(
    *, device: str = "cpu", precision: str = "float32", compile: bool = False, threads: int | None = None
) -> PlacedTorchOps:
    """The kernel set of the backend `torch`.

    `device`: "cpu", "cuda", "cuda:1", "mps". `precision`: see TRAITS. `compile`: let torch.compile fuse each tower,
    which takes a minute at the first call. `threads`: torch's own number, for the whole process, unless given.
    Raises BackendError for a device that isn't there.
    """
    import torch

    check_threads(threads)
    if not isinstance(compile, bool):
        raise BackendError(f"compile is {compile!r}; expected True or False.")
    try:
        torch.empty(1, device=str(device))
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            there.append("mps")
        reason = str(error).partition("\n")[0]
        raise BackendError(f"torch has no device {device!r} here ({reason}); there are: {', '.join(there)}.") from error
    if threads is not None:
        torch.set_num_threads(threads)
    return PlacedTorchOps(device, precision, compile)
