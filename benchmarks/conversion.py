"""How fast and in how little memory a checkpoint is converted, beside `cp` of the same file.

    python benchmarks/conversion.py [--model clip/RN50x64] [--rounds 3]

The source is a synthetic checkpoint, as safetensors and, where torch is installed, as torch.save writes it. Every
conversion is a process of its own, whose peak memory is read at its end; conversions and copies take turns. The tensors
of each result are compared with the source's, bit by bit, before a figure is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clipref.config import PUBLISHED
from clipref.weights import SafetensorsFile
from clipref.weights_tools import synthetic

# Peak memory in kilobytes, and what it is before anything is converted. Not from getrusage, which counts the parent's
# memory before exec too.
CONVERT = """
import json, sys
from clipref.weights_tools.convert import convert
from clipref.weights_tools.sources import Options
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
before = peak()
convert(sys.argv[1], sys.argv[2], Options(model=sys.argv[3]))
print(json.dumps([before, peak()]))
"""


def torch_file(source: Path, target: Path) -> bool:
    """The same tensors as torch.save writes them; False where torch isn't installed."""
    try:
        import torch
        from safetensors.torch import load_file
    except ImportError:
        return False
    torch.save(load_file(source), target)
    return True


def have_same_tensors(one: Path, other: Path) -> bool:
    """Whether two safetensors files hold the same tensors, to the bit."""
    a, b = SafetensorsFile(one), SafetensorsFile(other)
    return a.dtypes == b.dtypes and all(a.stored(n).tobytes() == b.stored(n).tobytes() for n in a.dtypes)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=PUBLISHED, default="clip/RN50x64", metavar="ID")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        original = synthetic.write(folder / "c", PUBLISHED[args.model], 0, "plain") / "model.safetensors"
        sources = {"safetensors": original}
        if torch_file(original, folder / "torch.bin"):
            sources["torch.save"] = folder / "torch.bin"
        os.sync()
        for kind, source in sources.items():
            converted, copied, peaks = [], [], []
            for _ in range(args.rounds):
                start = time.perf_counter()
                subprocess.run(["cp", source, folder / "copy"], check=True)
                copied.append(time.perf_counter() - start)
                (folder / "copy").unlink()
                start = time.perf_counter()
                command = [sys.executable, "-c", CONVERT, source, folder / "out", args.model]
                run = subprocess.run(command, check=True, capture_output=True, text=True)
                converted.append(time.perf_counter() - start)
                peaks.append(json.loads(run.stdout))
                if not have_same_tensors(folder / "out" / "model.safetensors", original):
                    raise SystemExit(f"{kind}: the converted tensors differ from the source's.")
                shutil.rmtree(folder / "out")
            size = source.stat().st_size / 1e6
            ratio = statistics.median(c / t for c, t in zip(copied, converted, strict=True))
            print(
                f"{args.model} {kind:12} {size:7.0f} MB  bits equal  {size / statistics.median(converted):6.0f} MB/s  "
                f"{ratio:.2f} x cp ({size / statistics.median(copied):.0f} MB/s)  peak "
                f"{max(after for _, after in peaks) / 1e3:.0f} MB, of which {peaks[0][0] / 1e3:.0f} before it began",
                flush=True,
            )


if __name__ == "__main__":
    main()
