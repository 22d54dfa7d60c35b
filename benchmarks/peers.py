"""Other implementations of CLIP, as engines: what is installed takes part, what isn't doesn't.

- torch eager, and torch.compile, in float32 and by autocast in bfloat16: OpenAI's model code, read from the
  clip-anytorch wheel (`pip install torch; pip install --no-deps clip-anytorch`), texts padded to the whole context;
- onnxruntime alone: the same code exported by torch, as most who serve CLIP with ONNX Runtime have it;
- openvino exported: the same code converted by OpenVINO (`pip install openvino`), in float32, in bfloat16, and in int8
  by NNCF's defaults (`pip install nncf`);
- transformers: its CLIPModel (ViTs only) in float32 and bfloat16, texts padded to the longest of the batch; and
  sentence-transformers, which calls it;
- faster-clip: the images of ViT-B-32 in Rust, with weights in 8 bits (`pip install faster-clip`).
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

from peers_exported import OnnxRuntimeAlone, OpenVinoExported, OpenVinoExportedBfloat16, OpenVinoInt8
from peers_torch import TorchCompiled, TorchCompiledBfloat16, TorchEagerBfloat16, TorchTuned
from peers_torch import TorchEager as TorchEager
from peers_transformers import FasterClip, SentenceTransformers, TransformersBfloat16
from peers_transformers import Transformers as Transformers

from clipref.config import PUBLISHED
from clipref.weights import Checkpoint

PEERS: tuple[type[Any], ...] = (
    TorchEager,
    TorchEagerBfloat16,
    TorchCompiled,
    TorchCompiledBfloat16,
    OnnxRuntimeAlone,
    OpenVinoExported,
    OpenVinoExportedBfloat16,
    OpenVinoInt8,
    Transformers,
    TransformersBfloat16,
    SentenceTransformers,
    FasterClip,
)
TUNED: tuple[type[Any], ...] = (TorchTuned,)  # which take minutes until they run


def installed(checkpoint: Checkpoint, tuned: bool = False) -> list[Any]:
    """The peers that can run here and have this architecture; with those that tune themselves, if asked."""
    known = (*PEERS, *(TUNED if tuned else ()))
    return [peer for peer in known if all(map(_has, peer.needs)) and _fits(peer, checkpoint)]


def _fits(peer: type[Any], checkpoint: Checkpoint) -> bool:
    """transformers has no CLIP whose image tower is a ResNet; faster-clip has one model."""
    if peer is FasterClip:
        return checkpoint.config.vision == PUBLISHED["clip/ViT-B-32"].vision
    return checkpoint.config.vision.kind == "vit" or not issubclass(peer, Transformers)


def _has(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
