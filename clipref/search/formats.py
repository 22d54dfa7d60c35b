"""An index in other programs' formats, and back.

- `npy`: OUT.npy, float16 [N, E], and the paths beside it as OUT.names.json, as `clipref embed` writes them;
- `jsonl`: a line a picture, {"path": ..., "embedding": [...]} and what else is known;
- `parquet`: the same as columns, the embedding a list of E float32 (needs pyarrow, the extra `parquet`);
- `clip-retrieval`: a folder with img_emb/img_emb_0.npy, float16, and metadata/metadata_0.parquet with `image_path`, row
  i of one being row i of the other, in parts of a million, as clip-retrieval 2 writes and reads them.

An export has paths, dates and vectors in it, and nothing of the pictures themselves. What is imported is checked: files
that aren't in the folder are left out and counted, and some pictures, drawn at random, are embedded anew and have to
agree with the vectors that came.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..cli.output import embeddings_file
from ..cli.texts import json_text, name_of
from ..errors import ImageError, InputError
from ..files import open_regular, parse_json, read_bytes, write_folder_whole, write_whole
from ..image_checks import MAX_READ
from ..similarity import have_direction, unit_vectors
from .reading import facts_of, pixels_function
from .records import Entry
from .vectors import DTYPE

if TYPE_CHECKING:
    from .index import Index

Array: TypeAlias = NDArray[Any]
Rows: TypeAlias = Iterator[tuple[str, Array]]

PART_ROWS = 1_000_000
# Bytes of a line of JSON, and of a file of names.
MAX_LINE, MAX_NAMES = 2**20, 2**32
# Pictures that are embedded anew, and the cosine that they have to reach: int8 engines and other decoders come to 0.98.
CHECKED, AGREEMENT = 8, 0.97
WAITING = 1024


def export(index: Index, kind: str, out: Path) -> int:
    """Write an index in a format; returns how many pictures. Raises InputError."""
    return EXPORTS[kind](index, out)


def _facts(index: Index) -> list[dict[str, Any]]:
    with index.store.reading() as db:
        rows = db.execute(
            "SELECT path, hex(sha256), width, height, taken FROM image JOIN content USING (slot) ORDER BY slot, path"
        ).fetchall()
    names = ("path", "sha256", "width", "height", "taken")
    return [dict(zip(names, (name_of(os.fsdecode(row[0])), row[1].lower(), *row[2:]), strict=True)) for row in rows]


def _export_npy(index: Index, out: Path) -> int:
    if out.suffix != ".npy":
        raise InputError(f"{out}: expected a name that ends in .npy.")
    paths, rows = index.snapshot()
    with embeddings_file(out) as write:
        write(rows, [name_of(path) for path in paths])
    return len(paths)


def _export_jsonl(index: Index, out: Path) -> int:
    paths, rows = index.snapshot()
    facts = {fact["path"]: fact for fact in _facts(index)}
    with write_whole(out) as scratch, open(scratch, "w", encoding="utf-8") as file:
        for path, row in zip(paths, rows, strict=True):
            name = name_of(path)
            file.write(json_text({**facts.get(name, {}), "path": name, "embedding": row.tolist()}) + "\n")
    return len(paths)


def _export_parquet(index: Index, out: Path) -> int:
    arrow, parquet = _pyarrow()
    paths, rows = index.snapshot()
    by_path = {fact["path"]: fact for fact in _facts(index)}
    facts = [by_path.get(name_of(path), {}) for path in paths]
    values = arrow.array(rows.astype(np.float32).ravel())
    columns = {
        "path": [_valid(path) for path in paths],
        "embedding": arrow.FixedSizeListArray.from_arrays(values, index.store.embed_dim),
        **{name: [fact.get(name) for fact in facts] for name in ("sha256", "width", "height", "taken")},
    }
    with write_whole(out) as scratch:
        parquet.write_table(arrow.table(columns), scratch)
    return len(paths)


def _export_clip_retrieval(index: Index, out: Path) -> int:
    arrow, parquet = _pyarrow()
    paths, rows = index.snapshot()
    parts = max(1, math.ceil(len(paths) / PART_ROWS))
    digits = int(math.log10(parts)) + 1
    with write_folder_whole(out) as scratch:
        (scratch / "img_emb").mkdir()
        (scratch / "metadata").mkdir()
        for part in range(parts):
            these = slice(part * PART_ROWS, (part + 1) * PART_ROWS)
            number = str(part).zfill(digits)
            np.save(scratch / "img_emb" / f"img_emb_{number}.npy", np.ascontiguousarray(rows[these]))
            places = [_valid(str(index.folder / path)) for path in paths[these]]
            parquet.write_table(
                arrow.table({"image_path": places}), scratch / "metadata" / f"metadata_{number}.parquet"
            )
    return len(paths)


EXPORTS: Mapping[str, Callable[[Any, Path], int]] = {
    "clip-retrieval": _export_clip_retrieval,
    "npy": _export_npy,
    "parquet": _export_parquet,
    "jsonl": _export_jsonl,
}


def _valid(path: str) -> str:
    """A path as Parquet's text, which has to be UTF-8. Raises InputError."""
    try:
        name_of(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{path!r} is not UTF-8, as Parquet's texts have to be; rename the file, or export jsonl or npy."
        ) from error
    return name_of(path)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"Parquet needs pyarrow ({error}): pip install 'clipref[parquet]'.") from error
    return pyarrow, pyarrow.parquet


