"""`inspect` and `verify`: the facts of a checkpoint, a changed bit, published values."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from clipref import AutoModel, WeightsError, hub
from clipref.cli import main
from clipref.config import PUBLISHED
from clipref.weights import Checkpoint
from clipref.weights_tools import verify as verifying
from clipref.weights_tools.convert import convert
from clipref.weights_tools.inspect import _deviations, inspect
from clipref.weights_tools.published import (
    PUBLISHED_VALUES,
    Published,
    _embedding,
    _grey_embedding,
    _grey_pooled_output,
)
from clipref.weights_tools.verify import verify

from . import cases, layouts
from .conftest import pictures

TORCH = cases.GOLDEN / "torch"


def test_inspect(trained_vit: Path, trained_resnet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = inspect(trained_vit)
    assert facts["config"] == Checkpoint(trained_vit).config.to_dict() and not facts["problems"] and not facts["doubts"]
    tensors = load_file(trained_vit / "model.safetensors")
    assert facts["bytes"] == sum(x.nbytes for x in tensors.values()) and facts["tensors"] == len(tensors)
    assert facts["parameters"]["image"] == sum(x.size for name, x in tensors.items() if name.startswith("visual"))
    assert facts["statistics"]["logit scale"] == pytest.approx(float(np.exp(tensors["logit_scale"])))
    # The synthetic style "trained" has residual channels 20 to 60 times the others.
    ratios = facts["statistics"]["largest channel over median channel"]
    assert max(ratios.values()) > 15 and max(
        inspect(trained_resnet)["statistics"]["LayerNorm gains, smallest and largest"]
    )
    assert (
        facts["nearest published"] == "clip/ViT-B-32"
        and "vision.activation is gelu, not quick_gelu" in facts["deviations"]
    )
    assert main(["inspect", str(trained_resnet)]) == 0
    assert "ModifiedResNet, resolution 160" in capsys.readouterr().out
    assert main(["inspect", "clipref/shapes-vit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "safetensors"


def test_digests_do_not_depend_on_the_layout(trained_vit: Path, tmp_path: Path) -> None:
    other = layouts.put(tmp_path / "theirs", layouts.as_transformers(trained_vit, Checkpoint(trained_vit).config))
    facts = inspect(other)
    assert facts["digest"] == inspect(trained_vit)["digest"] and facts["digests"] == inspect(trained_vit)["digests"]
    converted = json.loads((convert(other, tmp_path / "out") / "provenance.json").read_text())
    assert {name: entry["sha256"] for name, entry in converted["tensors"].items()} == facts["digests"]


def test_a_published_shape_has_no_deviations(tmp_path: Path) -> None:
    for name, config in PUBLISHED.items():
        assert _deviations(config, []) == (name, [])


def test_inspect_says_what_is_in_doubt_and_what_is_wrong(trained_vit: Path, tmp_path: Path) -> None:
    facts = inspect(TORCH / "rn.bin")
    assert facts["config"]["vision"]["heads"] is None and facts["config"]["text"]["activation"] is None
    assert "activation" not in facts["config"]["vision"] and len(facts["doubts"]) == 2
    tensors = load_file(trained_vit / "model.safetensors")
    tensors["visual.proj"][0, :3] = np.nan
    tensors.pop("ln_final.bias")
    broken = layouts.put(tmp_path / "broken", {"config.json": (trained_vit / "config.json").read_bytes()})
    save_file(tensors, broken / "model.safetensors")
    problems = inspect(broken)["problems"]
    assert "missing 'ln_final.bias'" in problems[0] and problems[1] == "visual.proj has 3 values that are not finite"
    assert main(["inspect", str(broken)]) == 1


def outcomes(path: Path, **options: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in verify(path, **options):
        found.setdefault(finding.outcome, []).append(finding.what)
    return found


def test_verify_finds_a_changed_bit(trained_vit: Path, tmp_path: Path) -> None:
    converted = convert(trained_vit, tmp_path / "out")
    assert "FAILED" not in outcomes(converted)
    file = converted / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert outcomes(converted)["FAILED"] == [
        "logit_scale",
        "finite tensors that are as provenance.json says",
        "digest of all tensors",
    ]
    assert main(["verify", str(converted)]) == 1
    content[-1] ^= 1
    end = 8 + int.from_bytes(content[:8], "little")
    header = bytes(content[8:end]).replace(b'"F16"', b'"BF16"', 1)  # the same bytes, read as other numbers
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    found = [finding for finding in verify(converted) if finding.outcome == "FAILED"]
    assert (found[0].expected, found[0].found) == ("dtype F16", "dtype BF16")
    file.write_bytes(bytes(content))
    assert "FAILED" not in outcomes(converted)
    (converted / "provenance.json").write_text("{")
    with pytest.raises(WeightsError, match="provenance.json is not JSON"):
        outcomes(converted)
    (converted / "provenance.json").unlink()
    assert outcomes(converted)["not done"][0] == "digest of all tensors" and main(["verify", str(converted)]) == 0


def test_verify_compares_published_values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert {value.model for value in PUBLISHED_VALUES} <= PUBLISHED.keys()
    model = AutoModel.from_pretrained("clipref/shapes-vit", backend="reference")
    truth = tuple(model.encode_image(np.full((1, 3, 48, 48), 0.5, np.float32))[0, 1:4].tolist())
    picture = tmp_path / "picture.png"
    Image.fromarray(pictures(1)[0]).save(picture)
    first = tuple(model.embed_image(str(picture))[0, :2].tolist())
    seen: dict[str, np.ndarray] = {}
    model.engine.encode_image(np.full((1, 3, 48, 48), 0.5, np.float32), seen.setdefault)  # type: ignore[call-arg]
    pooled = tuple(seen["visual.ln_post"][0, 1:4].tolist())
    wrong = (truth[0], truth[1], truth[2] + 1e-2)
    name = "clip/ViT-B-32"
    monkeypatch.setitem(PUBLISHED, name, model.config)
    values = (
        Published(name, "here", "right", truth, 1e-4, _grey_embedding),
        Published(name, "here", "pooled", pooled, 1e-4, _grey_pooled_output),
        Published(name, "here", "wrong", wrong, 1e-4, _grey_embedding),
        Published(name, "here", "nothing", (float("nan"),) * 3, 1e-4, _grey_embedding),
        Published(name, "here", "picture", first, 1e-4, _embedding(2), "picture.png", cases.digest(picture)),
        Published(name, "here", "another picture", first, 1e-4, _embedding(2), "picture.png", "0" * 64),
        Published(name, "here", "no picture", first, 1e-4, _embedding(2), "gone.png"),
        Published("clip/RN50", "here", "another model", truth, 1e-4, _grey_embedding),
    )
    monkeypatch.setattr(verifying, "PUBLISHED_VALUES", values)
    folder, _ = hub.locate("clipref/shapes-vit")
    found = {finding.what.split(" (")[0]: finding.outcome for finding in verify(folder, model=name, images=tmp_path)}
    expected = {"right": "ok", "pooled": "ok", "wrong": "FAILED", "nothing": "FAILED", "picture, picture.png": "ok"}
    expected |= {"another picture, picture.png": "not done", "no picture, gone.png": "not done"}
    assert {what: outcome for what, outcome in found.items() if what in expected} == expected
    assert "another model" not in found
    assert {"picture, picture.png": "not done"}.items() <= {
        f.what.split(" (")[0]: f.outcome for f in verify(folder, model=name)
    }.items()


def test_verify_of_what_is_not_there(trained_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("verify", "inspect"):
        assert main([command, str(tmp_path / "gone")]) == 1
        assert "gone' is neither a model id nor a path that exists" in capsys.readouterr().err
        assert main([command, "clip/ViT-B32"]) == 1
        assert "did you mean clip/ViT-B-32" in capsys.readouterr().err
        assert main([command, "hf:owner/name"]) == 1
        assert "not on this machine; fetch it with: clipref download hf:owner/name" in capsys.readouterr().err
    theirs = layouts.put(tmp_path / "theirs", layouts.as_transformers(trained_vit, Checkpoint(trained_vit).config))
    assert main(["verify", str(theirs)]) == 1
    assert "is of another layout; convert it first: clipref convert" in capsys.readouterr().err
    assert main(["verify", "clipref/shapes-rn", "--images", str(tmp_path / "gone")]) == 1
    assert "is not a folder" in capsys.readouterr().err
    assert main(["verify", "clipref/shapes-rn", "--json"]) == 0
    assert {finding["outcome"] for finding in json.loads(capsys.readouterr().out)} == {"ok", "not done"}
