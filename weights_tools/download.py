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
import re
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipref.config import PUBLISHED, Activation, ClipConfig
from clipref.digests import checked_digest
from clipref.errors import ClipError, InputError, ModelNotFound, WeightsError
from clipref.files import remove_abandoned
from clipref.hub import HUB_PREFIX, REPOSITORIES, check_weights, find, folder_of, home, is_of_hub, unknown
from clipref.lazy import no_fork
from clipref.published import MODELS
from clipref.weights import read_config

from .convert import add_source_arguments, convert, options_of
from .folder import refuse_existing
from .hub_files import check_files, origin_of
from .sources import OPENAI_FILES, Doubt, Options, Source, choose, find_files, open_source, sha256

# Repositories of OpenAI's own weights: those that ids stand for, and OpenAI's four in transformers' layout.
OPENAI_REPOSITORIES = {repository: name for name, repository in REPOSITORIES.items()} | {
    model.transformers: name for name, model in MODELS.items() if model.transformers
}

# Attempts to download one file.
MAX_ATTEMPTS = 3


def fetch(
    name: str,
    *,
    config: ClipConfig | None = None,
    activation: Activation | None = None,
    digest: str | None = None,
) -> tuple[Path, ClipConfig]:
    """What `clipref.hub.locate` calls: where the checkpoint of a name or path can be opened, and its configuration.

    `name`: a published id or `hf:owner/name`, either with or without `@revision`, or a path; what is downloaded is
    converted, and kept. What is converted has this digest, or isn't kept. Raises ModelNotFound, WeightsError or
    ConfigError.
    """
    options = Options(config or PUBLISHED.get(name.partition("@")[0]), activation)
    path = find(name)
    if path is None:
        try:
            path = download(name, digest=digest)
        except Doubt:  # which is kept as it is settled here
            if config is None and activation is None:
                raise
            path = download(name, options, digest)
    return open_path(path, options, digest)


def open_path(path: Path, options: Options, digest: str | None = None) -> tuple[Path, ClipConfig]:
    """Where `clipref.weights.Checkpoint` can open a file or folder of any layout, and its configuration.

    That is where it lies if its tensors are in our names, otherwise a folder in `home()`, into which it is converted
    once for as long as its files don't change.
    """
    stats = [(str(file.resolve()), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in find_files(path)]
    key = hashlib.sha256(repr((stats, options)).encode()).hexdigest()[:16]
    folder = home() / "local" / f"{path.resolve().stem}-{key}"
    if not folder.is_dir():
        source = open_source(path, options)
        if source.as_it_is:
            return (path if path / "model.safetensors" == source.weights else source.weights), source.config
        _convert(source, folder, {"path": str(path.resolve())}, digest)
    return folder, read_config(folder / "config.json")


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
    if re.fullmatch(r"[0-9a-f]{40}", revision) and snapshot.name != revision:
        raise WeightsError(f"{repository} was asked for the commit {revision}, and gave {snapshot.name}.")
    origin = origin_of(repository, snapshot)
    try:
        opened = open_source(snapshot, options)
    except ClipError:  # perhaps because it isn't what the repository has, and then not to be kept
        check_files(snapshot, {file.name: sha256(file) for file in snapshot.iterdir() if file.is_file()}, origin)
        raise
    return _convert(opened, folder, origin, digest)


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
    return _convert(open_source(archive, Options(model=name)), folder, {}, digest)


def _convert(source: Source, folder: Path, origin: dict[str, Any], digest: str | None = None) -> Path:
    remove_abandoned(home(), recursive=True)  # gigabytes that nobody would look for there
    check_files(source.weights.parent, source.files, origin)
    try:
        return convert(source, folder, origin=origin, digest=digest, progress=sys.stderr.isatty())
    except InputError:
        if (folder / "model.safetensors").is_file():  # another process was faster
            return folder
        raise


def _snapshot(name: str, repository: str, revision: str | None) -> Path:
    """The folder of the hub's cache that has a repository's config, weights and merges, downloaded if need be."""
    try:
        with no_fork:
            from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:  # clipref was installed without what it depends on
        raise ModelNotFound(
            f"{name} is not on this machine, and fetching it needs huggingface_hub ({error}): pip install "
            f"huggingface_hub."
        ) from error
    try:
        # One request, not tried again: whether there is a network, and the repository.
        found = HfApi().model_info(repository, revision=revision, timeout=10)
    except Exception as error:  # whatever the HTTP library of this version of huggingface_hub raises
        unreachable = error
    else:
        try:
            names = choose(sibling.rfilename for sibling in found.siblings or ())
            paths = [_download_file(repository, n, revision) for n in names]
            return paths[0].parent
        except ModelNotFound as error:
            raise ModelNotFound(f"{repository}: {error}") from None
        except Exception as error:  # as above
            raise _not_downloaded(name, repository, error) from None
    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except Exception:  # the cache has nothing; why the network hasn't is what is said
        raise _not_downloaded(name, repository, unreachable) from None


def _download_file(repository: str, name: str, revision: str | None) -> Path:
    """A file of a repository, in the hub's cache. After a broken connection, the rest of it is asked for.

    huggingface_hub does so itself since its version 1.24; older ones go on where they were when they are called again.
    """
    with no_fork:
        from huggingface_hub import hf_hub_download

    for _ in range(MAX_ATTEMPTS - 1):
        with suppress(Exception):  # whatever the HTTP library of this version raises; the last attempt's is told
            return Path(hf_hub_download(repository, name, revision=revision))
    return Path(hf_hub_download(repository, name, revision=revision))


def _not_downloaded(name: str, repository: str, error: Exception) -> ModelNotFound:
    base = name.partition("@")[0]
    reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    return ModelNotFound(
        f"{name} is not on this machine, and {repository} could not be downloaded ({reason}). Where there is a "
        f"network, fetch that repository's weights and open_clip_config.json or config.json into a folder; then "
        f"here: clipref convert FOLDER {folder_of(name)}{f' --model {base}' if base in PUBLISHED else ''}"
    )


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
