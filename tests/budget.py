"""Seconds of CPU that fast tests cost: those over a bar are named at the end of a run, which doesn't fail."""

import time
from collections.abc import Generator
from typing import Any

import pytest

BAR = 1.0  # over three times what CONTRIBUTING.md asks for, because a busy machine takes more


def cpu_seconds() -> float:
    """Seconds that this process has computed, and those that it has waited for."""
    try:
        import resource
    except ImportError:  # on Windows
        return time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Keep with a fast test what it cost."""
    before = cpu_seconds()
    try:
        return (yield)
    finally:
        if not item.get_closest_marker("slow"):
            item.user_properties.append(("CPU", cpu_seconds() - before))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Name those that cost too much."""
    for report in terminalreporter.getreports("passed"):
        for name, seconds in report.user_properties:
            if name == "CPU" and seconds > BAR and report.when == "call":
                terminalreporter.line(f"{seconds:.1f} s of CPU, too much for a fast test: {report.nodeid}")
