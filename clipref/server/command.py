"""Serve embeddings over HTTP, to the clients that already exist: roboflow's, OpenAI's, immich's, Weaviate's.

Listens on this machine only, reads no file of it and no other address, and asks for no key, unless told. Needs the
extra `server`. /docs lists the routes, / is a page to try it, /info tells the limits.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cli.common import DEFAULT_MODEL
from ..cli.streams import say
from ..errors import BackendError, InputError
from .limits import Limits

if TYPE_CHECKING:
    from .models import Served

OPTIONS = {
    "body_bytes": "of a body",
    "items": "images and texts of a request",
    "text_characters": "of a text",
    "image_pixels": "of an image",
    "held_requests": "requests that are accepted and not answered",
    "held_bytes": "of all of these",
    "held_pixels": "of all of these, not decoded yet",
    "body_seconds": "in which a body has to arrive",
    "answer_seconds": "from a body to its answer",
}
NAMES = {"image_pixels": "max_pixels"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument(
        "--model", action="append", metavar="MODEL",
        help=f"id, folder or .safetensors file; repeatable, the first is the default one ({DEFAULT_MODEL})",
    )  # fmt: skip
    parser.add_argument(
        "--search", action="append", default=[], metavar="DIR",
        help="search this folder, of which clipref index has made an index; repeatable; its model is served by default",
    )  # fmt: skip
    parser.add_argument("--index", type=Path, metavar="PATH", help="the folder of the store of one --search DIR")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=9001, help="0 takes a free one (%(default)s)")
    parser.add_argument("--backend", default="auto", help="auto, reference, onnx, ... (default: %(default)s)")
    parser.add_argument("--precision", help="float32, bfloat16, int8: the fastest backend that has it")
    parser.add_argument("--activation", choices=("quick_gelu", "gelu"), help="where a checkpoint doesn't tell")
    parser.add_argument(
        "--as-openai", action="store_true", help="leave photographs as they lie in their files, whatever EXIF says"
    )
    parser.add_argument("--mix-requests", action="store_true", default=None, help="batches of strangers in 8 bits too")
    parser.add_argument("--idle-unload", type=float, metavar="S", help="give up a tower that wasn't used for S seconds")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="one key a line; others are refused then")
    parser.add_argument(
        "--allow-image-urls",
        nargs="+",
        default=[],
        metavar="HOST",
        help="fetch images from these, over https; * is any",
    )
    parser.add_argument("--allow-origin", action="append", default=[], help="a page's origin that may use the server")
    parser.add_argument("--allow-host", action="append", default=[], help="a name that the server answers to")
    limits = parser.add_argument_group("limits")
    for name, about in OPTIONS.items():
        usual = getattr(Limits, name)
        option = "--" + NAMES.get(name, name).replace("_", "-")
        limits.add_argument(option, dest=name, type=type(usual), default=usual, metavar="N", help=f"{about} ({usual})")


def run(args: argparse.Namespace) -> int:
    """Serve until it is told to stop; 0 then."""
    server = server_of(args)
    from .listening import listen

    return listen(server, args)


def check_extra() -> None:
    """Raise BackendError where the packages of the extra aren't there."""
    try:
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise BackendError(f"clipref serve needs {error.name}: pip install 'clipref[server]'.") from error


def limits_of(args: argparse.Namespace) -> Limits:
    """Raises InputError for a limit that lets nothing through."""
    found = {name: getattr(args, name) for name in OPTIONS}
    for name, value in found.items():
        if not value > 0:
            raise InputError(f"--{NAMES.get(name, name).replace('_', '-')} is {value}; expected more than 0.")
    return Limits(**found)


def server_of(args: argparse.Namespace) -> Any:
    """What the arguments ask for. Raises ClipError."""
    from .fetching import Fetcher
    from .folders import Folders, open_folder
    from .keys import Keys
    from .metrics import Metrics
    from .serving import Server

    if not 0 <= args.port < 2**16:
        raise InputError(f"--port is {args.port}; expected 0 to 65535.")
    if args.idle_unload is not None and not args.idle_unload > 0:
        raise InputError(f"--idle-unload is {args.idle_unload}; expected seconds, more than 0.")
    limits, metrics = limits_of(args), Metrics()
    keys = Keys.from_file(args.api_key_file) if args.api_key_file else None
    fetcher = Fetcher(args.allow_image_urls, max_bytes=limits.body_bytes) if args.allow_image_urls else None
    check_extra()  # before a model is fetched
    served = [_open_served(name, args, metrics) for name in _models(args)]
    folders = Folders([open_folder(folder, args.index, served) for folder in args.search])
    return Server(
        served,
        limits=limits,
        keys=keys,
        fetcher=fetcher,
        metrics=metrics,
        idle_unload=args.idle_unload,
        folders=folders,
    )


def _models(args: argparse.Namespace) -> list[str]:
    """Names of the models: those given, or those of the folders, or the embedded one. Raises ClipError."""
    from .folders import model_of

    names = [Path(folder).resolve().name for folder in args.search]
    if len(set(names)) < len(names):
        raise InputError(f"Two folders have the name {max(names, key=names.count)!r}; expected names that differ.")
    if args.index is not None and len(names) != 1:
        raise InputError(f"--index is the store of one folder; expected one --search, got {len(names)}.")
    if args.model is not None:
        return list(args.model)
    if args.search:
        return list(dict.fromkeys(model_of(folder, args.index) for folder in args.search))
    say(f"no --model was given, so {DEFAULT_MODEL} answers, which knows drawn shapes and nothing of photographs")
    return [DEFAULT_MODEL]


def _open_served(name: str, args: argparse.Namespace, metrics: Any) -> Served:
    from ..model import AutoModel
    from .metrics import TowerMetrics
    from .models import Served

    options = {n: value for n in ("activation", "precision") if (value := getattr(args, n)) is not None}
    opened = AutoModel.from_pretrained(name, backend=args.backend, upright=not args.as_openai, **options)
    return Served(
        name if opened.source == name else Path(name).resolve().name,
        opened,
        observe=lambda tower: TowerMetrics(metrics, tower),
        mixes=args.mix_requests,
    )
