"""Images that can't be read: left out with --keep-going, else an error that names it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray

from ..errors import ImageError
from .streams import say

if TYPE_CHECKING:
    from ..model import CLIP

Array: TypeAlias = NDArray[Any]

LEFT_OUT = 3  # the exit code if --keep-going left something out


def add_keep_going_argument(parser: argparse.ArgumentParser) -> None:
    """--keep-going."""
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help=f"leave out images that can't be read, with a warning each; then exit with {LEFT_OUT}",
    )


def leave_out(args: argparse.Namespace, problem: str) -> None:
    """Warn of an image that is left out. Raises ImageError unless that is wanted."""
    if not args.keep_going:
        raise ImageError(f"{problem.rstrip('.')}. --keep-going leaves out what can't be read.")
    say(f"warning: left out: {problem}")


def problem_of(number: int, error: ImageError) -> str:
    """The problem with an image, by its number among all, whatever its number is in a call."""
    return f"image {number}: {error.__cause__ if isinstance(error.__cause__, ImageError) else error}"


def embed_readable(
    model: CLIP, paths: Sequence[str | os.PathLike[str]], *, normalize: bool
) -> tuple[Array, dict[int, ImageError]]:
    """Embeddings [n, E] of the images that can be read, in order; and the errors of the others, by index."""
    errors: list[ImageError] = []
    rows = model.embed_images(list(paths), normalize=normalize, on_error="skip", errors=errors)
    return rows, {error.index: error for error in errors if error.index is not None}
