"""What `clipref verify --attest FILE` writes: what a model is and what was checked, as JSON or as a CycloneDX ML-BOM.

Digests of the files, of every tensor, and of all together, which is the same whatever file they lie in; configuration,
findings, versions; and the verdict of a conformance run, where one is given. No time stands in it, so that the same
model and the same findings have the same bytes, and a signature of the file stands for them. A name that ends with
.cdx.json gets a bill of materials of CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json/), any other our own JSON.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipref import __version__
from clipref.config import tensor_shapes
from clipref.digests import model_digest, tensor_digest
from clipref.errors import InputError
from clipref.files import parse_json, read_bytes
from clipref.weights import Checkpoint

from .sources import sha256

if TYPE_CHECKING:
    from .verify import Finding

FORMAT = "clipref attestation 1"
_LARGEST = 2**26  # bytes of a conformance run's report; a full one has less than 1 MB
_VERSIONS = ("numpy", "safetensors")


def attestation(
    checkpoint: Checkpoint, findings: Sequence[Finding], conformance: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Everything that is attested, as JSON types. `conformance`: what `clipref conformance run --json` prints."""
    folder = checkpoint.file.path.parent
    files = [checkpoint.file.path, folder / "config.json"]
    tensors: dict[str, tuple[str, tuple[int, ...], str]] = {}
    for name in tensor_shapes(checkpoint.config):
        stored = checkpoint.file.stored(name)
        tensors[name] = checkpoint.file.dtypes[name], stored.shape, tensor_digest(stored)
    failed = sum(finding.outcome == "FAILED" for finding in findings)
    return {
        "format": FORMAT,
        "digest": model_digest(tensors),
        "files": {file.name: sha256(file) for file in files if file.is_file()},
        "image tower": checkpoint.config.vision.title,
        "config": checkpoint.config.to_dict(),
        "tensors": {
            name: {"dtype": dtype, "shape": list(shape), "sha256": digest}
            for name, (dtype, shape, digest) in tensors.items()
        },
        "verified": not failed,
        "findings": [asdict(finding) for finding in findings],
        "conformance": None if conformance is None else _verdict(conformance),
        "versions": {"clipref": __version__, **{name: importlib.metadata.version(name) for name in _VERSIONS}},
    }


def read_conformance(path: Path) -> dict[str, Any]:
    """The report of a conformance run, as `clipref conformance run --json` prints it. Raises InputError."""
    try:
        found = parse_json(read_bytes(path, _LARGEST))
    except (OSError, ValueError) as problem:
        raise InputError(
            f"--conformance {path} can't be read: {problem}. Expected what clipref conformance run --json prints."
        ) from problem
    if not isinstance(found, dict) or not {"engine", "precision", "passed", "grade", "counts"} <= found.keys():
        raise InputError(f"--conformance {path} is not what clipref conformance run --json prints.")
    return found


def _verdict(conformance: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("clipref", "engine", "precision", "profile", "pixels", "passed", "grade", "counts")
    return {key: conformance.get(key) for key in keys}


def bill_of_materials(attested: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The same as a CycloneDX ML-BOM: the model a component, its files components of it, the rest properties."""
    config = attested["config"]
    files = [
        {"type": "file", "bom-ref": f"file:{file}", "name": file, "hashes": [{"alg": "SHA-256", "content": digest}]}
        for file, digest in attested["files"].items()
    ]
    properties = {
        "clipref:digest": attested["digest"],
        "clipref:verified": attested["verified"],
        "clipref:config": config,
        "clipref:tensors": attested["tensors"],
        "clipref:findings": attested["findings"],
        "clipref:conformance": attested["conformance"],
        "clipref:versions": attested["versions"],
    }
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": name,
        "version": attested["digest"],
        "hashes": [file["hashes"][0] for file in files if file["name"].endswith(".safetensors")],
        "modelCard": {
            "modelParameters": {
                "task": "image and text embedding",
                "architectureFamily": "CLIP",
                "modelArchitecture": f"{attested['image tower']} and text transformer",
                "inputs": [{"format": "image"}, {"format": "text"}],
                "outputs": [{"format": f"embedding of {config['embed_dim']} numbers"}],
            }
        },
        "properties": [{"name": key, "value": _text(value)} for key, value in properties.items()],
    }
    tool = {"type": "application", "name": "clipref", "version": attested["versions"]["clipref"]}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"tools": {"components": [tool]}, "component": model},
        "components": files,
        "dependencies": [{"ref": "model", "dependsOn": [file["bom-ref"] for file in files]}],
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def attested_text(attested: Mapping[str, Any], name: str, out: Path) -> str:
    """What is written to a file of this name."""
    content = bill_of_materials(attested, name) if out.name.endswith(".cdx.json") else attested
    return json.dumps(content, indent=1, sort_keys=True) + "\n"
