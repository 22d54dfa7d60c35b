"""Embeddings and ids of open_clip itself: an oracle in a process of its own.

`python -m tests.open_clip_embeddings ROOT` opens each folder of ROOT, in open_clip's layout, by its schema for local
ones, embeds the folder's `inputs.safetensors` ("pixels", "ids") in float64, makes ids of the texts in its `texts.json`,
and writes `outputs.safetensors`; `oracle_embeddings` runs that. open_clip's package needs torchvision, which is found
as torchvision_pixels.py says.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def write_inputs(folder: Path, pixels: np.ndarray, ids: np.ndarray, texts: Sequence[str]) -> None:
    """What is asked of the model in a folder."""
    save_file({"pixels": pixels, "ids": ids}, folder / "inputs.safetensors")
    (folder / "texts.json").write_text(json.dumps(list(texts)))


def oracle_embeddings(root: Path) -> dict[str, dict[str, np.ndarray]]:
    """Of each folder by name, "image" and "text" [N, E] float64, and "tokens" [N, T] if texts were asked for."""
    places = [os.environ.get("CLIPREF_TORCHVISION", ""), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in places if place)}
    subprocess.run([sys.executable, "-m", "tests.open_clip_embeddings", str(root)], check=True, env=environment)
    return {path.parent.name: load_file(path) for path in root.glob("*/outputs.safetensors")}


def main(root: str) -> None:
    """Open, embed, write."""
    from .torchvision_pixels import import_torchvision

    import_torchvision()
    import open_clip
    import torch

    for folder in Path(root).iterdir():
        inputs, texts = load_file(folder / "inputs.safetensors"), json.loads((folder / "texts.json").read_text())
        model = open_clip.create_model(f"local-dir:{folder}").double().eval()
        with torch.inference_mode():
            found = {
                "image": model.encode_image(torch.from_numpy(inputs["pixels"].astype(np.float64))).numpy(),
                "text": model.encode_text(torch.from_numpy(inputs["ids"])).numpy(),
            }
        if texts:
            found["tokens"] = open_clip.get_tokenizer(f"local-dir:{folder}")(texts).numpy()
        save_file(found, folder / "outputs.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
