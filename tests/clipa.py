"""A tiny CLIPA as open_clip lays it out, and what is asked of it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from clipref.clipa import ClipaConfig, ClipaTextConfig
from clipref.config import ClipConfig, PreprocessConfig
from clipref.weights_tools import synthetic

from . import cases

# No two axes are equally long. Pixels are prepared as open_clip's `_apcfg` says (src/open_clip/pretrained.py).
CONFIG = ClipConfig(
    22,
    ClipaConfig(30, 6, 36, 2, 3, 81, "gelu"),
    ClipaTextConfig(11, 101, 20, 3, 5, 50, "gelu", tokenizer="bert-base-uncased"),
    PreprocessConfig((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", "squash"),
)
GOLDEN = Path(__file__).parent / "golden" / "clipa.json"

# What stands in open_clip's model_configs/ViT-L-14-CLIPA.json but for the sizes.
VISION: dict[str, Any] = {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
TEXT: dict[str, Any] = {
    "hf_tokenizer_name": "bert-base-uncased",
    "tokenizer_kwargs": {"strip_sep_token": True},
    "pool_type": "last",
    "no_causal_mask": True,
}


def open_clip_config() -> dict[str, Any]:
    """open_clip_config.json, as its push_to_hf_hub.py writes it."""
    vision, text = CONFIG.vision, CONFIG.text
    assert isinstance(vision, ClipaConfig)
    return {
        "model_cfg": {
            "embed_dim": CONFIG.embed_dim,
            "vision_cfg": {
                "image_size": vision.resolution, "layers": vision.layers, "width": vision.width,
                "head_width": vision.width // vision.heads, "mlp_ratio": vision.mlp_width / vision.width,
                "patch_size": vision.patch_size, **VISION,
            },
            "text_cfg": {
                "context_length": text.context_length, "vocab_size": text.vocab_size, "width": text.width,
                "heads": text.heads, "layers": text.layers, "mlp_ratio": text.mlp_width / text.width, **TEXT,
            },
        },
        "preprocess_cfg": {
            key: value for key, value in dataclasses.asdict(CONFIG.preprocess).items() if key != "upright"
        },
    }  # fmt: skip


def write(folder: Path, style: str = "trained") -> Path:
    """A folder as a repository of open_clip has it, the tokenizer's own file beside the weights."""
    made = synthetic.write(folder / "ours", CONFIG, cases.SEED, style)  # type: ignore[arg-type]
    theirs = folder / "theirs"
    theirs.mkdir()
    save_file(load_file(made / "model.safetensors"), theirs / "open_clip_model.safetensors")
    (theirs / "open_clip_config.json").write_text(json.dumps(open_clip_config()), encoding="utf-8")
    (theirs / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece", "vocab": {"[PAD]": 0}}}))
    return theirs


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """Pixels [4, 3, R, R], and ids [3, T] padded with 0: a word, some, and a full row."""
    text = CONFIG.text
    ids = np.random.Generator(np.random.PCG64(5)).integers(1, text.vocab_size, (3, text.context_length))
    ids[0, 2:], ids[1, 7:] = 0, 0
    return cases.pixels(CONFIG, 4), ids
