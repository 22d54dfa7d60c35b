"""The cost of exported graphs under onnxruntime-web, beside ONNX Runtime itself: one thread each, in turn.

    python benchmarks/web.py FOLDER [--models clipref/scenes-vit ...] [--rounds 9]

FOLDER is a copy of conformance/examples/browser in which `npm ci --ignore-scripts` was run. Node runs what a browser
runs. Each time is processor time at batch 1, and stands beside the error against the float64 reference in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from clipref.cli.common import print_table
from clipref.conformance.engines.files import read_answer, write_arrays
from clipref.conformance.questions.models import ids, pixels
from clipref.engine import ReferenceEngine
from clipref.hub import EMBEDDED, locate
from clipref.kernels.runtime import onnxruntime
from clipref.numerics import rms_error
from clipref.weights import Checkpoint
from clipref.weights_tools.export_onnx import export_onnx

# Opens a graph, writes what it gives, then runs it so many times for each line that comes, and says the seconds.
NODE = """
import { readFile, writeFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { readTensors, writeTensors } from "./safetensors.js";
import { Tower } from "./towers.js";
const [graph, given, out] = process.argv.slice(1);
const tower = await Tower.open(new Uint8Array(await readFile(graph)));
const [input] = Object.values(readTensors(new Uint8Array(await readFile(given))));
await writeFile(out, writeTensors({ embeddings: await tower.embed(input) }));
console.log("0");
for await (const line of createInterface({ input: process.stdin })) {
  const started = process.cpuUsage();
  for (let i = 0; i < Number(line); i++) await tower.embed(input);
  const { user, system } = process.cpuUsage(started);
  console.log((user + system) / 1e6);
}
"""
SECONDS_A_ROUND = 0.2  # at least


@contextmanager
def under_node(folder: Path, graph: Path, given: Path, out: Path) -> Iterator[Any]:
    """A function from how many runs to the seconds that they took."""
    command = ["node", "--input-type=module", "-e", NODE, *map(str, (graph, given, out))]
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        asked, said = process.stdin, process.stdout
        said.readline()

        def run(count: int) -> float:
            asked.write(f"{count}\n")
            return float(said.readline())

        yield run
        asked.close()


def measured(folder: Path, model: str, tower: str, rounds: int) -> tuple[str, ...]:
    """A row of the table."""
    checkpoint = Checkpoint(*locate(model))
    name, array = (
        ("pixels", pixels(checkpoint.config, 1)) if tower == "visual" else ("ids", ids(checkpoint.config, 2)[1:])
    )
    verb = "encode_image" if tower == "visual" else "encode_text"
    exact = getattr(ReferenceEngine(checkpoint, "float64"), verb)(array)
    with tempfile.TemporaryDirectory() as scratch:
        graph, given, out = (Path(scratch, part) for part in (f"onnx/{tower}.onnx", "given", "out"))
        for _ in export_onnx(model, graph.parent):
            pass
        write_arrays(given, {name: array})
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        feed = {name: array.astype(np.int32) if name == "ids" else array}
        started = time.process_time()
        (native,) = session.run(None, feed)
        count = max(1, round(SECONDS_A_ROUND / max(time.process_time() - started, 1e-4)))
        with under_node(folder, graph, given, out) as run:
            run(count)
            taken = []
            for _ in range(rounds):
                started = time.process_time()
                for _ in range(count):
                    session.run(None, feed)
                taken.append(((time.process_time() - started) / count, run(count) / count))
            web = read_answer(out, verb)["embeddings"]
    medians = [1000 * statistics.median(column) for column in zip(*taken, strict=True)]
    ratio = statistics.median(web / native for native, web in taken)
    errors = [f"{rms_error(found, exact):.1e}" for found in (native, web)]
    return (model, tower, *errors, *(f"{median:.2f}" for median in medians), f"{ratio:.2f}")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=list(EMBEDDED))
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    version = json.loads((args.folder / "node_modules/onnxruntime-web/package.json").read_text())["version"]
    print(f"ONNX Runtime {onnxruntime().__version__}, onnxruntime-web {version}; one thread, processor time")
    heads = ("model", "tower", "error", "error, web", "ms", "ms, web", "ratio")
    rows = [
        measured(args.folder, model, tower, args.rounds) for model in args.models for tower in ("visual", "textual")
    ]
    print_table([heads, *rows])


if __name__ == "__main__":
    main()
