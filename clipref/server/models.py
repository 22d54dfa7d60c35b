"""Models as they are served: by the names that clients use, each tower in memory while it is used, and alone.

A tower is an object of its own, opened from the same file, so that one of them can be given up while the other is in
use. Nothing is loaded twice at once: a tower belongs to the thread of its batcher.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..backends import load, traits
from ..clip import CLIP
from ..config import NoTower
from ..hub import HUB_PREFIX
from ..lazy import available_threads
from ..loading import preprocessor
from .batching import Batcher, Observer
from .refusals import Refusal, wrong

Array: TypeAlias = NDArray[Any]
Kind: TypeAlias = Literal["image", "text"]

# Items of a batch: on a CPU more images at a time gain nothing. And were all that wait taken together, their clients
# would all send the next at the same moment, and the engine would wait for its decoding (16 clients: 85 % of
# embed_images' rate at 32 images, 91 % at 12).
LARGEST_BATCH = {"image": 12, "text": 64}

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of glibc's malloc.h
LARGE_BLOCK = 2**20  # bytes


class Tower:
    """One tower of a model, in memory from its first use until `unload`. Of one thread."""

    def __init__(self, opened: CLIP, kind: Kind) -> None:
        self._opened = opened
        self.kind: Kind = kind
        self._model: CLIP | None = None

    @property
    def loaded(self) -> bool:
        """Whether it is in memory, or on its way there."""
        return self._model is not None

    def model(self) -> CLIP:
        """The model of which this tower, and only this one, is used."""
        if self._model is None:
            self._model = copy.copy(self._opened)  # opened anew, and refused where other weights are there by now
        return self._model

    def warm_up(self) -> None:
        """Run it once, in each way that requests will run it."""
        model = self.model()
        if self.kind == "text":
            model.encode_text(model.tokenize([""]))
            return
        side = model.config.vision.resolution
        for count in {1, available_threads()}:  # some backends share a batch out to sessions of their own
            model.encode_image(np.zeros((count, 3, side, side), np.float32))

    def unload(self) -> None:
        """Give its memory back to the system."""
        self._model = None
        gc.collect()
        if sys.platform == "linux":
            with suppress(OSError, AttributeError):  # another C library
                ctypes.CDLL(None).malloc_trim(0)

    def encode_pixels(self, pixels: list[Array]) -> Array:
        """Pixels, each [3, R, R] -> embeddings [N, E]."""
        return self.model().encode_image(np.stack(pixels))

    def embed_texts(self, texts: list[str]) -> Array:
        """Texts, each known to fit or meant to be cut -> embeddings [N, E]."""
        return self.model().embed_text(texts, truncate=True)


class Served:
    """One model: its names, its two towers, and a batcher for each."""

    def __init__(
        self, name: str, opened: CLIP, *, observe: Callable[[str], Observer], mixes: bool | None = None
    ) -> None:
        """`mixes`: whether items of different requests share a batch; unless given, where precision allows it."""
        self.name = name
        self.opened = opened
        self.config = opened.config
        self.same_bits = traits(load(opened.backend)).same_bits_in_any_batch
        # The neighbours in a batch decide how values are rounded to 8 bits.
        self.mixes = opened.precision != "int8" if mixes is None else mixes
        has = {"image": not isinstance(self.config.vision, NoTower), "text": not isinstance(self.config.text, NoTower)}
        self.towers: dict[str, Tower] = {}
        self.images: Batcher[Array, Array] | None = None
        self.texts: Batcher[str, Array] | None = None
        if has["image"]:
            tower = self.towers["image"] = Tower(opened, "image")
            self.images = self._batcher("image", tower.encode_pixels, observe)
        if has["text"]:
            tower = self.towers["text"] = Tower(opened, "text")
            self.texts = self._batcher("text", tower.embed_texts, observe)

    def _batcher(self, kind: str, compute: Callable[[list[Any]], Any], observe: Callable[[str], Observer]) -> Any:
        return Batcher(kind, compute, largest=LARGEST_BATCH[kind], mixes=self.mixes, observer=observe(kind))

    @property
    def batchers(self) -> dict[str, Batcher[Any, Array]]:
        """Those of the towers that there are."""
        found = {"image": self.images, "text": self.texts}
        return {kind: batcher for kind, batcher in found.items() if batcher is not None}

    def pixels_of(self, max_pixels: int) -> Callable[[bytes], Array]:
        """What makes an image file's pixels [3, R, R]."""
        return preprocessor(self.config, None, max_pixels)

    def image_batcher(self) -> Batcher[Array, Array]:
        """Raises Refusal where there is no such tower."""
        if self.images is None:
            raise wrong(f"{self.name} has no image tower: it embeds texts only.", "model")
        return self.images

    def text_batcher(self) -> Batcher[str, Array]:
        """Raises Refusal where there is no such tower."""
        if self.texts is None:
            raise wrong(f"{self.name} has no text tower: it embeds images only.", "model")
        return self.texts

    async def unload_idle(self, seconds: float) -> None:
        """Give up each tower that wasn't used for so long."""
        for kind, batcher in self.batchers.items():
            tower = self.towers[kind]
            if tower.loaded and batcher.idle_seconds > seconds:
                await batcher.call(tower.unload)

    def as_json(self) -> dict[str, Any]:
        """As /info has it."""
        config = self.config
        return {
            "id": self.name,
            "weights": self.opened.digest,
            "backend": self.opened.backend,
            "precision": self.opened.precision,
            "fidelity": self.opened.fidelity,
            "embedding_length": config.embed_dim,
            "resolution": None if isinstance(config.vision, NoTower) else config.vision.resolution,
            "context_length": None if isinstance(config.text, NoTower) else config.text.context_length,
            "towers": sorted(self.towers),
            "upright": config.preprocess.upright,
            "mixes_requests_in_a_batch": self.mixes,
            "same_bits_in_any_batch": self.same_bits,
        }


