"""Pixels of torchvision, and of transformers' image processor that stands on it: an oracle in a process of its own.

`python -m tests.torchvision_pixels OUT.safetensors` writes, of each picture of the suite, the levels that torchvision
gives [R, R, 3], "NAME first" and "NAME first, on white" by how they became RGB, and the processor's "NAME pixels"
[3, R, R]; `oracle_pixels` runs that.

A process of its own, because torchvision's operators don't load beside a build of torch for another device, such as the
one for CPUs; without them `import torchvision` fails, and that of transformers with it. So torchvision is installed
apart, `pip install --no-deps --target DIR torchvision==0.28.0`, and found by CLIPREF_TORCHVISION=DIR; without that
variable it is taken from where torch is.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def oracle_pixels() -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays by name, and the versions of what they are from."""
    from safetensors import safe_open

    places = [os.environ.get("CLIPREF_TORCHVISION", ""), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in places if place)}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pixels.safetensors"
        subprocess.run([sys.executable, "-m", "tests.torchvision_pixels", str(out)], check=True, env=environment)
        with safe_open(out, framework="numpy") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["versions"])


def import_torchvision() -> Any:
    """torchvision, whether its operators load or not: of those that its import asks for, only the names are needed."""
    import torch

    folder = next(path for path in map(Path, sys.path) if (path / "torchvision" / "__init__.py").is_file())
    try:
        torch.ops.load_library(str(next((folder / "torchvision").glob("_C*.so"))))
    except (OSError, StopIteration):
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(operators)
    import torchvision

    return torchvision


_KEPT: list[Any] = []  # operators are gone when what defined them is


def main(out: str) -> None:
    """Write the pixels of all pictures."""
    torchvision = import_torchvision()
    import torch
    from PIL import Image
    from safetensors.numpy import save_file
    from torchvision.transforms.v2 import functional
    from transformers import CLIPImageProcessor

    from clipref.conformance.questions.images import PICTURES
    from clipref.conformance.restated import preprocessing

    arrays = {}
    for mode, width, height, side in PICTURES:
        if mode == "I;16":
            continue
        name = f"{mode} {width}x{height} to {side}"
        image = preprocessing.open_png(preprocessing.png(preprocessing.picture(mode, width, height)))
        white = image
        if "A" in image.getbands() or "transparency" in image.info:
            white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image.info.pop("transparency", None)
        for how, source in (("first", image), ("first, on white", white)):
            pixels = torch.from_numpy(np.array(source.convert("RGB"))).permute(2, 0, 1).contiguous()
            # Not its CenterCrop, which rounds offsets as the original does: transformers has a crop of its own.
            resized = functional.resize(pixels, [side], functional.InterpolationMode.BICUBIC, antialias=True)
            top, left = ((length - side) // 2 for length in resized.shape[1:])
            cropped = resized[:, top : top + side, left : left + side]
            arrays[f"{name} {how}"] = np.ascontiguousarray(cropped.permute(1, 2, 0).numpy())
        image = preprocessing.open_png(preprocessing.png(preprocessing.picture(mode, width, height)))
        processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size=side)
        assert processor.backend == "torchvision"
        arrays[f"{name} pixels"] = processor(image, return_tensors="np")["pixel_values"][0]
    versions = {"transformers": importlib.metadata.version("transformers"), "torch": torch.__version__}
    versions["torchvision"] = torchvision.__version__
    save_file(arrays, out, {"versions": json.dumps(versions)})


if __name__ == "__main__":
    main(sys.argv[1])
