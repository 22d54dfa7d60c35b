"""The one place that imports ONNX Runtime and OpenVINO, so that they look up no host and write no file.

From version 1.32 on, importing ONNX Runtime reports to its makers: it looks up a telemetry host and writes a device id
below the home folder. `disable_telemetry_events` comes too late to stop either; the environment variable
ORT_DISABLE_TELEMETRY, set before the import, stops both. Importing OpenVINO does the like through the package
openvino_telemetry, and has a stub for where that isn't installed. tests/test_runtime.py runs both where the kernel
forbids sockets and writing.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from clipref.lazy import no_fork


def onnxruntime() -> Any:
    """The module `onnxruntime`, without its telemetry. Raises ImportError where it isn't installed."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    with no_fork:
        import onnxruntime as module
    module.disable_telemetry_events()  # which older versions know instead of the variable
    return module


def openvino() -> Any:
    """The module `openvino`, without its telemetry. Raises ImportError where it isn't installed."""
    return import_without_telemetry("openvino")


def import_without_telemetry(name: str) -> Any:
    """A module of OpenVINO's makers, which takes their telemetry for not installed. Raises ImportError."""
    with no_fork:
        if name not in sys.modules:
            modules: dict[str, Any] = sys.modules
            before = modules.get("openvino_telemetry")
            modules["openvino_telemetry"] = None  # importing it raises ImportError, as if it weren't installed
            try:
                importlib.import_module(name)
            finally:
                del modules["openvino_telemetry"]
                if before is not None:
                    modules["openvino_telemetry"] = before
    return sys.modules[name]
