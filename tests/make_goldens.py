"""Make the golden values: `python -m tests.make_goldens [tokens|texts|pixels|torch|tiny|full ...]`, with the oracles.

Embeddings, logits and samples of activations, computed in float64 by implementations that share no code with clipref,
on synthetic weights; beside them the error of the same code in float32. Logits are computed here, from the definition.
"""

import argparse
import gc
import hashlib
import html
import importlib.metadata
import json
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import torch
from safetensors.numpy import save_file

from clipref.config import ClipConfig
from clipref.conformance import goldens as conformance
from clipref.engine import NumpyEngine
from clipref.weights import Checkpoint

from . import cases, oracles, texts

MADE = ("tokens", "texts", "pixels", "torch", "tiny", "full")


def golden(checkpoint: Checkpoint, which: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The golden arrays of one case, and what is said of them."""
    config = checkpoint.config
    pixels, ids = (cases.tiny_inputs if which == "tiny" else cases.full_inputs)(config)
    kind: Any = oracles.OpenAI if cases.is_openai(config) else oracles.Transformers
    exact = kind(checkpoint, torch.float64)
    image, text = exact.encode_image(pixels), exact.encode_text(ids)
    scale = float(np.exp(oracles.state(checkpoint, torch.float64)["logit_scale"].numpy()))
    arrays = {"image": image, "text": text, "logits": cases.logits(image, text, scale)}
    ours = shapes(checkpoint, pixels, ids)
    for name, x in exact.taps.items():
        if which == "tiny" or "." not in name.removeprefix("visual.") or name.endswith((".0", ".5", ".11")):
            arrays[name] = cases.sample(cases.as_ours(name, x, ours[name], ids))
    del exact
    gc.collect()
    single = kind(checkpoint, torch.float32)
    rms = {"image": np.sqrt((image**2).mean()), "text": np.sqrt((text**2).mean())}
    errors = {
        "image": float(np.abs(single.encode_image(pixels) - image).max() / rms["image"]),
        "text": float(np.abs(single.encode_text(ids) - text).max() / rms["text"]),
    }
    return arrays, {"oracle": kind.name, "float32 error": errors, "weights sha256": cases.digest(checkpoint.file.path)}


def shapes(checkpoint: Checkpoint, pixels: np.ndarray, ids: np.ndarray) -> dict[str, tuple[int, ...]]:
    """The shapes, not the values, of our taps: which positions of an activation are there to be compared."""
    _, taps = cases.traced(NumpyEngine(checkpoint, "float32"), pixels, ids)
    return {name: x.shape for name, x in taps.items()}


def make(which: str, configs: dict[str, ClipConfig]) -> None:
    """Write <which>.safetensors with its provenance into conformance/golden."""
    arrays: dict[str, np.ndarray] = {}
    notes: dict[str, Any] = {}
    for name, config, style in cases.cases(configs):
        started = time.perf_counter()
        folder = Path(tempfile.mkdtemp())
        try:
            found, notes[f"{name} {style}"] = golden(cases.checkpoint(folder, config, style), which)
        finally:
            shutil.rmtree(folder)
        arrays |= {f"{name} {style} {key}": np.ascontiguousarray(value) for key, value in found.items()}
        print(f"{name} {style}: {time.perf_counter() - started:.0f} s, {notes[f'{name} {style}']}", flush=True)
    provenance = {
        "made by": "python -m tests.make_goldens",
        "changed in OpenAI's code": "LayerNorm without its cast to float32",
        "seed": cases.SEED,
        "versions": {p: importlib.metadata.version(p) for p in ("torch", "transformers", "clip-anytorch", "numpy")},
        "cases": notes,
    }
    path = conformance.GOLDEN / f"{which}.safetensors"
    save_file(arrays, path, metadata={"provenance": json.dumps(provenance)})
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def tokens() -> None:
    """Write golden/tokens.safetensors: the ids that OpenAI's tokenizer gives the first of the texts of texts.py."""
    original = oracles.openai_tokenizer()
    encoded = [original.encode(text) for text in texts.texts(texts.GOLDEN)]
    arrays = {
        "ids": np.array([i for ids in encoded for i in ids], np.uint16),
        "lengths": np.array([len(ids) for ids in encoded], np.uint16),
    }
    provenance = {
        "made by": "python -m tests.make_goldens tokens",
        "oracle": "OpenAI's clip/simple_tokenizer.py (clip-anytorch)",
        "versions": {p: importlib.metadata.version(p) for p in ("clip-anytorch", "ftfy", "regex")},
    }
    save_file(arrays, cases.GOLDEN / "tokens.safetensors", metadata={"provenance": json.dumps(provenance)})


def grouped_texts() -> None:
    """Write tokens.json of the conformance suite: texts by what they show, and OpenAI's ids of them."""
    original = oracles.openai_tokenizer()
    start, end = 49406, 49407
    every = list(texts.texts(texts.GOLDEN))
    fitting = [text for text in every if len(original.encode(text)) <= 75]
    words = ["", "Hello World!", "a photo of a cat", *texts.WORDS, "we've they'll he'd I'm it's isn't rock'n'roll"]
    scripts = [*texts.SCRIPTS, *texts.EMOJI, *texts.PUNCTUATION]
    groups = {
        # What fails here is blamed on how words are split and merged, so cleaning must not change any of it.
        "words": [text for text in words if is_clean(text)],
        "numbers": ["1", "12", "2023", "3.14159", "1,234.56", "a1b22c333", "٣٤", "0x7f", "50%"],
        "scripts": [text for text in scripts if is_clean(text)],
        "repaired": [*texts.MOJIBAKE, *texts.SCRIPTS, "Ⅷ ½ ²", "\x1b[31mred", "schÃ¶n cafÃ©"],
        "unescaped": [
            *texts.ENTITIES,
            "&amp;lt;b&amp;gt;",
            "a &amp;amp; b",
            "&amp;#39;",
            "fish &amp; chips",
            "1 < 2 &amp;lt; 3",
        ],
        "spaces": [f"a{space}photo{space}{space}of" for space in texts.SPACES] + ["  both ends \t"],
        "upper case": [
            *("A PHOTO", "İstanbul", "Straße ẞ", "GPU iPhone", "ΩMEGA Σ", "DON'T IT'S"),
            *(text for text in words if text.lower() != text),
        ],
        "whole table": spread(original, range(512, start, 47)),
        "last merges": spread(original, range(start - 100, start)),
        "id 0": ["!%", "!)(", "wow!; !€ !%!%!%"],
        "special": [*texts.SPECIAL, "before<|endoftext|>behind", "<|startoftext|> twice"],
        "mixed": [text for text in fitting[150:] if all(map(has_settled, text))][:200],
        "to the brim": ["word " * 75, "1" * 75, "word " * 74, "a cat"],
        "too long": [
            "word " * 76,
            "word " * 90,
            "1" * 200,
            *[t for t in every if len(original.encode(t)) > 75][:12],
        ],
        "context of 20": [
            "a photo of a cat",
            "",
            "word " * 17,
            "word " * 18,
            "word " * 19,
            *filter(is_clean, texts.SCRIPTS),
        ],
        "refused": ["a photo of a cat", "word " * 76],
    }
    assert all(0 in original.encode(text) for text in groups["id 0"])
    found: dict[str, Any] = {}
    for group, members in groups.items():
        length = 20 if group == "context of 20" else 77
        truncate = group in ("too long", "context of 20")
        rows = [[start, *original.encode(text), end] for text in members]
        longest = max(len(row) for row in rows)
        assert longest > length if truncate or group == "refused" else longest <= length, group
        assert group != "to the brim" or [len(row) for row in rows[:2]] == [77, 77]
        rows = [row if len(row) <= length else [*row[: length - 1], end] for row in rows]
        kept = [] if group == "refused" else rows
        found[group] = {"texts": members, "context_length": length, "truncate": truncate, "ids": kept}
    provenance = {
        "made by": "python -m tests.make_goldens texts",
        "oracle": "OpenAI's clip/simple_tokenizer.py (clip-anytorch); start, end, truncation as in clip/clip.py",
        "versions": {p: importlib.metadata.version(p) for p in ("clip-anytorch", "ftfy", "regex")},
    }
    path = conformance.GOLDEN / "tokens.json"
    path.write_text(json.dumps({"provenance": provenance, "groups": found}) + "\n", encoding="ascii")
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def is_clean(text: str) -> bool:
    """Whether no step before the split changes a text: ftfy, unescaping, lower case."""
    return text == ftfy.fix_text(text) == html.unescape(text) == text.lower()


def has_settled(character: str) -> bool:
    """Whether Unicode 3.2 had this character, which Python keeps a table of: whether it is a letter is then the same in
    every version of Python and of `regex`, and so are the ids of a text.
    """
    return unicodedata.ucd_3_2_0.category(character) != "Cn"


def spread(original: Any, ids: Sequence[int]) -> list[str]:
    """Texts that use these merges, of as many words as the context takes.

    A few ids, parts of characters, are in no text of two tokens; they are left out.
    """
    symbols = {i: symbol for symbol, i in original.encoder.items()}
    words = []
    for i in ids:
        data = bytes(original.byte_decoder[c] for c in symbols[i].removesuffix("</w>"))
        word = data.decode("utf-8", errors="ignore")
        # What isn't the end of a word needs something behind it that no later merge takes.
        tails = ("",) if symbols[i].endswith("</w>") else "qxzjvkwbpygfu0!%"
        words += [word + tail for tail in tails if i in original.encode(word + tail)][:1]
    assert len(words) > 0.98 * len(ids)
    found = [" ".join(words[i : i + 30]) for i in range(0, len(words), 30)]
    missing = set(ids) - {i for text in found for i in original.encode(text)}
    assert len(missing) <= 0.02 * len(ids) and ids[-1] not in missing
    return found


def pixels() -> None:
    """Write pixels.safetensors and pixels.json of the conformance suite: Pillow's, called once as the original does.

    Of transformers' profiles, its own image processors must give the same; torchvision_pixels.py asks those that stand
    on torchvision. Of what is 224 pixels wide, digests are enough.
    """
    from transformers import CLIPImageProcessorPil

    from clipref.conformance.questions.images import PICTURES
    from clipref.conformance.restated import preprocessing

    from .torchvision_pixels import oracle_pixels

    arrays, digests = {}, {}
    version = importlib.metadata.version("transformers")
    torchvision, asked = oracle_pixels()
    for mode, width, height, side in PICTURES:
        name = f"{mode} {width}x{height} to {side}"
        for profile, steps in preprocessing.PROFILES.items():
            if profile != "openai" and mode == "I;16":
                continue
            image = preprocessing.open_png(preprocessing.png(preprocessing.picture(mode, width, height)))
            levels = np.ascontiguousarray(preprocessing.resize(image, side, steps))
            if steps.resampler == "torch":
                assert np.array_equal(levels, torchvision[f"{name} {steps.rgb}"]), (name, profile)
            else:
                assert np.array_equal(levels, once(image, side, steps)), (name, profile)
            theirs = None
            if profile == preprocessing.transformers_profile(version):
                processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=side)
                theirs = processor(image, return_tensors="np", do_convert_rgb=True)["pixel_values"][0]
            elif profile == preprocessing.transformers_profile(version, torchvision=True):
                theirs = torchvision[f"{name} pixels"]
            if theirs is not None:
                assert np.abs(theirs - preprocessing.normalise(levels)).max() < 1e-5, (name, profile)
            if side == 224:
                digests[f"{name} {profile}"] = hashlib.sha256(levels.tobytes()).hexdigest()
            else:
                arrays[f"{name} {profile}"] = levels
    provenance = {
        "made by": "python -m tests.make_goldens pixels",
        "oracle": "Pillow, as torchvision calls it for clip/clip.py; torchvision's resize of tensors; transformers' "
        "image processors CLIPImageProcessorPil and CLIPImageProcessor (torchvision's) give the same",
        "versions": {p: importlib.metadata.version(p) for p in ("pillow", "transformers", "torch")} | asked,
    }
    path = conformance.GOLDEN / "pixels.json"
    path.write_text(json.dumps({"provenance": provenance, "sha256": digests}, indent=0) + "\n", encoding="ascii")
    path = conformance.GOLDEN / "pixels.safetensors"
    save_file(arrays, path, metadata={"provenance": json.dumps(provenance)})
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def once(image: Any, side: int, steps: Any) -> np.ndarray:
    """The levels with a single call of Pillow's resize, as torchvision's Resize, CenterCrop and convert("RGB")."""
    from PIL import Image

    if steps.rgb == "first, on white" and ("A" in image.getbands() or "transparency" in image.info):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image if steps.rgb == "last" else image.convert("RGB")
    width, height = image.size
    if min(width, height) != side:
        long = int(side * max(width, height) / min(width, height))
        image = image.resize((side, long) if width <= height else (long, side), Image.Resampling.BICUBIC)
    left, top = (steps.offset(s - side) for s in image.size)
    return np.asarray(image.crop((left, top, left + side, top + side)).convert("RGB"))


