"""CLIPA against two codes that share nothing with ours: open_clip's own towers, and torch's nn.TransformerEncoder.

`python -m tests.test_clipa_oracle` makes the golden values of tests/test_clipa.py with the first. open_clip's package
needs torchvision, of which its transformers use nothing; so its module is loaded with a stand-in for it.
"""

import importlib
import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from clipref import AutoModel
from clipref.clipa import ClipaConfig
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic

from . import clipa, tolerances

pytestmark = pytest.mark.oracle
PIXELS, IDS = clipa.inputs()


def open_clip_transformers() -> Any:
    """open_clip/transformer.py of the open_clip_torch wheel."""
    name = "open_clip/transformer.py"
    path = next(f.locate() for f in importlib.metadata.files("open_clip_torch") or [] if str(f) == name)
    package, vision, ops, misc = (
        ModuleType(name) for name in ("open_clip", "torchvision", "torchvision.ops", "torchvision.ops.misc")
    )
    package.__path__ = [str(Path(str(path)).parent)]
    misc.FrozenBatchNorm2d = type("FrozenBatchNorm2d", (), {})  # type: ignore[attr-defined]
    stand_ins = {module.__name__: module for module in (package, vision, ops, misc)}
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules |= stand_ins
    try:
        return importlib.import_module("open_clip.transformer")
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


def state(folder: Path) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file

    return {name: x.to(torch.float64) for name, x in load_file(folder / "open_clip_model.safetensors").items()}


def by_open_clip(folder: Path) -> dict[str, np.ndarray]:
    """What open_clip's VisionTransformer and TextTransformer give, as its factory makes them of the configuration."""
    import torch

    code, model = open_clip_transformers(), json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    tensors, vision, text = state(folder), dict(model["vision_cfg"]), dict(model["text_cfg"])
    settings = {"output_dim": model["embed_dim"], "act_layer": torch.nn.GELU}
    heads = vision["width"] // vision.pop("head_width")
    image_tower = code.VisionTransformer(heads=heads, **vision, **settings)
    image_tower.load_state_dict({n[7:]: x for n, x in tensors.items() if n.startswith("visual.")}, assign=True)
    del text["hf_tokenizer_name"], text["tokenizer_kwargs"]
    text_tower = code.TextTransformer(**text, **settings)
    rest = {n: x for n, x in tensors.items() if not n.startswith("visual.") and n != "logit_scale"}
    text_tower.load_state_dict(rest, assign=True)
    with torch.inference_mode():
        pixels = torch.from_numpy(PIXELS).to(torch.float64)
        return {
            "image": image_tower.eval()(pixels).numpy(),
            "text": text_tower.eval()(torch.from_numpy(IDS)).numpy(),
        }


def by_torch(folder: Path) -> dict[str, np.ndarray]:
    """The two towers as their configuration describes them, of torch's own encoder layers."""
    import torch
    from torch import nn

    config, tensors = clipa.CONFIG, state(folder)
    vision = config.vision
    assert isinstance(vision, ClipaConfig)

    def blocks(x: Any, part: Any, prefix: str) -> Any:
        for i in range(part.layers):
            layer = nn.TransformerEncoderLayer(
                part.width, part.heads, part.mlp_width, 0.0, "gelu", batch_first=True, norm_first=True
            ).double()
            ours = {
                "self_attn": "attn", "linear1": "mlp.c_fc", "linear2": "mlp.c_proj", "norm1": "ln_1", "norm2": "ln_2"
            }  # fmt: skip
            named = {}
            for name in layer.state_dict():
                part_of, _, rest = name.partition(".")
                named[name] = tensors[f"{prefix}transformer.resblocks.{i}.{ours[part_of]}.{rest}"]
            layer.load_state_dict(named)
            x = layer.train()(x)  # whose fast path in eval is another code
        return x

    def norm(x: Any, name: str) -> Any:
        return nn.functional.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    with torch.no_grad():
        x = nn.functional.conv2d(
            torch.from_numpy(PIXELS).double(), tensors["visual.conv1.weight"], stride=vision.patch_size
        )
        x = torch.cat([tensors["visual.class_embedding"].expand(len(x), 1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        x = blocks(x + tensors["visual.positional_embedding"], vision, "visual.")
        image = norm(x[:, 1:].mean(dim=1), "visual.ln_post") @ tensors["visual.proj"]
        y = nn.functional.embedding(torch.from_numpy(IDS), tensors["token_embedding.weight"])
        y = blocks(y + tensors["positional_embedding"], config.text, "")
        text = norm(y, "ln_final")[:, -1] @ tensors["text_projection"]
    return {"image": image.numpy(), "text": text.numpy()}


@pytest.mark.parametrize("style", synthetic.STYLES)
def test_three_codes_agree(style: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path / "home"))
    folder = clipa.write(tmp_path, style)
    model = AutoModel.from_pretrained(folder, backend="reference", dtype="float64")
    ours = {"image": model.encode_image(PIXELS), "text": model.encode_text(IDS)}
    recorded = json.loads(clipa.GOLDEN.read_text(encoding="utf-8"))
    for name, right in by_open_clip(folder).items():
        tolerances.assert_close(ours[name], right, "oracle float64")
        tolerances.assert_close(by_torch(folder)[name], right, "oracle float64")
        if style == "trained":
            tolerances.assert_close(np.array(recorded[style][name]), right, "oracle float64")


def test_torch_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path / "home"))
    folder = clipa.write(tmp_path)
    model, right = AutoModel.from_pretrained(folder, backend="torch", dtype="float64"), by_open_clip(folder)
    tolerances.assert_close(model.encode_image(PIXELS), right["image"], "oracle float64")
    tolerances.assert_close(model.encode_text(IDS), right["text"], "oracle float64")


def record() -> None:
    """Write the golden values, and what made them."""
    with tempfile.TemporaryDirectory() as folder:
        theirs = clipa.write(Path(folder))
        digest = Checkpoint(theirs.parent / "ours").digest
        found = {name: x.tolist() for name, x in by_open_clip(theirs).items()}
    versions = {name: importlib.metadata.version(name) for name in ("open_clip_torch", "torch")}
    made = {"made by": "python -m tests.test_clipa_oracle", "versions": versions, "weights": digest, "trained": found}
    clipa.GOLDEN.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
