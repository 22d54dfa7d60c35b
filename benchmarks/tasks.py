"""Users' tasks, timed from outside: short prompts, a matrix of labels and templates, a picture among labels, the first
embedding of a process, and its memory.

    python benchmarks/tasks.py [prompts labels classify start memory] [--backend onnx] [--rounds 5] [--json FILE]

Weights are a synthetic ViT-B-32, whole. Alternatives take turns within a round; figures are medians over the rounds,
and ratios medians of each round's ratio. Peers take part where they are installed. A result is compared with the
reference's before its time is printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peers
from measuring import alternate, error_of, write_json
from peers_transformers import converted
from PIL import Image

from clipref import CLIP, AutoModel
from clipref.config import PUBLISHED
from clipref.lazy import available_threads
from clipref.memory import Memory
from clipref.texts import embeddings_of, rows_of
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic

MODEL = "clip/ViT-B-32"
WORDS = ["dog", "cat", "horse", "bird", "fish", "tree", "river", "mountain", "house", "car"]
WORDS += ("train", "boat", "child", "woman", "man", "city", "street", "field", "sky", "bridge")
PROMPTS = [
    f"{start} {word}{end}"
    for start, end in (("a photo of a", ""), ("a", " in the snow"), ("two", ""), ("a drawing of the", " at night"))
    for word in WORDS[:8]
]
# The seven templates that the authors found best (https://github.com/openai/CLIP, notebooks).
TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
LABELS = [f"{a} {b}" if a != b else a for a in WORDS for b in WORDS] + [f"old {a} {b}" for a in WORDS for b in WORDS]
LABELS = (LABELS + [f"small {a} {b}" for a in WORDS for b in WORDS])[:1000]


def report(task: str, taken: dict[str, list[float]], base: str, per: int, errors: dict[str, float]) -> dict[str, Any]:
    """Print each alternative's time, and how many times as long as `base` it takes; the same as data."""
    rows = {}
    for name, seconds in taken.items():
        ratio = statistics.median(s / b for s, b in zip(seconds, taken[base], strict=True))
        median = statistics.median(seconds)
        error = f"  error {errors[name]:.1e}" if name in errors else ""
        print(f"{task:8} {name:44} {median * 1e3:10.1f} ms {median / per * 1e3:9.3f} each {ratio:7.2f} x {base}{error}")
        rows[name] = {"seconds": median, "each_ms": median / per * 1e3, "times_base": ratio, "error": errors.get(name)}
    sys.stdout.flush()
    return {"task": task, "base": base, "rows": rows}


def embed_anew(model: CLIP, texts: list[str]) -> Any:
    """Embed texts [N, E] as `model.embed_text` does, as if none were remembered."""
    rows = rows_of(texts, model.tokenizer, model.config.text.context_length, truncate=False)
    return embeddings_of(rows, model.engine, Memory(len(texts)))


def prompts(folder: Path, backend: str, rounds: int) -> dict[str, Any]:
    """32 short prompts, texts to embeddings for ours; for the peers ids to embeddings."""
    model = AutoModel.from_pretrained(folder, backend=backend)
    truth = AutoModel.from_pretrained(folder, backend="reference").embed_text(PROMPTS)
    ids = model.tokenize(PROMPTS).astype(np.int64)
    calls: dict[str, Callable[[], Any]] = {backend: lambda: embed_anew(model, PROMPTS)}
    checkpoint = Checkpoint(folder)
    for peer in peers.installed(checkpoint):
        if peer.name in ("torch eager", "transformers"):
            calls[peer.name] = partial(peer(checkpoint, available_threads()).encode_text, ids)
    errors = {name: error_of(call(), truth) for name, call in calls.items()}
    return report("prompts", alternate(calls, rounds), backend, len(PROMPTS), errors)