# Readers of the same formats.


def import_rows(index: Index, kind: str, source: Path, seed: int = 0) -> dict[str, int]:
    """Put vectors of another program into an index: {"imported", "known", "not here"}, counts of rows.

    Raises InputError for a file that isn't of the format, and for vectors that aren't this model's.
    """
    with _as_input_errors(source):
        found = list(IMPORTS[kind](source))
    here: list[tuple[bytes, Array]] = []
    for path, vector in found:
        if vector.shape != (index.store.embed_dim,) or not have_direction(vector):
            raise InputError(
                f"{source}: the vector of {path!r} isn't {index.store.embed_dim} numbers with a direction."
            )
        absolute = os.path.abspath(index.folder / path)
        if absolute.startswith(os.path.join(index.folder, "")) and os.path.isfile(absolute):
            here.append((index.relative(absolute), unit_vectors(vector.astype(np.float32))))
    if found and not here:
        raise InputError(f"{source}: none of its {len(found)} paths, {found[0][0]!r} the first, is in {index.folder}.")
    _check_agreement(index, here, source, seed)
    known = index.store.contents()
    counts = {"imported": 0, "known": 0, "not here": len(found) - len(here)}
    for start in range(0, len(here), WAITING):
        entries = [_entry(index, name, vector) for name, vector in here[start : start + WAITING]]
        for entry in entries:
            counts["known" if entry.sha256 in known else "imported"] += 1
        index.store.put(entries)
    return counts


def _entry(index: Index, name: bytes, vector: Array) -> Entry:
    tried_at = time.time_ns()
    with open_regular(index.folder / os.fsdecode(name)) as file:
        status = os.fstat(file.fileno())
        data = file.read(MAX_READ)
    sha256 = hashlib.sha256(data).digest()
    return Entry(name, status.st_size, status.st_mtime_ns, tried_at, sha256, vector.astype(DTYPE), facts_of(data))


def _check_agreement(index: Index, here: list[tuple[bytes, Array]], source: Path, seed: int) -> None:
    """Raise InputError unless some of the vectors, drawn at random, are what the model makes of those pictures."""
    pixels_of = pixels_function(index.model, index.upright)
    drawn = np.random.default_rng(seed).permutation(len(here))[:CHECKED]
    for i in drawn.tolist():
        name, vector = here[i]
        path = index.folder / os.fsdecode(name)
        try:
            fresh = unit_vectors(index.model.encode_image(pixels_of(path)[None]))[0]
        except ImageError:
            continue
        if (cosine := float(fresh @ vector)) < AGREEMENT:
            raise InputError(
                f"{source}: the vector of {os.fsdecode(name)!r} has the cosine {cosine:.3f} with what this model makes "
                "of that picture; is it another model's, or is `--as-openai` missing? Nothing was imported."
            )


def _import_npy(source: Path) -> Rows:
    rows = np.load(source, mmap_mode="r", allow_pickle=False)
    names = parse_json(read_bytes(source.with_suffix(".names.json"), MAX_NAMES))
    if rows.ndim != 2 or not isinstance(names, list) or len(names) != len(rows):
        raise ValueError(f"it is {rows.dtype} of shape {rows.shape}, and has {len(names)} names")
    yield from zip(map(_fs_path, names), rows, strict=True)


def _import_jsonl(source: Path) -> Rows:
    with open_regular(source) as file:
        while line := file.readline(MAX_LINE):
            entry = parse_json(line)
            if not isinstance(entry, dict) or not {"path", "embedding"} <= entry.keys():
                raise ValueError("a line without path and embedding")
            yield _fs_path(entry["path"]), np.array(entry["embedding"], np.float32)


def _import_parquet(source: Path) -> Rows:
    _, parquet = _pyarrow()
    for batch in parquet.ParquetFile(source).iter_batches(columns=["path", "embedding"]):
        for path, vector in zip(*batch.to_pydict().values(), strict=True):
            yield _fs_path(path), np.array(vector, np.float32)


def _import_clip_retrieval(source: Path) -> Rows:
    parts = sorted((source / "img_emb").glob("img_emb_*.npy"))
    if not parts:
        raise ValueError("there is no img_emb/img_emb_0.npy in it")
    _, parquet = _pyarrow()
    for part in parts:
        number = part.stem.removeprefix("img_emb_")
        rows = np.load(part, mmap_mode="r", allow_pickle=False)
        table = parquet.read_table(source / "metadata" / f"metadata_{number}.parquet", columns=["image_path"])
        yield from zip(map(_fs_path, table["image_path"].to_pylist()), rows, strict=True)


IMPORTS: Mapping[str, Callable[[Path], Rows]] = {
    "clip-retrieval": _import_clip_retrieval,
    "npy": _import_npy,
    "parquet": _import_parquet,
    "jsonl": _import_jsonl,
}


def _fs_path(name: Any) -> str:
    """A path of the system's from a name as `name_of` writes it. Raises ValueError."""
    if not isinstance(name, str):
        raise ValueError(f"a path that is {type(name).__name__}")
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))


@contextmanager
def _as_input_errors(source: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # numpy's, pyarrow's and JSON's readers raise several kinds
        raise InputError(f"{source} can't be imported: {error}.") from error
