"""`clipref diff`: each kind of change, made of every tensor of a checkpoint, is named."""

import numpy as np
import pytest

from clipref.config import tensor_shapes
from clipref.weights_tools import synthetic
from clipref.weights_tools.diff.changes import change_of

from . import cases
from .test_diff import KINDS, bits, low_rank, matrix, quantised

# What a tensor has to be for a change of it to be a change: matrices, and of so many rows and columns.
LEAST = {"row": 2, "column": 2, "low-rank change (rank 1)": 8, "low-rank change (rank 3)": 12,
         "low-rank change (rank 4)": 16, "low-rank change (rank 16)": 64, "retrained": 2}  # fmt: skip


def fits(kind: str, x: np.ndarray) -> bool:
    """Whether a kind of change can be made of a tensor, and can be told there: a small one has too few numbers."""
    least = max((count for what, count in LEAST.items() if what in kind), default=1)
    if kind == "retrained" and min(x.shape, default=0) // 4 >= 40:
        return False  # 40 thin products are a low rank there
    enough = 400 if "zero point" in kind else 32 if "quantised" in kind else 2 if "permuted" in kind else 1
    return min(x.shape, default=1) >= least and (least == 1 or x.ndim == 2) and x.size >= enough


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit-a", "rn-a"])
def test_every_tensor(name: str) -> None:
    """As float32, so that all digits are there: what was float16 is nudged off its grid."""
    config, count = cases.TINY[name], 0
    for tensor in tensor_shapes(config):
        x = synthetic.tensor(config, tensor, 3, "trained", "float32") * np.float32(1.0001)
        for kind, make in KINDS:
            if not fits(kind, x):
                continue
            found, count = change_of(*bits(x), *bits(np.asarray(make(x)).reshape(x.shape))), count + 1
            assert found == kind or (kind == "retrained" and found.startswith("retrained (")), (tensor, x.shape, kind)
    assert count > 500


@pytest.mark.parametrize("axis", [None, 0])
def test_a_zero_point_is_seen_in_half_precision(axis: int | None) -> None:
    """The ends of the steps are rounded there, too, so that numbers lie on them only roughly."""
    half = matrix().astype(np.float16)
    after = quantised(half.astype(np.float32), 8, axis, False).astype(np.float16)
    where = "tensor" if axis is None else "row"
    assert change_of(*bits(half), *bits(after)) == f"quantised to int8 with a zero point, by {where}"
    other = quantised(matrix(seed=5), 8, axis, False).astype(np.float16)
    assert change_of(*bits(half), *bits(other)).startswith("retrained (")


def test_a_low_rank_is_seen_in_half_precision() -> None:
    half = matrix().astype(np.float16)
    assert change_of(*bits(half), *bits(low_rank(half, 3, 1e-2))) == "low-rank change (rank 3)"