def spellings(name: str) -> frozenset[str]:
    """The names that a model is asked for by: OpenAI's, roboflow's and immich's of a published one, a folder's own."""
    plain = name.removeprefix(HUB_PREFIX)
    return frozenset(normal(found) for found in (name, plain, plain.rstrip("/").rpartition("/")[2]))


def normal(name: str) -> str:
    """One spelling for all: "ViT-B/32", "clip/ViT-B-32" and "ViT-B-32__openai" are "vit-b-32"."""
    found = name.lower().removeprefix("clip/").removesuffix("__openai")
    found = re.sub(r"[/@]", "-", found)
    return f"{found}px" if found.endswith("-336") else found


class Models:
    """The models that are served, the first of which answers where none is named."""

    def __init__(self, served: Sequence[Served]) -> None:
        self.served = list(served)
        self._by_name: Mapping[str, Served] = {
            spelling: model for model in reversed(self.served) for spelling in spellings(model.name)
        }

    def find(self, name: object, param: str) -> Served:
        """The model of a name, or the default one for None. Raises Refusal that names those there are."""
        if name is None or name == "":
            return self.served[0]
        found = self._by_name.get(normal(name)) if isinstance(name, str) else None
        if found is None:
            there = ", ".join(model.name for model in self.served)
            asked = f"No model {name[:80]!r}" if isinstance(name, str) else "The model's name is no text"
            raise Refusal(404, f"{asked}; this server has: {there}.", code="model_not_found", param=param)
        return found


def give_memory_back_early() -> None:
    """Let the C library return large blocks to the system when they are freed, and keep few heaps.

    Threads that decode each have a heap of their own otherwise, and after one large picture glibc keeps blocks of up to
    32 MB in it (mallopt(3), M_MMAP_THRESHOLD). Measured with benchmarks/serving_load.py, 10,000 requests to the
    embedded model: 124 MB in the end instead of 253. Nothing where the C library is another one.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(None)
            library.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
            library.mallopt(M_ARENA_MAX, 1)
