"""Files of Hugging Face's hub on this machine, compared with the sha256 that the hub names of each large one.

Where huggingface_hub has links, a file leads to a blob that has its sha256 as its name. Where it has none (file systems
without them, HF_HUB_DISABLE_SYMLINKS), the hub is asked; beside a `local_dir`, `.cache/huggingface` has it. A file of
which it isn't known is taken as it is, and provenance.json doesn't name it among what was "checked".

This finds what broke on the way or on the disk. Who serves the files serves their sha256 too, so it is no proof against
a server that lies; a digest that the user knows from elsewhere is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipref.errors import WeightsError
from clipref.files import read_bytes
from clipref.lazy import no_fork

_SHA256 = re.compile(r"[0-9a-f]{64}")
_WEIGHTS = (".safetensors", ".bin", ".pt")


def origin_of(repository: str, snapshot: Path) -> dict[str, Any]:
    """The origin of a snapshot, as provenance.json says it."""
    with no_fork:
        from huggingface_hub import constants

    return {"repository": repository, "revision": snapshot.name, "endpoint": constants.ENDPOINT}


def check_files(folder: Path, found: Mapping[str, str], origin: dict[str, Any] | None = None) -> None:
    """Raise WeightsError if a file that was read has another sha256 than the hub names; `found` has them by name.

    `origin`, where it has a repository, says that the folder is of the hub's cache: what is wrong there is removed, to
    be fetched again. It is given what was "checked".
    """
    origin = origin if origin is not None else {}
    ask = "repository" in origin
    wrong, checked = [], []
    for name, digest in sorted(found.items()):
        expected = _digest_in_link(folder / name) or _digest_in_metadata(folder, name)
        if expected is None and ask and name.endswith(_WEIGHTS):
            expected = _digest_at_hub(origin["repository"], name, origin["revision"])
            ask = expected is not None  # whom it can't be asked of now, it can't for the next one
        if expected is not None and expected != digest:
            wrong.append(f"{name} has sha256 {digest}, expected {expected}")
            if "repository" in origin:
                _remove(folder / name)
        elif expected is not None:
            checked.append(name)
    if wrong:
        what = "What was downloaded" if "repository" in origin else f"What is in {folder}"
        raise WeightsError(f"{what} is not what the repository has: {'; '.join(wrong)}. Fetch it again.")
    if checked:
        origin["checked"] = checked


def _digest_in_link(path: Path) -> str | None:
    if not path.is_symlink():
        return None
    blob = path.resolve().name
    return blob if _SHA256.fullmatch(blob) else None


def _digest_in_metadata(folder: Path, name: str) -> str | None:
    """The sha256 in huggingface_hub's record of a file that it downloaded to a `local_dir`: commit, sha256, time."""
    path = folder / ".cache" / "huggingface" / "download" / f"{name}.metadata"
    try:
        lines = read_bytes(path, 10_000).decode().split()
    except (OSError, ValueError):
        return None
    return lines[1] if len(lines) > 1 and _SHA256.fullmatch(lines[1]) else None


def _digest_at_hub(repository: str, name: str, revision: str) -> str | None:
    with no_fork:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        etag = get_hf_file_metadata(hf_hub_url(repository, name, revision=revision)).etag
    except Exception:  # whatever the HTTP library of this version of huggingface_hub raises: there is no network
        return None
    return etag if etag and _SHA256.fullmatch(etag) else None


def _remove(path: Path) -> None:
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
