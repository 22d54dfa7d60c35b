"""What an embedding is made of, and what says which part of an image or a text a cosine comes from.

    from clipref import AutoModel, look
    model = AutoModel.from_pretrained("clipref/shapes-vit")
    look.decompose(model, image="scene.png").scores(model.embed_text("a red circle")).maps  # [1, rows, columns]
"""

from __future__ import annotations

from .decomposition import Decomposition as Decomposition
from .decomposition import Scores as Scores
from .decomposition import decompose as decompose
from .decomposition import direct_effect as direct_effect
