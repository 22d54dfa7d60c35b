"""Where the time goes between the start of a process and its first image or first text, and the memory it has then.

    python benchmarks/start.py [--model clip/ViT-B-32] [--backend onnx] [--style float32] [--rounds 5] [--json FILE]

Each round starts a process for either, which times its own phases: the interpreter, imports, opening the checkpoint,
preprocessing or tokenizing, the runtime's import, reading weights, recording the graph, making the session, and what is
left of the first call. Figures are medians of CPU time over rounds, everything in the page cache. `--style mixed` is a
checkpoint in float16, as the published ones are. Weights are synthetic.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipref.config import PUBLISHED
from clipref.weights_tools import synthetic

CHILD = """
import json, sys, time
phases, open_phases = {"interpreter": time.process_time()}, []

class phase:
    # Time within a phase that has others inside is its own, without theirs.
    def __init__(self, name): self.name = name
    def __enter__(self): self.start, self.inner = time.process_time(), 0.0; open_phases.append(self)
    def __exit__(self, *_):
        taken = time.process_time() - self.start
        open_phases.pop()
        phases[self.name] = phases.get(self.name, 0.0) + taken - self.inner
        if open_phases: open_phases[-1].inner += taken

def timed(owner, attribute, name):
    function = getattr(owner, attribute)
    def call(*args, **options):
        with phase(name): return function(*args, **options)
    setattr(owner, attribute, call)

folder, backend, what, picture = sys.argv[1:]
with phase("import clipref"):
    import clipref.clip, clipref.model, clipref.loading, clipref.tokenizer, clipref.weights
with phase("import backend"):
    from clipref import backends
    kernels = backends.load(backend)
timed(clipref.weights.SafetensorsFile, "read", "weights")
timed(clipref.loading, "preprocess", "preprocessing")
timed(clipref.tokenizer.Tokenizer, "rows", "tokenizing")
for attribute, name in (("build", "graph"), ("complete", "graph")):
    if hasattr(kernels, attribute): timed(kernels, attribute, name)
if backend.startswith("onnx"):
    import clipref.kernels.onnx as sessions
    runtime = sessions.onnxruntime()
    timed(sessions, "build", "graph")
    timed(runtime, "InferenceSession", "session")
with phase("open checkpoint"):
    model = clipref.AutoModel.from_pretrained(folder, backend=backend)
if what == "text":
    with phase("tokenizer"): model.tokenizer
with phase("first call"):
    x = model.embed_image(picture) if what == "image" else model.embed_text("a photo of a cat")
assert (x == x).all()
status = open("/proc/self/status").read()
memory = {key: int(status.split(key + ":")[1].split()[0]) / 1e3 for key in ("VmRSS", "VmHWM")}
print(json.dumps({"phases": phases, "memory": memory, "onnx": "onnx" in sys.modules}))
"""


def measured(folder: Path, backend: str, what: str, picture: Path) -> dict[str, Any]:
    """The phases of one process, in seconds, and its memory in MB."""
    run = [sys.executable, "-c", CHILD, str(folder), backend, what, str(picture)]
    found: dict[str, Any] = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="clip/ViT-B-32", choices=PUBLISHED)
    parser.add_argument("--backend", default="onnx")
    parser.add_argument("--style", default="float32", choices=["float32", "mixed"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder, picture = Path(name) / "model", Path(name) / "picture.jpg"
        synthetic.write(folder, PUBLISHED[args.model], 0, "plain", args.style)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)).save(picture)
        for what in ("image", "text"):
            rounds = [measured(folder, args.backend, what, picture) for _ in range(args.rounds + 1)][1:]
            seconds = {key: statistics.median(r["phases"][key] for r in rounds) for key in rounds[0]["phases"]}
            memory = {key: statistics.median(r["memory"][key] for r in rounds) for key in rounds[0]["memory"]}
            results[what] = {"seconds": seconds, "memory_mb": memory}
            print(
                f"first {what}, {args.model}, {args.backend}, {args.style}: {sum(seconds.values()):.2f} s of CPU time"
            )
            for key, value in seconds.items():
                print(f"    {key:18} {value * 1e3:8.1f} ms {value / sum(seconds.values()):5.0%}")
            print(f"    memory {memory['VmRSS']:.0f} MB, at its peak {memory['VmHWM']:.0f} MB", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