def labels(folder: Path, backend: str, rounds: int) -> dict[str, Any]:
    """1,000 labels in 7 templates, against the same texts in batches of 64 without sharing anything."""
    model = AutoModel.from_pretrained(folder, backend=backend)
    texts = [template.replace("{}", label) for label in LABELS for template in TEMPLATES]
    ids = model.tokenize(texts)

    def one_batch_at_a_time() -> Any:
        return np.concatenate([model.encode_text(ids[i : i + 64]) for i in range(0, len(ids), 64)])

    calls = {
        backend: lambda: embed_anew(model, texts),
        f"{backend}, batches of 64 as they come": one_batch_at_a_time,
    }
    truth = AutoModel.from_pretrained(folder, backend="reference").encode_text(ids[:: len(ids) // 50])
    errors = {name: error_of(call()[:: len(ids) // 50], truth) for name, call in calls.items()}
    return report("labels", alternate(calls, min(rounds, 3)), backend, len(texts), errors)


def classify(folder: Path, backend: str, rounds: int) -> dict[str, Any]:
    """A second picture among 1,000 labels in 5 templates, which the first has had embedded, against its embedding."""
    model = AutoModel.from_pretrained(folder, backend=backend)
    picture = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    templates = TEMPLATES[:5]
    start = time.perf_counter()
    model.classify(picture[::-1], LABELS, templates)
    first = time.perf_counter() - start
    print(f"classify the first picture, with all labels: {first:.2f} s", flush=True)
    cosines = model.label_embeddings(LABELS, templates) @ model.embed_image(picture, normalize=True)[0]
    logits = np.exp(model.logit_scale * (cosines - cosines.max()))
    found = dict(model.classify(picture, LABELS, templates, top_k=len(LABELS)))
    errors = {"classify": error_of(np.array([found[label] for label in LABELS]), logits / logits.sum())}
    calls: dict[str, Callable[[], Any]] = {
        "embed_image": lambda: model.embed_image(picture),
        "classify": lambda: model.classify(picture, LABELS, templates),
    }
    return report("classify", alternate(calls, rounds), "embed_image", 1, errors) | {"first": first}


OURS = """
import sys
from clipref import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], backend=sys.argv[2])
print(model.embed_image(sys.argv[4])[0, 0] if sys.argv[3] == "image" else model.embed_text("a photo of a cat")[0, 0])
"""
# Users of transformers without torchvision write this: its fast image processor needs that.
TRANSFORMERS = """
import sys
from PIL import Image
import torch
from transformers import CLIPModel, CLIPTokenizer
model = CLIPModel.from_pretrained(sys.argv[1])
with torch.inference_mode():
    if sys.argv[3] == "image":
        from transformers import CLIPImageProcessorPil
        pixels = CLIPImageProcessorPil()(images=Image.open(sys.argv[4]), return_tensors="pt")
        output = model.get_image_features(**pixels)
    else:
        tokenizer = CLIPTokenizer.from_pretrained(sys.argv[1])
        output = model.get_text_features(**tokenizer(["a photo of a cat"], return_tensors="pt"))
print(getattr(output, "pooler_output", output)[0, 0].item())
"""


def start(folder: Path, backend: str, rounds: int) -> dict[str, Any]:
    """From the start of the process to the first embedding, with everything in the page cache."""
    picture = folder / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)).save(picture)
    commands = {"clipref": [OURS, str(folder), backend]}
    theirs = folder / "transformers"
    checkpoint = Checkpoint(folder)
    if peers.Transformers in peers.installed(checkpoint):
        converted(checkpoint, theirs)
        commands["transformers"] = [TRANSFORMERS, str(theirs), ""]
    results = {}
    for what in ("image", "text"):
        calls = {name: partial(_process, c, what, str(picture)) for name, c in commands.items()}
        values = [call() for call in calls.values()]
        if max(values) - min(values) > 1e-2:
            raise SystemExit(f"The first numbers of the embeddings differ: {values}.")
        results[what] = report(f"first {what}", alternate(calls, rounds), "clipref", 1, {})
    return results


def _process(command: Sequence[str], *arguments: str) -> float:
    run = [sys.executable, "-c", *command, *arguments]
    return float(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


MEMORY = """
import json, sys
from clipref import AutoModel
options = {"precision": sys.argv[3]} if sys.argv[3] else {}
model = AutoModel.from_pretrained(sys.argv[1], backend=sys.argv[2], **options)
model.embed_image(sys.argv[4]), model.embed_text("a photo of a cat")
status = open("/proc/self/status").read()
print(json.dumps([int(status.split(key + ":")[1].split()[0]) * 1024 / 1e6 for key in ("VmRSS", "VmHWM")]))
"""
HELD = ("reference", "blas", "native", "native bfloat16", "native int8", "onnx", "onnx-int8")


def memory(folder: Path, backend: str, rounds: int) -> dict[str, Any]:
    """Memory of a process that has embedded one image and one text, from a float16 file: now, and at its peak."""
    picture = folder / "picture.png"
    Image.fromarray(np.zeros((400, 500, 3), np.uint8)).save(picture)
    half = synthetic.write(folder / "half", PUBLISHED[MODEL], 0, "plain", "mixed")
    found = {}
    for name in dict.fromkeys((backend, *HELD)):
        set_name, _, precision = name.partition(" ")
        run = [sys.executable, "-c", MEMORY, str(half), set_name, precision, str(picture)]
        resident, peak = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
        print(f"memory   {name:44} {resident:10.0f} MB, {peak:6.0f} MB at its peak, one image and one text", flush=True)
        found[name] = {"resident_mb": resident, "peak_mb": peak}
    return found


TASKS = {"prompts": prompts, "labels": labels, "classify": classify, "start": start, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--backend", default="onnx")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = synthetic.write(Path(name) / "model", PUBLISHED[MODEL], 0, "plain", "float32")
        found = {task: TASKS[task](folder, args.backend, args.rounds) for task in args.tasks}
    write_json(args.json, found)


if __name__ == "__main__":
    main()
