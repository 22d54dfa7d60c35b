"""Cosines of a subject with prompts, best first.

The subject is an image and the prompts are texts, unless --subject-type or --prompt-type says otherwise.
"""

from __future__ import annotations

import argparse

from .common import add_json_argument, add_model_arguments, open_model, print_json, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("subject", help="an image's path, or a text")
    parser.add_argument("prompt", nargs="+", help="texts, or images' paths")
    parser.add_argument("--subject-type", choices=("image", "text"), default="image")
    parser.add_argument("--prompt-type", choices=("image", "text"), default="text")
    add_model_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Print the cosines; JSON keeps the order in which the prompts were given."""
    model = open_model(args)
    cosines = model.compare(args.subject, args.prompt, args.subject_type, args.prompt_type)
    if args.json:
        print_json([{"prompt": p, "cosine": c} for p, c in zip(args.prompt, cosines, strict=True)])
        return
    best = sorted(zip(cosines, args.prompt, strict=True), key=lambda pair: -pair[0])
    print_table([("cosine", "prompt"), *((f"{cosine:.4f}", prompt) for cosine, prompt in best)])
