"""Where models are: a name becomes a path on this machine, by download or conversion if need be.

Four kinds of names: the embedded models, which are part of the package; the published ones; any repository of Hugging
Face, `hf:owner/name`; and paths. What a path is, and which configuration belongs to it, is decided in one place, which
the entry point `fetch` of the group `clipref.sources` names (weights_tools has it): what can be opened where it is,
stays there; the rest is downloaded or converted once, into `home()`. Nothing that is downloaded is executed.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .arguments import brief
from .config import PUBLISHED, Activation, ClipConfig
from .digests import checked_digest, read_provenance, recorded_digest, refuse_other
from .errors import InputError, ModelNotFound, WeightsError
from .files import home as home
from .installed import entry_points
from .lazy import no_fork
from .published import MODELS
from .weights import SafetensorsFile


@dataclass(frozen=True)
class Embedded:
    """A model that is part of the package."""

    description: str
    digest: str  # of its weights (clipref.digests), so that `clipref verify` finds a changed bit


EMBEDDED = {
    "clipref/scenes-vit": Embedded(
        "a small ViT, trained on drawn scenes of one or two kinds of object; part of the package",
        "559f20f7aaa900915cba0f9a9d42784b2d91ecf4534ca30d5018d1f3ad5cfb44",
    ),
    "clipref/scenes-rn": Embedded(
        "a small ModifiedResNet, trained on drawn scenes of one or two kinds of object; part of the package",
        "f9fcd23e1e5332c0395ac70a3397131c2df6febe1793b23ddbf18f52f5bc45c3",
    ),
    "clipref/shapes-vit": Embedded(
        "a small ViT, trained on drawn scenes of one kind of object; part of the package",
        "87eaf7924bde224646faf8d9b7e826a77c7ab67b4993cf65453ee300f291994d",
    ),
    "clipref/shapes-rn": Embedded(
        "a small ModifiedResNet, trained on drawn scenes of one kind of object; part of the package",
        "efe94b3062589f969e34b348dcf5c939f06e979679633a764476d8c1fe2135fb",
    ),
}

# Repositories that hold OpenAI's weights in OpenAI's tensor names, as open_clip_model.safetensors.
REPOSITORIES = {name: model.repository for name, model in MODELS.items()}

HUB_PREFIX = "hf:"
GROUP = "clipref.sources"


def models() -> list[str]:
    """Every model id that `locate` knows, the embedded ones first."""
    return [*EMBEDDED, *PUBLISHED]


def locate(
    name: str | os.PathLike[str],
    *,
    config: ClipConfig | None = None,
    activation: Activation | None = None,
    revision: str | None = None,
    digest: str | None = None,
) -> tuple[Path, ClipConfig]:
    """The path of a model's checkpoint on this machine, and its configuration.

    `config` stands for what the checkpoint says of itself, `activation` for that of its transformers. `revision`: a
    commit, tag or branch of a repository. `digest`: what the weights' has to be (Checkpoint.digest). Downloads and
    converts what isn't there yet, or isn't in OpenAI's tensor names. Raises ModelNotFound, InputError, ConfigError if
    the configuration can't be known, WeightsError if the weights are others, or what the conversion raises.
    """
    text = _with_revision(_text(name), revision)
    digest = digest if digest is None else checked_digest(digest)
    if find(text) is None and not is_of_hub(text):
        raise unknown(text)
    path, settled = _fetch()(text, config=config, activation=activation, digest=digest)
    check_weights(path, digest)
    return path, settled


def _with_revision(name: str, revision: str | None) -> str:
    """The name with the revision that it is asked for in. Raises InputError where there are no revisions."""
    if revision is None:
        return name
    base, _, written = name.partition("@")
    if not isinstance(revision, str) or not revision or not is_of_hub(base):
        raise InputError(
            f"revision is {brief(revision)}; expected a commit, tag or branch, of a published id or hf:owner/name. The "
            f"model is {name!r}."
        )
    if written not in ("", revision):
        raise InputError(f"revision is {revision!r}, but the model is {name!r}; say it once.")
    return f"{base}@{revision}"


def check_weights(path: Path, digest: str | None) -> None:
    """Raise WeightsError unless the weights at `path` have this digest, or, without one, are as they were made.

    A digest is compared with that of the weights themselves, which is read from a large file once. As they were made is
    asked only in `home()`, where a change is nobody's wish, and told by size and time unless these differ.
    """
    weights = path / "model.safetensors" if path.is_dir() else path
    if digest is not None:
        refuse_other(weights, SafetensorsFile(weights).digest, digest)
    elif path.is_relative_to(home()) and (provenance := read_provenance(weights)) is not None:
        recorded = provenance.get("digest")
        if recorded is None or recorded_digest(provenance, os.stat(weights)) is not None:
            return
        if (found := SafetensorsFile(weights).digest) != recorded:
            raise WeightsError(
                f"{weights} has changed since it was made: its digest is {found}, and was {recorded}. Remove the "
                f"folder to have it made again; weights that you changed yourself belong into a folder of your own."
            )


def _text(name: str | os.PathLike[str]) -> str:
    text = os.fspath(name) if isinstance(name, str | os.PathLike) else None
    if not isinstance(text, str) or not text:
        raise ModelNotFound(f"The model is {brief(name)}; expected a model id, hf:owner/name, or a path.")
    return text


def unknown(name: str) -> ModelNotFound:
    """The error for what is no model id and no path, with what may have been meant."""
    given = brief(name)
    address = re.fullmatch(r"(https?://(?P<host>[^/]*)/|[a-z0-9]+://)(?P<rest>.*)", name)
    if address:
        at_hub = re.match(r"[\w.-]+/[\w.-]+", address["rest"]) if address["host"] == "huggingface.co" else None
        hint = f"say {HUB_PREFIX}{at_hub[0]}." if at_hub else "fetch the file, and give its path."
        return ModelNotFound(f"{given} is an address, and models are opened from this machine or by id; {hint}")
    near = difflib.get_close_matches(name[:200], models(), n=3, cutoff=0.4)
    if re.fullmatch(r"(?!clip/|clipref/)\w[\w.-]*/\w[\w.-]*(@\S+)?", name):
        hint = f"if it is a repository of Hugging Face, say {HUB_PREFIX}{name}."
    else:
        hint = f"did you mean {' or '.join(near)}?" if near else f"the models are: {', '.join(models())}."
    return ModelNotFound(f"{given} is neither a model id nor a path that exists; {hint}")


def present(name: str | os.PathLike[str]) -> Path:
    """Where a model's checkpoint is on this machine. Raises ModelNotFound that says how it gets here."""
    name = _text(name)
    path = find(name)
    if path is not None:
        return path
    if is_of_hub(name):
        raise ModelNotFound(f"{name} is not on this machine; fetch it with: clipref download {name}")
    raise unknown(name)


