"""A folder of photographs, files to vectors, against the engine on pixels that are ready and against decoding alone.

    python benchmarks/pipeline.py [--photos 2000] [--model clip/ViT-B-32] [--backend onnx] [--precision PRECISION]
        [--rounds 2] [--json FILE]

The photographs are drawn into a temporary folder: JPEGs of about 500 x 400. Engine, decoding (with the preprocessing
behind it), the whole, and the whole as `clipref embed` does it take turns on the same threads. The share is the slower
of the two over the whole: 100 % would be a pipeline in which the faster one costs nothing. Where both need all threads,
their sum is what the whole costs without a gap; it stands beside. The vectors are compared with those of each file
alone first. Weights are synthetic. Wall time: the figures mean something on an idle machine only.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measuring import alternate, error_of, machine, write_json
from PIL import Image

from clipref import CLIP, AutoModel
from clipref.cli.embed import embed_in_batches
from clipref.cli.walk import Found
from clipref.config import PUBLISHED
from clipref.weights_tools import synthetic


def draw_photos(folder: Path, count: int) -> list[str]:
    """Paths of so many JPEGs, smooth with noise, no two of one size in a row."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    paths = []
    for i in range(count):
        width, height = (int(side) for side in generator.integers((440, 340), (560, 460)))
        coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        fine = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
        noisy = (fine + generator.integers(-12, 13, fine.shape)).clip(0, 255).astype(np.uint8)
        paths.append(str(folder / f"{i}.jpg"))
        Image.fromarray(noisy).save(paths[-1], quality=85)
    return paths


class Nothing:
    """An engine that takes no time."""

    def __init__(self, model: CLIP) -> None:
        self.embed_dim = model.config.embed_dim

    def encode_image(self, pixels: Any) -> Any:
        """[N, 3, R, R] -> [N, E]"""
        return np.ones((len(pixels), self.embed_dim), np.float32)


def measure(model: CLIP, paths: list[str], rounds: int) -> dict[str, float]:
    """Medians of seconds: the whole, the engine, decoding, the command; and shares, medians of each round's.

    `share`: the slower of engine and decoding over the whole. `both`: their sum over the whole. `embed_share`: the
    whole over the command's.
    """
    side, engine = model.config.vision.resolution, model.engine
    ready = np.random.default_rng(0).uniform(-1.8, 2.1, (32, 3, side, side)).astype(np.float32)

    def computed() -> None:
        for start in range(0, len(paths), 32):
            model.encode_image(ready[: len(paths) - start])

    def decoded() -> None:
        model.engine = Nothing(model)  # type: ignore[assignment]
        try:
            model.embed_images(paths)
        finally:
            model.engine = engine

    def commanded() -> None:
        args = argparse.Namespace(normalize=False, batch_size=32, truncate=False, keep_going=False)
        found = Found(images=[Path(path) for path in paths])
        done = sum(len(rows) for _, rows in embed_in_batches(model, found, [], args))
        assert done == len(paths)

    calls = {
        "files to vectors": lambda: model.embed_images(paths),
        "engine": computed,
        "decoding": decoded,
        "clipref embed": commanded,
    }
    taken = alternate(calls, rounds)
    whole, engines, decoding, command = taken.values()
    shares = {
        "share": [max(e, d) / w for w, e, d in zip(whole, engines, decoding, strict=True)],
        "both": [(e + d) / w for w, e, d in zip(whole, engines, decoding, strict=True)],
        "embed_share": [w / c for w, c in zip(whole, command, strict=True)],
    }
    return {name: statistics.median(values) for name, values in (taken | shares).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--model", default="clip/ViT-B-32", choices=PUBLISHED)
    parser.add_argument("--backend", default="onnx")
    parser.add_argument("--precision")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    options: dict[str, Any] = {} if args.precision is None else {"precision": args.precision}
    with tempfile.TemporaryDirectory() as name:
        folder = synthetic.write(Path(name) / "model", PUBLISHED[args.model], 0, "plain", "float32")
        model = AutoModel.from_pretrained(folder, backend=args.backend, **options)
        paths = draw_photos(Path(name) / "photos", args.photos)
        error = error_of(model.embed_images(paths[:64]), np.concatenate([model.embed_image(p) for p in paths[:64]]))
        found = measure(model, paths, args.rounds)
    timed = ("files to vectors", "engine", "decoding", "clipref embed")
    each = ", ".join(f"{key} {found[key] / len(paths) * 1e3:.2f}" for key in timed)
    print(
        f"{len(paths)} photographs, {args.model}, {args.backend} {model.precision}, {machine()}: "
        f"ms each: {each}; share {found['share']:.0%}, engine and decoding together {found['both']:.0%}; clipref embed "
        f"at {found['embed_share']:.0%} of embed_images; error against one at a time {error:.1e}"
    )
    write_json(args.json, found | {"machine": machine(), "photos": len(paths), "error": error})


if __name__ == "__main__":
    main()
