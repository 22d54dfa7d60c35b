"""The native library by the Clang of `ziglang`, as it is released; what is for ARM runs in an emulator."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clipref.kernels.native import library
from clipref.kernels.native.packing import pack

from .native import assert_within, normal, wide
from .test_native_narrow import RESTATED

ROOT = Path(__file__).parent.parent
SOURCES = sorted(str(path) for path in (ROOT / "kernels" / "native").glob("*.c"))
FLAGS = ["-std=gnu11", "-O2", "-g0", "-ffp-contract=fast", "-Wall", "-Wextra", "-Werror"]
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
# Functions that every processor has in a precision, and those that it has in float32 besides.
PRODUCTS, REST = (
    ("product", "product_part", "convolve_part"),
    ("activate", "attention_part", "avg_pool", "layer_norm_part"),
)
ON_ARM = [
    (precision, processor)
    for precision, names in library.PROCESSORS.items()
    for processor in names
    if processor == "plain" or processor.startswith("neon")
]
DEPTHS, OUTPUTS = (1, 3, 4, 7, 16, 31, 63, 64, 65, 130), (1, 4, 5, 31, 32, 33, 70)

pytestmark = pytest.mark.extra


def compile_for(target: str, out: Path, *arguments: str) -> None:
    pytest.importorskip("ziglang")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", target, *FLAGS, *SOURCES, *arguments, "-o", str(out)]
    subprocess.run(command, check=True)


@pytest.mark.parametrize("target", ["x86_64-linux-gnu.2.17", "aarch64-linux-gnu.2.17"])
def test_every_function_of_a_processor_is_there(target: str, tmp_path: Path) -> None:
    compile_for(target, tmp_path / "kernels.so", "-shared", "-fPIC", "-fvisibility=hidden", "-s")
    names = re.findall(r"(?<=\0)[a-z]\w+(?=\0)", (tmp_path / "kernels.so").read_bytes().decode("latin-1"))
    on_arm = target.startswith("aarch64")
    expected = {
        f"{function}_{precision}_{processor}"
        for precision, processors in library.PROCESSORS.items()
        for processor in processors
        if processor == "plain" or ((precision, processor) in ON_ARM) == on_arm
        for function in (*PRODUCTS, *(REST if precision == "float32" else ()))
    }
    processors = {processor for names in library.PROCESSORS.values() for processor in names}
    assert {name for name in names if "_" in name and name.split("_")[-1] in processors} == expected


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program for ARM that multiplies by any of its products."""
    if EMULATOR is None:
        pytest.skip("no emulator of ARM here: Debian's qemu-user-static has one")
    program = tmp_path_factory.mktemp("arm") / "products"
    known = " ".join(f"FUNCTION(product_{precision}_{processor})" for precision, processor in ON_ARM)
    arguments = ["-static", "-fsanitize=undefined", "-fsanitize-trap=undefined", f"-DPRODUCTS={known}"]
    compile_for("aarch64-linux-musl", program, *arguments, str(Path(__file__).with_name("native_products.c")))
    return program


def restated(precision: str, x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows times a weight in float64, and what float32 may be off by, in epsilons."""
    if precision == "float32":
        return wide(x) @ wide(weight).T, (x.shape[1] + 8) * (np.abs(x) @ np.abs(weight).T)
    return RESTATED[precision](x, weight)


@pytest.mark.parametrize(("precision", "processor"), ON_ARM)
def test_products_on_arm(precision: str, processor: str, products: Path) -> None:
    """Each height of a tile, and depths and outputs on either side of a word, a vector, a step and a panel."""
    given, expected = b"", []
    for i in range(60):
        rows, depth, outputs = 1 + i % 29, DEPTHS[i % len(DEPTHS)], OUTPUTS[i % len(OUTPUTS)]
        x, weight = normal(i, rows, depth) * np.exp(normal(i + 1, rows, 1)), normal(i + 2, outputs, depth)
        bias, residual = normal(i + 3, outputs), normal(i + 4, rows, outputs)
        panels = pack(weight, precision).panels
        sizes = np.array([rows, depth, outputs, panels.size], np.int64)
        given += b"".join(part.tobytes() for part in (sizes, x, panels, bias, residual))
        exact, bound = restated(precision, x, weight)
        added = wide(bias) + wide(residual)
        expected.append((exact + added, bound + 4 * (np.abs(exact) + np.abs(bias) + np.abs(residual))))
    command = [str(EMULATOR), "-cpu", "max", str(products), f"product_{precision}_{processor}"]
    found = np.frombuffer(subprocess.run(command, input=given, check=True, capture_output=True).stdout, np.float32)
    assert_within(found, *(np.concatenate([part.ravel() for part in parts]) for parts in zip(*expected, strict=True)))
