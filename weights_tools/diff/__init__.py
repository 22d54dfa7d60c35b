"""What differs between two checkpoints, tensor by tensor, and what that does to embeddings.

    from clipref.weights_tools.diff import diff
    difference = diff("clip/ViT-B-32", "mine.safetensors")
    difference.same, difference.tensors[0].change, difference.embeddings

Whatever layout or file they lie in: names are this project's (weights_tools/layouts.py).
"""

from __future__ import annotations

from .difference import Difference as Difference
from .difference import TensorChange as TensorChange
from .difference import diff as diff
