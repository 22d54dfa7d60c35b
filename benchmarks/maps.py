"""Do maps show the object that a text names, and what do they cost?

    python benchmarks/maps.py --model clipref/shapes-vit

A scene has two objects of different colours and shapes, whose masks are known; each is named by a text. A map is scored
by how often a pixel of the named object has a higher value than one of the other (the area under the ROC curve, ties
half): 0.5 is a map that doesn't know the text, whatever else it shows. The control is the same model with the values of
each tensor shuffled (https://arxiv.org/abs/1810.03292): a map that stays good there shows the image and not the model.

`--cost clip/ViT-B-32` times the direct effect against the forward pass that it explains, on synthetic weights.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from clipref import CLIP, AutoModel, look
from clipref.config import PUBLISHED
from clipref.hub import locate
from clipref.weights_tools import synthetic
from clipref.weights_tools.shapes import captions, world

Array: TypeAlias = NDArray[Any]
SIDE = 240


@dataclass(frozen=True)
class Pair:
    """A picture [R, R, 3] uint8 RGB of two objects, a text for each, and where each is: [2, R, R] bool."""

    picture: Array
    texts: tuple[str, str]
    masks: Array


def pair(seed: int) -> Pair:
    """A scene of two objects side by side or one above the other."""
    draw = random.Random(f"pair {seed}")
    while True:
        one, other = draw.sample(world.CLASSES, 2)
        if one[0] != other[0] and one[1] != other[1]:
            break
    places = draw.choice((("left", "right"), ("top", "bottom")))
    background = draw.choice([b for b in world.BACKGROUNDS])
    scenes = [
        world.Scene(colour, shape, draw.choice(("small", "medium")), 1, place, "solid", background, 2 * seed + i)
        for i, ((colour, shape), place) in enumerate(zip((one, other), places, strict=True))
    ]
    pictures = [np.asarray(scene.draw(SIDE)) for scene in scenes]
    masks = np.stack([mask_of(scene) for scene in scenes])
    whole = np.where(masks[1][:, :, None], pictures[1], pictures[0])
    return Pair(whole, (captions.class_prompt(*one), captions.class_prompt(*other)), masks)


def mask_of(scene: world.Scene) -> Array:
    """Where a scene's object is: what looks the same on another background [R, R] bool."""
    one, other = (np.asarray(replace(scene, background=b).draw(SIDE)) for b in ("white", "black"))
    same: Array = (one == other).all(axis=-1)
    return same


def area_under_curve(values: Array, positives: Array, negatives: Array) -> float:
    """The share of pairs of a positive and a negative pixel in which the positive has the higher value, ties half."""
    above, below = values[positives], np.sort(values[negatives])
    wins = (np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")) / 2
    return float(wins.mean() / len(below))


def enlarged(map_: Array, side: int) -> Array:
    """A map [rows, columns] as pixels [side, side], each cell as large as the others."""
    rows, columns = (np.arange(side) * n // side for n in map_.shape)
    return map_[np.ix_(rows, columns)]


def contrast(item: Pair) -> Array:
    """No model at all: how far each pixel's colour is from the picture's median colour."""
    colours = item.picture.astype(float)
    distance: Array = np.abs(colours - np.median(colours, axis=(0, 1))).sum(axis=-1)
    return distance


def maps_of(model: CLIP, item: Pair, methods: tuple[str, ...]) -> Iterator[tuple[str, Array]]:
    """Each method's maps [2, rows, columns], one for each text."""
    pixels = model.trace(item.picture, only="pixels", input_color_format="rgb")["pixels"]
    make: dict[str, Callable[[], Array]] = {
        "direct effect": lambda: look.direct_effect(model, list(item.texts), pixels=pixels).maps,
        "occlusion": lambda: look.occlusion(model, list(item.texts), pixels=pixels).maps,
        "RISE": lambda: look.rise(model, list(item.texts), pixels=pixels).maps,
        "rollout": lambda: np.stack([look.rollout(model, pixels=pixels).map] * 2),
        "colour contrast": lambda: np.stack([contrast(item)] * 2),
    }
    for method in methods:
        yield method, make[method]()


def localisation(model: CLIP, items: list[Pair], methods: tuple[str, ...]) -> dict[str, float]:
    """The mean area under the curve of each method, over both texts of all scenes: the named object, the other one."""
    found: dict[str, list[float]] = {method: [] for method in methods}
    for item in items:
        for method, maps in maps_of(model, item, methods):
            for i, values in enumerate(maps):
                large = enlarged(values, SIDE)
                found[method].append(area_under_curve(large, item.masks[i], item.masks[1 - i]))
    return {method: float(np.mean(values)) for method, values in found.items()}


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
    parser.add_argument("--methods", default="direct effect,occlusion,RISE,rollout,colour contrast")
    parser.add_argument("--cost", choices=PUBLISHED, metavar="MODEL")
    args = parser.parse_args()
    if args.cost:
        cost(args.cost)
    items = [pair(seed) for seed in range(args.scenes)]
    for name in args.model or []:
        model = AutoModel.from_pretrained(name)
        for method, area in localisation(model, items, tuple(args.methods.split(","))).items():
            print(f"{name}  {method:16} {area:.3f}", flush=True)
        areas: dict[str, list[float]] = {"direct effect": [], "occlusion": []}
        for seed in range(args.shuffles):
            with tempfile.TemporaryDirectory() as folder:
                control = AutoModel.from_pretrained(
                    shuffled(name, Path(folder) / "shuffled", seed), backend="reference"
                )
                for method, area in localisation(control, items, tuple(areas)).items():
                    areas[method].append(area)
        for method, values in areas.items():
            if values:
                spread = f"{min(values):.3f} to {max(values):.3f}, deviation {np.std(values):.3f}"
                print(f"{name}  {method:16} {np.mean(values):.3f}  shuffled {len(values)} times: {spread}", flush=True)


if __name__ == "__main__":
    main()
