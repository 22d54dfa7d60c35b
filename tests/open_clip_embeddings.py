"""Embeddings and ids of open_clip itself: an oracle in a process of its own.

`python -m tests.open_clip_embeddings FOLDER IN.safetensors OUT.safetensors` opens a folder by open_clip's schema for
local ones and embeds `pixels` and `ids` in float64; each TEXT behind them becomes "tokens". `oracle_embeddings` runs it.
open_clip's package needs torchvision, which is found as torchvision_pixels.py says.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def oracle_embeddings(
    folder: Path, pixels: np.ndarray, ids: np.ndarray, texts: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """ "image" and "text" [N, E] float64, and of texts "tokens" [N, T], from a folder in open_clip's layout."""
    places = [os.environ.get("CLIPREF_TORCHVISION", ""), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in places if place)}
    with tempfile.TemporaryDirectory() as scratch:
        given, out = Path(scratch, "in.safetensors"), Path(scratch, "out.safetensors")
        save_file({"pixels": pixels, "ids": ids}, given)
        command = [sys.executable, "-m", "tests.open_clip_embeddings", str(folder), str(given), str(out), *texts]
        subprocess.run(command, check=True, env=environment)
        return load_file(out)


def main(folder: str, given: str, out: str, *texts: str) -> None:
    """Open, embed, write."""
    from .torchvision_pixels import import_torchvision

    import_torchvision()
    import open_clip
    import torch

    inputs = load_file(given)
    model = open_clip.create_model(f"local-dir:{folder}").double().eval()
    with torch.inference_mode():
        found = {
            "image": model.encode_image(torch.from_numpy(inputs["pixels"].astype(np.float64))).numpy(),
            "text": model.encode_text(torch.from_numpy(inputs["ids"])).numpy(),
        }
    if texts:
        found["tokens"] = open_clip.get_tokenizer(f"local-dir:{folder}")(list(texts)).numpy()
    save_file(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
