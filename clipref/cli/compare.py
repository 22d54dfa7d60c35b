"""Cosines of a subject with prompts, best first.

The subject is an image and the prompts are texts, unless --subject-type or --prompt-type says otherwise.
"""

from __future__ import annotations

import argparse

from ..errors import ImageError, InputError
from .common import add_json_argument, add_model_arguments, open_model, print_json, print_table
from .readable import LEFT_OUT, add_keep_going_argument, leave_out, problem_of, unreadable
from .texts import name_of, text_argument


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
    (subject,), prompts = checked([args.subject], args.subject_type), checked(args.prompt, args.prompt_type)
    model = open_model(args)
    errors = unreadable(model, prompts) if args.prompt_type == "image" else {}
    for i, error in errors.items():
        leave_out(args, problem_of(i, error))
    prompts = [prompt for i, prompt in enumerate(prompts) if i not in errors]
    if not prompts:
        raise ImageError("no image could be read.")
    cosines = model.compare(subject, prompts, args.subject_type, args.prompt_type)
    names = [name_of(prompt) if args.prompt_type == "image" else prompt for prompt in prompts]
    if args.json:
        print_json([{"prompt": name, "cosine": cosine} for name, cosine in zip(names, cosines, strict=True)])
    else:
        best = sorted(zip(cosines, names, strict=True), key=lambda pair: -pair[0])
        print_table([("cosine", "prompt"), *((f"{cosine:.4f}", name) for cosine, name in best)])
    return LEFT_OUT if errors else 0


def checked(items: list[str], kind: str) -> list[str]:
    """Paths as they are, and texts decoded. Raises InputError for a text that isn't UTF-8."""
    try:
        return items if kind == "image" else [text_argument(item) for item in items]
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{error}; expected a text.") from None
