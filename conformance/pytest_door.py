"""Loaded into every run of pytest, by an entry point, and so does nothing unless the run names clipref.conformance.

Only then pytest_plugin.py, with its options, becomes a part of the run. (A conftest.py beside test_engine.py would come
too late: with --pyargs it is read after the command line.)
"""

from __future__ import annotations

from typing import Any


def pytest_load_initial_conftests(early_config: Any, parser: Any, args: list[str]) -> None:
    """Called by pytest before it parses the command line for good."""
    if any(argument.startswith("clipref.conformance") for argument in args):
        early_config.pluginmanager.import_plugin("clipref.conformance.pytest_plugin")
