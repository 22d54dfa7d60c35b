"""Labels for the pictures of an index, and folders sorted by them."""

from __future__ import annotations

import errno
import filecmp
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..classifier import TEMPLATES
from ..errors import InputError
from ..files import write_whole
from ..ops import softmax
from .index import BLOCK_ROWS, as_unit_vectors

if TYPE_CHECKING:
    from .index import Index

Array: TypeAlias = NDArray[Any]

NONE = "none"


class Labelled(NamedTuple):
    """A picture, its label ("none" where two are nearly as probable), and the most probable labels, best first."""

    path: str
    label: str
    probabilities: list[tuple[str, float]]


def picture_labels(
    index: Index, labels: Sequence[str], templates: Sequence[str] = TEMPLATES, margin: float = 0.0, top_k: int = 5
) -> Iterator[Labelled]:
    """Each picture's label, from its stored vector. Raises InputError.

    Probabilities are those of `CLIP.classify`, from the checkpoint's own scale. A picture whose best label leads the
    second by less than `margin` has the label "none".
    """
    check_margin(margin)
    classifier = index.model.classifier(labels, templates)
    paths, rows = index.snapshot()
    for start in range(0, len(paths), BLOCK_ROWS):
        units = as_unit_vectors(rows[start : start + BLOCK_ROWS])
        logits = index.model.logit_scale * (units @ classifier.embeddings.T).astype(np.float64)  # [n, L]
        for path, p in zip(paths[start:], softmax(logits), strict=False):
            order = np.argsort(-p, kind="stable")
            second = p[order[1]] if len(order) > 1 else 0.0
            label = classifier.labels[order[0]] if p[order[0]] - second >= margin else NONE
            yield Labelled(path, label, [(classifier.labels[i], float(p[i])) for i in order[:top_k]])


def check_margin(margin: float) -> None:
    """Raise InputError unless this can be a difference of probabilities."""
    if not 0 <= margin <= 1:
        raise InputError(f"margin is {margin}; expected a difference of probabilities, 0 to 1.")


class Move(NamedTuple):
    """A picture and where its link or copy is to be."""

    source: Path
    target: Path


def moves(index: Index, found: Sequence[Labelled], out: Path) -> list[Move]:
    """Where `sort_into` puts pictures: OUT/label/path. Raises InputError for a place within the folder of pictures."""
    top = Path(os.path.abspath(out))
    if top == index.folder or index.folder in top.parents:
        raise InputError(f"{out} is in {index.folder}, whose pictures would be found twice; choose another place.")
    folders: dict[str, str] = {}
    for label in {entry.label for entry in found}:
        name = re.sub(r"[\x00-\x1f/\\:]", "_", label).strip(". ") or "_"
        if name in folders:
            raise InputError(f"The labels {folders[name]!r} and {label!r} would have one folder, {name!r}; rename one.")
        folders[name] = label
    names = {label: name for name, label in folders.items()}
    return [Move(index.folder / entry.path, top / names[entry.label] / entry.path) for entry in found]


def sort_into(planned: Sequence[Move], copy: bool = False) -> int:
    """Make hard links, or copies where a link can't be or `copy` is set; returns how many were made.

    What is there already with the same content is left; something else is never replaced. Raises InputError.
    """
    made = 0
    for move in planned:
        if os.path.lexists(move.target):
            if move.target.is_file() and filecmp.cmp(move.source, move.target, shallow=False):
                continue
            raise InputError(f"{move.target} is there and is another file; nothing is replaced: choose another place.")
        try:
            move.target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(move, copy)
        except OSError as error:
            raise InputError(f"{move.target} can't be made: {error.strerror or error}. {made} were made.") from error
        made += 1
    return made


def _link_or_copy(move: Move, copy: bool) -> None:
    if not copy and not move.source.is_symlink():
        try:
            os.link(move.source, move.target)
            return
        except OSError as error:  # another disk, or a file system without links
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES):
                raise
    with write_whole(move.target) as scratch:
        shutil.copyfile(move.source, scratch)
        shutil.copystat(move.source, scratch)
