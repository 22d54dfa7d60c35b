"""Fetch a model from Hugging Face, check it and convert it, so that it can be used by name from then on.

ID is a published model (clip/ViT-B-32), or any repository of a CLIP, hf:owner/name or hf:owner/name@revision.
huggingface_hub does the fetching, with its cache, resumption and progress bars, and its variables HF_ENDPOINT (a
mirror), HF_HUB_OFFLINE, HF_TOKEN and HF_HOME. What it fetched is checked against the sha256 that the same server names,
converted as `clipref convert` does, and kept under $CLIPREF_HOME (or ~/.cache/clipref), with the commit that it was and
its digest in provenance.json. A later change of what is kept is refused; --digest refuses other weights from the first
time on. With --from FILE nothing is fetched: FILE is
OpenAI's own archive of that model, checked against the sha256 that OpenAI published.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipref.config import PUBLISHED
from clipref.digests import checked_digest
from clipref.errors import ClipError, InputError, ModelNotFound, WeightsError
from clipref.files import remove_abandoned
from clipref.hub import HUB_PREFIX, REPOSITORIES, check_weights, find, folder_of, home, is_of_hub, unknown

from .convert import add_source_arguments, convert, options_of
from .folder import refuse_existing
from .hub_files import check_files, origin_of
from .sources import OPENAI_FILES, Doubt, Options, choose, open_source, sha256

# Repositories of OpenAI's own weights: those that ids stand for, and OpenAI's four in transformers' layout.
OPENAI_REPOSITORIES = {repository: name for name, repository in REPOSITORIES.items()} | {
    "openai/clip-vit-base-patch32": "clip/ViT-B-32",
    "openai/clip-vit-base-patch16": "clip/ViT-B-16",
    "openai/clip-vit-large-patch14": "clip/ViT-L-14",
    "openai/clip-vit-large-patch14-336": "clip/ViT-L-14-336px",
}


def fetch(name: str, digest: str | None = None) -> Path:
    """What `from_pretrained` calls: a model id, `hf:owner/name[@revision]`, or a checkpoint's path of another layout.

    Returns the converted folder, made now or before. What is made now has this digest, or isn't kept. Raises
    ModelNotFound, WeightsError or ConfigError.
    """
    if is_of_hub(name):
        return download(name, digest=digest)
    return import_path(Path(name).expanduser(), digest)


def import_path(path: Path, digest: str | None = None) -> Path:
    """Convert a file or folder into `home()`, once for as long as it doesn't change."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(str(file.resolve()), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files if file.is_file()]
    key = hashlib.sha256(repr(stats).encode()).hexdigest()[:16]
    folder = home() / "local" / f"{path.resolve().stem}-{key}"
    if folder.is_dir():
        return folder
    try:
        return _convert(path, folder, Options(), {"path": str(path.resolve())}, digest)
    except Doubt as doubt:
        raise Doubt(
            f"{doubt} Convert it: clipref convert {path} FOLDER, with that option; then open FOLDER."
        ) from doubt


def download(name: str, options: Options | None = None, digest: str | None = None) -> Path:
    """Fetch a published model or a repository, check it, convert it; returns the folder, also if it was there already.

    Raises ModelNotFound that says what to put where if it can't be fetched, WeightsError if it isn't what it should be.
    """
    folder = folder_of(name)
    if (folder / "model.safetensors").is_file():
        return folder
    base, _, revision = name.partition("@")
    repository = REPOSITORIES.get(base, base.removeprefix(HUB_PREFIX))
    snapshot = _snapshot(name, repository, revision or None)
    options = replace(options or Options(), model=OPENAI_REPOSITORIES.get(repository))
    return _convert(snapshot, folder, options, origin_of(repository, snapshot), digest)


