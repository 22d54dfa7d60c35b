"""The one place that imports ONNX Runtime, so that it looks up no host and writes no file.

From version 1.32 on, importing it reports to its makers: it looks up a telemetry host and writes a device id below the
home folder. `disable_telemetry_events` comes too late to stop either; the environment variable ORT_DISABLE_TELEMETRY,
set before the import, stops both. tests/test_runtime.py runs it where the kernel forbids sockets and writing.
"""

from __future__ import annotations

import os
from typing import Any

from clipref.lazy import no_fork


def onnxruntime() -> Any:
    """The module `onnxruntime`, without its telemetry. Raises ImportError where it isn't installed."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    with no_fork:
        import onnxruntime as module
    module.disable_telemetry_events()  # which older versions know instead of the variable
    return module
