"""Published values of released weights, computed with an engine's towers."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref import AutoModel, hub
from clipref.config import PUBLISHED
from clipref.conformance import faults, released
from clipref.conformance.engines import open_engine
from clipref.conformance.faults import FaultyEngine
from clipref.conformance.protocol import Case, Outputs, Unsupported
from clipref.errors import ModelNotFound, WeightsError
from clipref.weights import read_config
from clipref.weights_tools.convert import convert
from clipref.weights_tools.published import Published, _grey_pooled_output
from clipref.weights_tools.sources import OPENAI_FILES


@pytest.fixture
def as_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an embedded model that counts as ViT-B-32's released weights, by the sha256 of its file."""
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path))
    model = hub.present("clipref/shapes-vit")
    weights = (model / "model.safetensors").read_bytes()
    monkeypatch.setitem(OPENAI_FILES, "clip/ViT-B-32", hashlib.sha256(weights).hexdigest())
    monkeypatch.setitem(PUBLISHED, "clip/ViT-B-32", read_config(model / "config.json"))
    return convert(model, tmp_path / "clip" / "ViT-B-32")


def test_published_values_are_computed_with_the_engines_towers(
    as_released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModel.from_pretrained("clipref/shapes-vit", backend="reference")
    right = tuple(model.embed_text("a red circle")[0, :3].tolist())
    pixels = np.full((1, 3, 48, 48), 0.5, np.float32)
    traced: dict[str, Any] = {}
    model.reference.encode_image(pixels, traced.setdefault)
    grey = tuple(traced["visual.ln_post"][0, 1:4].tolist())

    def compute(model: Any, image: Any) -> Any:
        return model.embed_text("a red circle")[0, :3]

    values = [
        Published("clip/ViT-B-32", "here", "right", right, 1e-4, compute),
        Published("clip/ViT-B-32", "here", "wrong", (right[0] + 1, *right[1:]), 1e-4, compute),
        Published("clip/ViT-B-32", "here", "of an image", right, 1e-4, compute, "nowhere.png"),
        Published("clip/ViT-B-32", "here", "an activation", grey, 1e-4, _grey_pooled_output),
    ]
    monkeypatch.setattr(released, "PUBLISHED_VALUES", values)

    def verdicts(engine: Any, name: str = "clip/ViT-B-32") -> list[str]:
        return [result.verdict for result in released.results(engine, name, None)]

    class Untraced(FaultyEngine):
        def answer(self, case: Case) -> Outputs:
            if case.verb.startswith("trace"):
                raise Unsupported("no taps")
            return super().answer(case)

    class Narrow(FaultyEngine):
        def answer(self, case: Case) -> Outputs:
            if case.verb.startswith("trace"):
                return {"visual.ln_pre": np.zeros((1, 3, 5), np.float32)}
            return {name: x[:, :4] for name, x in super().answer(case).items()}

    assert verdicts(FaultyEngine()) == ["PASS", "FAIL", "SKIP", "PASS"]
    assert verdicts(FaultyEngine(), str(as_released)) == ["PASS", "FAIL", "SKIP", "PASS"]
    assert verdicts(open_engine("backend:onnx")) == ["PASS", "FAIL", "SKIP", "PASS"]
    assert verdicts(Untraced()) == ["PASS", "FAIL", "SKIP", "SKIP"]
    assert verdicts(FaultyEngine(faults.BY_ID["normalised"])) == ["FAIL", "FAIL", "SKIP", "PASS"]
    found = list(released.results(Narrow(), "clip/ViT-B-32", None))
    assert [result.verdict for result in found] == ["FAIL", "FAIL", "SKIP", "SKIP"]
    assert "gave 'embeddings' of shape [1, 4], expected [1, 96]" in str(found[0].problem)
    assert "needs nowhere.png" in str(found[2].problem) and "no activation 'visual.ln_post'" in str(found[3].problem)
    assert found[0].claims == ("REL-1",)
    monkeypatch.setattr(released, "PUBLISHED_VALUES", [])
    assert verdicts(FaultyEngine()) == ["SKIP"]


def test_released_weights_are_known_by_their_sha256(as_released: Path, tmp_path: Path) -> None:
    assert released.released_model(as_released) == "clip/ViT-B-32"
    with pytest.raises(WeightsError, match="not known to be weights that .*: it comes from nowhere, without"):
        released.released_model(hub.present("clipref/shapes-rn"))
    provenance = as_released / "provenance.json"
    said = json.loads(provenance.read_text())
    fetched = {**said, "source": {"repository": "openai/clip-vit-base-patch32", "files": {"x": "00"}}}
    provenance.write_text(json.dumps(fetched))
    assert released.released_model(as_released) == "clip/ViT-B-32"
    cases = {
        "comes from x with sha256 00": {**said, "source": {"repository": "somebody/else", "files": {"x": "00"}}},
        "was cast to float16": {**said, "cast to": "float16"},
        "has no digests": {**said, "tensors": None},
        "logit_scale has sha256 .*, expected sha256 00": {
            **said, "tensors": {**said["tensors"], "logit_scale": {**said["tensors"]["logit_scale"], "sha256": "00"}},
        },
    }  # fmt: skip
    for message, changed in cases.items():
        provenance.write_text(json.dumps(changed))
        with pytest.raises(WeightsError, match=message):
            released.released_model(as_released)
    with pytest.raises(ModelNotFound, match="fetch it with: clipref download clip/RN50"):
        list(released.results(FaultyEngine(), "clip/RN50", None))
