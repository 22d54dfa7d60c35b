"""The models there are: what each is, and whether it is on this machine.

Parameters are counted from the configuration, in millions, image and text tower.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

from ..config import PUBLISHED, ClipConfig, Shape, text_shapes, visual_shapes
from ..hub import EMBEDDED, find, home, models
from ..published import MODELS
from ..weights import read_config
from .common import add_json_argument, print_json, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    add_json_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Print a table of all models, or one JSON list of them."""
    found = [description(name) for name in models()]
    if args.json:
        print_json(found)
        return
    head = ("model", "tower", "pixels", "embedding", "parameters", "ImageNet top-1", "on this machine")
    rows = [
        (
            model["id"],
            model["tower"],
            str(model["resolution"]),
            str(model["embed_dim"]),
            f"{model['image_parameters'] / 1e6:.2f} + {model['text_parameters'] / 1e6:.2f} M",
            f"{model['imagenet_top1']:.2%}" if model["imagenet_top1"] else "-",
            model["path"] or "no",
        )
        for model in found
    ]
    print_table([head, *rows])
    print()
    print(
        "A published model is downloaded from Hugging Face when it is first used, or by `clipref download ID`; what was"
    )
    print(f"fetched otherwise, `clipref convert FILE {home()}/ID` puts in its place.")


def description(name: str) -> dict[str, Any]:
    """What there is to say of one model."""
    config, path, published = config_of(name), find(name), MODELS.get(name)
    return {
        "id": name,
        "description": EMBEDDED[name].description if name in EMBEDDED else "OpenAI's weights",
        "tower": config.vision.title,
        "resolution": config.vision.resolution,
        "embed_dim": config.embed_dim,
        "image_parameters": parameters(visual_shapes(config)),
        "text_parameters": parameters(text_shapes(config)),
        "imagenet_top1": published and published.imagenet_top1,
        "repository": published and published.repository,
        "path": None if path is None else str(path),
    }


def config_of(name: str) -> ClipConfig:
    """A known model's configuration, without opening its weights."""
    if name in PUBLISHED:
        return PUBLISHED[name]
    folder = find(name)
    assert folder is not None
    return read_config(folder / "config.json")


def parameters(shapes: dict[str, Shape]) -> int:
    """How many numbers are trained: all but BatchNorm's running statistics."""
    return sum(math.prod(shape) for name, shape in shapes.items() if ".running_" not in name)
