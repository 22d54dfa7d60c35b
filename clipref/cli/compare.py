"""Cosines of a subject with prompts, best first.

The subject is an image and the prompts are texts, unless --subject-type or --prompt-type says otherwise.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray

from ..errors import ImageError, InputError
from .common import add_json_argument, add_model_arguments, open_model, print_json, print_table
from .readable import LEFT_OUT, add_keep_going_argument, embed_readable, leave_out, problem_of
from .texts import name_of, text_argument

if TYPE_CHECKING:
    from ..clip import CLIP

Array: TypeAlias = NDArray[Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("subject", help="an image's path, or a text")
    parser.add_argument("prompt", nargs="+", help="texts, or images' paths")
    parser.add_argument("--subject-type", choices=("image", "text"), default="image")
    parser.add_argument("--prompt-type", choices=("image", "text"), default="text")
    add_keep_going_argument(parser)
    add_model_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the cosines; JSON keeps the order in which the prompts were given. LEFT_OUT if one could not be read."""
    (subject,), prompts = decode_texts([args.subject], args.subject_type), decode_texts(args.prompt, args.prompt_type)
    model = open_model(args)
    one, problems = embed(model, [subject], args.subject_type)
    if problems:
        hint = "" if os.path.exists(subject) else " If it is a text, say --subject-type text."
        raise ImageError(f"the subject: {problems[0].__cause__ or problems[0]}{hint}")
    others, problems = embed(model, prompts, args.prompt_type)
    for i, error in problems.items():
        leave_out(args, problem_of(i, error))
    if not len(others):
        raise ImageError("no image could be read.")
    names = [name_of(p) if args.prompt_type == "image" else p for i, p in enumerate(prompts) if i not in problems]
    cosines = model.compare_embeddings(one, others)[0].tolist()
    if args.json:
        print_json([{"prompt": name, "cosine": cosine} for name, cosine in zip(names, cosines, strict=True)])
    else:
        best = sorted(zip(cosines, names, strict=True), key=lambda pair: -pair[0])
        print_table([("cosine", "prompt"), *((f"{cosine:.4f}", name) for cosine, name in best)])
    return LEFT_OUT if problems else 0


def decode_texts(items: list[str], kind: str) -> list[str]:
    """Paths as they are, and texts decoded. Raises InputError for a text that isn't UTF-8."""
    try:
        return items if kind == "image" else [text_argument(item) for item in items]
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{error}; expected a text.") from None


def embed(model: CLIP, items: list[str], kind: str) -> tuple[Array, dict[int, ImageError]]:
    """Embeddings [n, E], and the errors of images that can't be read."""
    if kind == "image":
        return embed_readable(model, items, normalize=False)
    return model.embed_text(items), {}