def from_openai(name: str, archive: Path, digest: str | None = None) -> Path:
    """Convert OpenAI's own file of a published model, once its sha256 is the published one."""
    if name not in PUBLISHED:
        raise InputError(f"{name!r} is no model of OpenAI's, as --from needs; expected one of {', '.join(PUBLISHED)}.")
    if not archive.is_file():
        raise ModelNotFound(f"{archive} does not exist; expected OpenAI's file of {name}.")
    folder = folder_of(name)
    refuse_existing(folder)
    found = sha256(archive)
    if found != OPENAI_FILES[name]:
        known = next((other for other, expected in OPENAI_FILES.items() if expected == found), None)
        what = f"that of {known}" if known else "none that OpenAI published: the file is damaged or another one"
        raise WeightsError(f"{archive} has sha256 {found}; {name} has {OPENAI_FILES[name]}. This is {what}.")
    return _convert(archive, folder, Options(model=name), {}, digest)


def _convert(source: Path, folder: Path, options: Options, origin: dict[str, Any], digest: str | None = None) -> Path:
    remove_abandoned(home(), recursive=True)  # gigabytes that nobody would look for there
    try:
        opened = open_source(source, options)
    except ClipError:  # perhaps because it isn't what the repository has, and then not to be kept
        if source.is_dir():
            check_files(source, {file.name: sha256(file) for file in source.iterdir() if file.is_file()}, origin)
        raise
    check_files(source if source.is_dir() else source.parent, opened.files, origin)
    try:
        return convert(opened, folder, origin=origin, digest=digest, progress=sys.stderr.isatty())
    except InputError:
        if (folder / "model.safetensors").is_file():  # another process was faster
            return folder
        raise


def _snapshot(name: str, repository: str, revision: str | None) -> Path:
    """The folder of the hub's cache that has a repository's config, weights and merges, downloaded if need be."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    cached: Path | None = None
    try:
        try:
            names = HfApi().list_repo_files(repository, revision=revision)
        except Exception:  # whatever the HTTP library of this version of huggingface_hub raises
            cached = Path(snapshot_download(repository, revision=revision, local_files_only=True))
            names = [entry.name for entry in cached.iterdir()]
        paths = [] if cached else [Path(hf_hub_download(repository, n, revision=revision)) for n in choose(names)]
        return cached or paths[0].parent
    except ModelNotFound as error:
        raise ModelNotFound(f"{repository}: {error}") from error
    except Exception as error:  # as above
        cause = error.__context__ or error  # that the cache has nothing is not why
        reason = str(cause).strip().partition("\n")[0].rstrip(".")
        base = name.partition("@")[0]
        raise ModelNotFound(
            f"{name} is not on this machine, and {repository} could not be downloaded ({reason}). Where there is a "
            f"network, fetch that repository's weights and open_clip_config.json or config.json into a folder; then "
            f"here: clipref convert FOLDER {folder_of(name)}{f' --model {base}' if base in PUBLISHED else ''}"
        ) from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("names", nargs="+", metavar="ID", help="clip/ViT-B-32, hf:owner/name, hf:owner/name@revision")
    parser.add_argument("--from", dest="archive", type=Path, metavar="FILE", help="OpenAI's .pt file of that model")
    parser.add_argument("--digest", metavar="HEX", help="what the weights of the one ID have to have (see inspect)")
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Fetch each, and print where it is."""
    options = options_of(args)
    digest = None if args.digest is None else checked_digest(args.digest)
    for option, given in (("--from", args.archive), ("--digest", digest)):
        if given is not None and len(args.names) != 1:
            raise InputError(f"{option} takes one model, got {len(args.names)}.")
    if args.archive is not None:
        print(from_openai(args.names[0], args.archive, digest))
        return
    for name in args.names:
        if not is_of_hub(name):
            path = find(name)
            if path is None:
                raise unknown(name)
            raise InputError(f"{name} is on this machine; download takes a published id or hf:owner/name.")
    for name in args.names:
        folder = download(name, options, digest)
        check_weights(folder, digest)  # also one that was there already
        print(folder)
