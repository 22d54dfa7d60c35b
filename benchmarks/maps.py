"""Do maps show the object that a text names, and what do they cost?

    python benchmarks/maps.py --model clipref/scenes-vit

Scenes, texts and score are those of `weights_tools.scenes.evaluate.localisation`: 0.5 is a map that doesn't know the
text, whatever else it shows. The control is the same model with the values of each tensor shuffled
(https://arxiv.org/abs/1810.03292): a map that stays good there shows the image and not the model.

`--cost clip/ViT-B-32` times the direct effect against the forward pass that it explains, on synthetic weights.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from clipref import CLIP, AutoModel, look
from clipref.config import PUBLISHED
from clipref.hub import locate
from clipref.weights_tools import synthetic
from clipref.weights_tools.scenes import evaluate
from clipref.weights_tools.scenes.world import Scene

Array: TypeAlias = NDArray[Any]


Method: TypeAlias = Callable[[CLIP, Scene, Array], Array]
METHODS: dict[str, Method] = {
    **evaluate.MAPS,
    "RISE": lambda model, scene, pixels: look.rise(model, list(evaluate.kind_prompts(scene)), pixels=pixels).maps,
    "rollout": lambda model, scene, pixels: np.stack([look.rollout(model, pixels=pixels).map] * 2),
    "colour contrast": lambda model, scene, pixels: np.stack([contrast(scene)] * 2),
}


def contrast(scene: Scene) -> Array:
    """No model at all: how far each pixel's colour is from the picture's median colour."""
    colours = np.asarray(scene.draw()).astype(float)
    distance: Array = np.abs(colours - np.median(colours, axis=(0, 1))).sum(axis=-1)
    return distance


def shuffled(name: str, folder: Path, seed: int) -> Path:
    """A copy of a model in which the values of each tensor are in another order."""
    source = Path(locate(name)[0])
    source = source if source.is_dir() else source.parent
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    generator = np.random.default_rng(seed)
    for key in sorted(tensors):
        flat = tensors[key].reshape(-1)
        tensors[key] = flat[generator.permutation(flat.size)].reshape(tensors[key].shape)
    (folder / "provenance.json").unlink(missing_ok=True)  # it would be of other weights
    save_file(tensors, folder / "model.safetensors")
    return folder


def cost(name: str) -> None:
    """Times and memory of the direct effect and of the whole split, against the reference's forward pass."""
    with tempfile.TemporaryDirectory() as folder:
        path = synthetic.write(Path(folder) / "checkpoint", PUBLISHED[name])
        model = AutoModel.from_pretrained(path, backend="reference")
        side, width = model.config.vision.resolution, model.config.embed_dim
        pixels = np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)
        toward = np.random.default_rng(1).normal(size=(10, width)).astype(np.float32)
        calls: dict[str, Callable[[], Any]] = {
            "forward pass": lambda: model.encode_image(pixels),
            "direct effect": lambda: look.direct_effect(model, toward, pixels=pixels),
            "decompose": lambda: look.decompose(model, pixels=pixels),
        }
        for call in calls.values():
            call()
        times: dict[str, list[float]] = {label: [] for label in calls}
        for _ in range(7):
            for label, call in calls.items():
                started = time.perf_counter()
                call()
                times[label].append(time.perf_counter() - started)
        one = np.median(times["forward pass"])
        error = np.abs(look.decompose(model, pixels=pixels).total() - model.encode_image(pixels)[0]).max()
        print(f"{name}: the parts sum to the embedding within {error:.1e}")
        for label, call in calls.items():
            tracemalloc.start()
            call()
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            took = np.median(times[label])
            print(f"{label:14} {took * 1e3:8.1f} ms  {took / one:5.2f} passes  {peak / 1e6:7.1f} MB beside the weights")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", action="append", help="id or folder, repeatable")
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--shuffles", type=int, default=20)
    parser.add_argument("--methods", default=",".join(METHODS), help="(default: %(default)s)")
    parser.add_argument("--cost", choices=PUBLISHED, metavar="MODEL")
    args = parser.parse_args()
    if args.cost:
        cost(args.cost)
    methods = {name: METHODS[name] for name in args.methods.split(",")}
    for name in args.model or []:
        model = AutoModel.from_pretrained(name)
        for method, area in evaluate.localisation(model, args.scenes, methods).items():
            print(f"{name}  {method:16} {area:.3f}", flush=True)
        areas: dict[str, list[float]] = {method: [] for method in evaluate.MAPS}
        for seed in range(args.shuffles):
            with tempfile.TemporaryDirectory() as folder:
                path = shuffled(name, Path(folder) / "shuffled", seed)
                control = AutoModel.from_pretrained(path, backend="reference")
                for method, area in evaluate.localisation(control, args.scenes).items():
                    areas[method].append(area)
        for method, values in areas.items():
            if values:
                spread = f"{min(values):.3f} to {max(values):.3f}, deviation {np.std(values):.3f}"
                print(f"{name}  {method:16} {np.mean(values):.3f}  shuffled {len(values)} times: {spread}", flush=True)


if __name__ == "__main__":
    main()