def sums() -> None:
    """Write SHA256SUMS, so that an edit by hand shows."""
    files = sorted(path for path in conformance.GOLDEN.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{cases.digest(path)}  {path.name}\n" for path in files]
    (conformance.GOLDEN / "SHA256SUMS").write_text("".join(lines), encoding="ascii")


def torch_files() -> None:
    """Write golden/torch/: small checkpoints saved by torch itself, each with its tensors in a safetensors file."""
    from safetensors.torch import save_file as save_torch

    from . import torch_writers

    folder = cases.GOLDEN / "torch"
    folder.mkdir(exist_ok=True)
    for name, config in cases.MINI.items():
        scratch = Path(tempfile.mkdtemp())
        checkpoint = cases.checkpoint(scratch, config, "plain")
        if name == "vit":  # a ResNet's traced code is large
            torch_writers.save_torchscript(folder / f"{name}.pt", checkpoint)
        state = torch_writers.save_state_dict(folder / f"{name}.bin", checkpoint, training=name == "rn")
        # BatchNorm counts its batches; nobody needs that, and nor do we.
        kept = {n: x.contiguous() for n, x in state.items() if not n.endswith("num_batches_tracked")}
        save_torch(kept, folder / f"{name}.safetensors", metadata={"torch": torch.__version__})
        shutil.rmtree(scratch)
    for path in sorted(folder.iterdir()):
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("which", nargs="*", choices=MADE, default=MADE)
    args = parser.parse_args()
    for which in args.which:
        if which == "tokens":
            tokens()
        elif which == "texts":
            grouped_texts()
        elif which == "pixels":
            pixels()
        elif which == "torch":
            torch_files()
        else:
            make(which, {"tiny": cases.TINY, "full": cases.FULL}[which])
    sums()


if __name__ == "__main__":
    main()
