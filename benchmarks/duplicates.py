"""Near duplicates, measured: what is found, and what is taken for one that is none.

    python benchmarks/duplicates.py scenes [--model clipref/shapes-vit]  # drawn scenes: precision and recall
    python benchmarks/duplicates.py photographs  # the hash alone, on tiles of photographs that share no pixel

Photographs are scikit-image's and scikit-learn's (`pip install scikit-image scikit-learn`).
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def report(**figures: Any) -> None:
    """One line of JSON."""
    print(json.dumps({name: round(x, 4) if isinstance(x, float) else x for name, x in figures.items()}), flush=True)


ALTERATIONS = ("resized", "recompressed", "cropped", "grey", "mirrored")


def altered(image: Any, name: str) -> Any:
    """A picture with one alteration; "recompressed" happens when it is saved."""
    from PIL import ImageOps

    width, height = image.size
    if name == "resized":
        return image.resize((width * 3 // 5, height * 3 // 5))
    if name == "cropped":
        return image.crop((width // 40, height // 40, width - width // 40, height - height // 40))
    if name == "grey":
        return image.convert("L").convert("RGB")
    return ImageOps.mirror(image) if name == "mirrored" else image


def scenes(folder: Path, originals: int, others: int, model_name: str) -> None:
    """Precision and recall over pairs, on drawn scenes with an embedded model, at several thresholds.

    `mixed_groups` have pictures of two originals in them; `chained` counts members that aren't near the group's centre
    themselves, by the rows and hashes of the store, which is what a chain would bring in.
    """
    from clipref import AutoModel
    from clipref.search import Index
    from clipref.search.duplicates import groups
    from clipref.search.hashes import distances
    from clipref.similarity import unit_vectors
    from clipref.weights_tools.shapes import world

    for i in range(originals + others):
        image = world.scene(i).draw(160)
        image.save(folder / f"{i}-.png")
        if i < originals:
            for name in ALTERATIONS:
                quality = 40 if name == "recompressed" else 90
                altered(image, name).save(folder / f"{i}-{name}.jpg", quality=quality)
    with Index(folder, AutoModel.from_pretrained(model_name)) as index:
        index.update()
        rows = {path: unit_vectors(row.astype(np.float32)) for path, row in zip(*index.snapshot(), strict=True)}
        with index.store.reading() as db:
            stored = db.execute("SELECT path, phash FROM image JOIN content USING (slot)").fetchall()
        bits = {path.decode(): np.array([phash], np.int64).view(np.uint64) for path, phash in stored}
        for cosine in (0.8, 0.85, 0.9, 0.95):
            for distance in (4, 6, 8, 10, 12):
                found, _ = groups(index, cosine, distance)
                right = {name: 0 for name in ALTERATIONS}
                wrong = mixed = chained = 0
                for group in found:
                    for member in group.members:
                        apart = float(rows[group.path] @ rows[member.path]) < cosine - 1e-3
                        chained += apart or distances(bits[member.path], bits[group.path][0])[0] > distance
                    names = [group.path, *(member.path for member in group.members)]
                    owners = [name.split("-")[0] for name in names]
                    mixed += len(set(owners)) > 1
                    centre = owners[0]
                    for name, owner in zip(names[1:], owners[1:], strict=True):
                        if owner == centre:
                            which = [each.split("-")[1].split(".")[0] for each in (name, group.path)]
                            right[which[0] or which[1]] += 1  # where an altered one is the centre
                        else:
                            wrong += 1
                total = sum(right.values())
                report(
                    cosine=cosine, distance=distance, precision=total / max(1, total + wrong),
                    recall=total / (originals * len(ALTERATIONS)), mixed_groups=mixed,
                    chained=int(chained), **{name: count / originals for name, count in right.items()},
                )  # fmt: skip


def photographs() -> None:
    """How far alterations of photographs are from their originals in bits, and other originals from each other.

    Originals are tiles of photographs that share no pixel.
    """
    from PIL import Image
    from skimage import data
    from sklearn.datasets import load_sample_images

    from clipref import preprocess
    from clipref.search.hashes import distances, perceptual_hashes

    sources = [getattr(data, name)() for name in ("astronaut", "rocket", "hubble_deep_field", "coffee", "chelsea")]
    sources += load_sample_images().images
    tiles = []
    for source in sources:
        image = Image.fromarray(np.asarray(source)).convert("RGB")
        width, height = image.width // 6, image.height // 5
        for i in range(30):
            left, top = i % 6 * width, i // 6 * height
            tiles.append(image.crop((left, top, left + width, top + height)).resize((320, 240)))

    def hash_of(image: Any, quality: int = 90) -> np.ndarray:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return perceptual_hashes(preprocess(file.getvalue())[None], (1, 1, 1))

    originals = np.concatenate([hash_of(tile) for tile in tiles])
    apart = np.array([distances(originals[i + 1 :], originals[i]).tolist() + [64] * (i + 1) for i in range(len(tiles))])
    near = {
        name: np.array(
            [
                distances(hash_of(altered(tile, name), 40 if name == "recompressed" else 90), own)[0]
                for tile, own in zip(tiles, originals, strict=True)
            ]
        )
        for name in ALTERATIONS
    }
    for distance in (4, 6, 8, 10, 12):
        report(
            what="photographs", originals=len(tiles), distance=distance, pairs_of_others=int((apart <= distance).sum()),
            **{name: float((bits <= distance).mean()) for name, bits in near.items()},
        )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scenes", "photographs"))
    parser.add_argument("--model", default="clipref/shapes-vit", help="an embedded model, for scenes")
    parser.add_argument("--originals", type=int, default=200, help="with five alterations each")
    parser.add_argument("--others", type=int, default=800, help="pictures without any")
    args = parser.parse_args()
    if args.what == "photographs":
        photographs()
    else:
        with tempfile.TemporaryDirectory() as temporary:
            scenes(Path(temporary), args.originals, args.others, args.model)
