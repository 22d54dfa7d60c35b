"""Images that can't be read: left out with --keep-going, else an error that names it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..errors import ImageError
from ..lazy import available_threads
from .streams import say

if TYPE_CHECKING:
    from ..model import CLIP

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
    """What is wrong with an image, by its number among all, whatever it is among those of a call."""
    return f"image {number}: {error.__cause__ if isinstance(error.__cause__, ImageError) else error}"


def unreadable(model: CLIP, paths: Sequence[str | os.PathLike[str]]) -> dict[int, ImageError]:
    """The errors of those images that the model can't be given, by index. Reads all, and embeds none."""
    from ..preprocessing import preprocess

    settings = asdict(model.config.preprocess)

    def attempt(path: str | os.PathLike[str]) -> ImageError | None:
        try:
            preprocess(path, model.config.vision.resolution, **settings)
        except ImageError as error:
            return error
        return None

    with ThreadPoolExecutor(available_threads()) as pool:
        return {i: error for i, error in enumerate(pool.map(attempt, paths)) if error is not None}
