"""`Embed`: pictures to vectors, a batch at a time, inside of whatever runs functions on many machines.

No engine is imported here: one class serves Ray Data, Hugging Face datasets, Daft, DuckDB, or a loop (README.md of this
folder has recipes). A picture that can't be read gives an error beside its empty row, and never ends the run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..clip import CLIP
from ..errors import ImageError, InputError
from ..lazy import available_threads, once_a_process
from ..loading import preprocess_ahead
from ..similarity import finite_embeddings
from .reading import pixels_function

Array: TypeAlias = NDArray[Any]

COLUMNS = ("bytes", "path")


class Embed:
    """A function of batches that can be pickled; the model is opened where it is called, once a process.

    A batch is a mapping with the column "bytes" (contents of image files) or "path"; it comes back with two more,
    "embedding", unit vectors float32 [N, E] whose row is NaN where there is none, and "error", a text or None. A
    pyarrow Table comes back as one, its embeddings as lists of E floats or null, which any reader of Parquet
    understands.

    `model`: a name or path for `AutoModel.from_pretrained`, with `options` of it; or a CLIP, which is opened anew
    where it is unpickled. `threads` that read images; those of the engine are an option of the backend. Pictures are
    turned upright as their EXIF says, unless `upright=False`. Raises InputError for a batch without either column.
    """

    def __init__(
        self,
        model: CLIP | str | os.PathLike[str],
        backend: str = "auto",
        *,
        upright: bool = True,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        self._arguments = (model, backend, upright, threads, options)
        self._model = once_a_process(self._open)

    def __reduce__(self) -> tuple[Any, ...]:
        model, backend, upright, threads, options = self._arguments
        return _embed, (model, backend, upright, threads, options)

    @property
    def model(self) -> CLIP:
        """The model, opened when it is first asked for."""
        return self._model()

    def _open(self) -> CLIP:
        model, backend, _, _, options = self._arguments
        if isinstance(model, CLIP):
            return model
        from ..model import AutoModel

        return AutoModel.from_pretrained(model, backend=backend, **options)

    def __call__(self, batch: Any) -> Any:
        """The batch with "embedding" and "error"."""
        is_table = type(batch).__module__.partition(".")[0] == "pyarrow"
        columns: Mapping[str, Any] = batch.to_pydict() if is_table else batch
        name = next((name for name in COLUMNS if name in columns), None)
        if name is None:
            raise InputError(f"The batch has the columns {', '.join(columns)}; expected 'bytes' or 'path'.")
        rows, errors = self.embed(columns[name])
        if not is_table:
            return {**batch, "embedding": rows, "error": np.array(errors, object)}
        import pyarrow

        flat = pyarrow.array(rows.ravel())
        missing = pyarrow.array([error is not None for error in errors], pyarrow.bool_())
        vectors = pyarrow.FixedSizeListArray.from_arrays(flat, rows.shape[1], mask=missing)
        table = batch.append_column("embedding", vectors)
        return table.append_column("error", pyarrow.array(errors, pyarrow.string()))

    def embed(self, items: Any) -> tuple[Array, list[str | None]]:
        """Bytes or paths -> unit vectors [N, E] float32, and for each item None or why its row is NaN."""
        _, _, upright, threads, _ = self._arguments
        model = self.model
        given = [bytes(item) if isinstance(item, bytearray | memoryview) else item for item in items]
        rows = np.full((len(given), model.config.embed_dim), np.nan, np.float32)
        errors: list[str | None] = [None] * len(given)
        there, pixels = [], []
        found = preprocess_ahead(given, pixels_function(model, upright), threads or available_threads(), len(given))
        for i, result in enumerate(found):
            if isinstance(result, ImageError):
                errors[i] = str(result.__cause__ or result)
            else:
                there.append(i)
                pixels.append(result)
        if there:
            rows[there] = finite_embeddings(model.encode_image(np.stack(pixels)), "image", there, normalize=True)
        return rows, errors


def _embed(model: Any, backend: str, upright: bool, threads: int | None, options: dict[str, Any]) -> Embed:
    return Embed(model, backend, upright=upright, threads=threads, **options)