def find(name: str) -> Path | None:
    """Where a model's checkpoint is on this machine, or None. Never downloads, never converts."""
    if name in EMBEDDED:
        return Path(__file__).parent / "data" / name.split("/")[1]
    if is_of_hub(name):
        folder, (base, _, revision) = folder_of(name), name.partition("@")
        if (folder / "model.safetensors").is_file():
            return folder
        return folder_of(base) if revision and _revision_of(folder_of(base)) == revision else None
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # a name too long, a null character, an unknown user's home
        return None


def is_of_hub(name: str) -> bool:
    """Whether a name is a published id or hf:owner/name, with or without @revision."""
    return name.partition("@")[0] in PUBLISHED or name.startswith(HUB_PREFIX)


def folder_of(name: str) -> Path:
    """Where a published model, or a repository hf:owner/name, either with or without @revision, is kept once converted.

    Raises ModelNotFound for what can be no repository or no revision.
    """
    base, at, revision = name.partition("@")
    known = base in PUBLISHED or re.fullmatch(HUB_PREFIX + r"\w[\w.-]*/\w[\w.-]*", base)
    if not known or (at and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", revision)):
        raise ModelNotFound(
            f"{name!r} is no repository; expected hf:owner/name, or hf:owner/name@revision (a commit, tag or branch)."
        )
    return home().joinpath(*name.replace(HUB_PREFIX, "hf/", 1).split("/"))


def _revision_of(folder: Path) -> str | None:
    """The commit that a converted folder was made from, as its provenance has it."""
    if not (folder / "model.safetensors").is_file():
        return None
    source = (read_provenance(folder / "model.safetensors") or {}).get("source")
    return source.get("revision") if isinstance(source, dict) else None


def pinned_digest(path: Path) -> str | None:
    """The digest that the weights in a folder have to have, if they are an embedded model's."""
    return next((model.digest for name, model in EMBEDDED.items() if find(name) == path), None)


def _fetch() -> Callable[..., tuple[Path, ClipConfig]]:
    with no_fork:
        for entry in entry_points(group=GROUP).select(name="fetch"):
            fetch: Callable[..., tuple[Path, ClipConfig]] = entry.load()
            return fetch
    raise ModelNotFound("This installation can't open checkpoints; install the package anew, whole.")
