"""Folders that are searched: each an index (clipref/search) and the served model whose vectors it has.

A request never names a file: it names pictures by the numbers that the index has for them. Searches of all requests
take turns in one thread, which reads what other processes have committed by then.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, InputError
from .models import Served
from .refusals import Refusal, wrong

if TYPE_CHECKING:
    from ..search import Index
    from ..search.query import Hit, Known, Restriction, Term

T = TypeVar("T")

# Bytes of vectors as float32, up to which they are kept in memory as such; larger ones are read from the mapped file.
HOT_BYTES = 2**30
# Hits of one answer.
MOST_HITS = 3000
# Thumbnails that are kept, of about 8 KB.
KEPT_THUMBNAILS = 2048
# Cosine from which on two hits are one picture to clipref/search's duplicates and to clip-retrieval's `deduplicate`.
SAME = 0.94


class Folder:
    """One folder, by the name that requests have for it."""

    def __init__(self, name: str, index: Index, served: Served) -> None:
        self.name = name
        self.index = index
        self.served = served
        self.thumbnail = lru_cache(KEPT_THUMBNAILS)(self._thumbnail)

    def search(self, terms: Sequence[Term], restriction: Restriction, top_k: int, **least: Any) -> list[Hit]:
        """Hits of terms that are vectors, best first. Raises Refusal."""
        try:
            return self.index.search(
                terms, top_k=top_k, after=restriction.after, before=restriction.before, path=restriction.glob, **least
            )
        except InputError as error:  # of what the query's vectors are; nothing of a request is in it
            raise wrong(str(error), "terms") from error

    def pictures(self, ids: Sequence[int]) -> dict[int, Known]:
        """Pictures by their numbers, with what is known of each. Raises Refusal for a number that none has."""
        found = self.index.pictures(ids)
        missing = [number for number in ids if number not in found]
        if missing:
            raise Refusal(404, f"{self.name} has no picture {missing[0]}; was it removed since?", param="ids")
        return found

    def thumbnail_of(self, path: str) -> bytes | None:
        """A small JPEG of a picture of the index; None if the file can't be read any more."""
        from ..search.shards import file_of

        try:
            status = os.stat(file_of(self.index.folder, path))
            return self.thumbnail(path, status.st_size, status.st_mtime_ns)
        except (OSError, ImageError):
            return None

    def _thumbnail(self, path: str, size: int, mtime_ns: int) -> bytes:
        from ..search.pages import thumbnail
        from ..search.shards import member_bytes

        place = self.index.folder
        return thumbnail(member_bytes(place, path) or place / path, self.index.upright)


class Folders:
    """The folders of a server, the first of which answers where none is named."""

    def __init__(self, folders: Sequence[Folder] = ()) -> None:
        self._folders = {folder.name: folder for folder in folders}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="clipref-search")

    def find(self, name: object, param: str) -> Folder:
        """The folder of a name, or the first one for None. Raises Refusal that names those there are."""
        if not self._folders:
            raise Refusal(404, "This server searches no folder; its option --search names one.", param=param)
        if name is None or name == "":
            return next(iter(self._folders.values()))
        found = self._folders.get(name) if isinstance(name, str) else None
        if found is None:
            raise Refusal(404, f"No such folder; this server has: {', '.join(self._folders)}.", param=param)
        return found

    def as_json(self) -> list[dict[str, Any]]:
        """As /v1/folders has them."""
        return [{"name": folder.name, "model": folder.served.name} for folder in self._folders.values()]

    async def call(self, function: Callable[[], T]) -> T:
        """The result of a function that reads an index, in the thread for it."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def stop(self) -> None:
        """Let the thread end, and close the indexes."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        for folder in self._folders.values():
            folder.index.close()


def open_folder(folder: str, store: Path | None, served: Sequence[Served]) -> Folder:
    """A folder that was indexed, with the first of the models whose vectors it has. Raises ClipError."""
    from ..search import Index
    from ..search.index import identity_of

    index = Index(folder, store=store)
    index.hot = 4 * len(index) * index.store.embed_dim <= HOT_BYTES
    fitting = [model for model in served if identity_of(model.opened, index.upright) == index.store.identity]
    if not fitting:
        index.store.check_identity(identity_of(served[0].opened, served[0].config.preprocess.upright))
    if not fitting or fitting[0].config.preprocess.upright != index.upright:
        turned = "upright, as without --as-openai" if index.upright else "as they lie in their files: --as-openai"
        raise InputError(f"The index of {folder} has seen photographs {turned}; serve its model in the same way.")
    return Folder(Path(folder).resolve().name, index, fitting[0])


def model_of(folder: str, store: Path | None) -> str:
    """The model that an index was made with. Raises ClipError if there is no index."""
    from ..search import Index

    with Index(folder, store=store) as index:
        return index.store.meta["model"]


def distinct(vectors: NDArray[Any]) -> list[int]:
    """Numbers of the rows [N, E], unit vectors, that are not near an earlier one of them."""
    wide = vectors.astype(np.float32)
    near = np.zeros(len(wide), bool)
    kept = []
    for i, row in enumerate(wide):
        if not near[i]:
            kept.append(i)
            near[i + 1 :] |= wide[i + 1 :] @ row >= SAME
    return kept
