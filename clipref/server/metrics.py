"""Counters, gauges and histograms, in Prometheus's text format, version 0.0.4.

Truth: https://prometheus.io/docs/instrumenting/exposition_formats. Labels are few and of known values: a route, a
status, a stage; never anything that a client chose.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)

# Families by name: the kind, what it counts, the labels, and a histogram's upper bounds.
FAMILIES: dict[str, tuple[str, str, tuple[str, ...], Sequence[float]]] = {
    "clipref_requests_total": ("counter", "Requests answered.", ("route", "status"), ()),
    "clipref_request_seconds": ("histogram", "From a request's head to its answer.", ("route",), SECONDS),
    "clipref_stage_seconds": ("histogram", "Seconds in a stage: decode, tokenize, queue, engine.", ("stage",), SECONDS),
    "clipref_batch_size": ("histogram", "Items computed together.", ("tower",), SIZES),
    "clipref_items_total": ("counter", "Images and texts computed.", ("tower",), ()),
    "clipref_dropped_total": ("counter", "Items not computed, because nobody waited for them.", ("tower",), ()),
    "clipref_refused_total": ("counter", "Requests refused, by the reason.", ("code",), ()),
}


# The values of a gauge's labels, and its value.
Read: TypeAlias = Callable[[], Iterable[tuple[tuple[str, ...], float]]]


class Metrics:
    """What is counted, of one server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[tuple[str, ...], float]] = {}
        self._buckets: dict[str, dict[tuple[str, ...], list[int]]] = {}
        self._gauges: dict[str, tuple[str, tuple[str, ...], Read]] = {}

    def count(self, name: str, *labels: str, amount: float = 1) -> None:
        """Add to a counter."""
        with self._lock:
            found = self._counters.setdefault(name, {})
            found[labels] = found.get(labels, 0) + amount

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Add a value to a histogram."""
        bounds = FAMILIES[name][3]
        with self._lock:
            buckets = self._buckets.setdefault(name, {}).setdefault(labels, [0] * (len(bounds) + 1))
            buckets[bisect_left(bounds, value)] += 1
            sums = self._counters.setdefault(name, {})
            sums[labels] = sums.get(labels, 0) + value

    def gauge(
        self,
        name: str,
        about: str,
        labels: tuple[str, ...],
        read: Read,
    ) -> None:
        """Something that is looked at when it is asked for."""
        self._gauges[name] = about, labels, read

    def text(self) -> str:
        """All of it, as Prometheus reads it."""
        lines: list[str] = []
        with self._lock:
            for name, (kind, about, labels, bounds) in FAMILIES.items():
                lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
                for values, total in self._counters.get(name, {}).items():
                    if kind == "counter":
                        lines.append(f"{name}{_labels(labels, values)} {total:g}")
                        continue
                    count = 0
                    for bound, amount in zip([*bounds, float("inf")], self._buckets[name][values], strict=True):
                        count += amount
                        le = "+Inf" if bound == float("inf") else f"{bound:g}"
                        lines.append(f"{name}_bucket{_labels((*labels, 'le'), (*values, le))} {count}")
                    lines.append(f"{name}_sum{_labels(labels, values)} {total!r}")
                    lines.append(f"{name}_count{_labels(labels, values)} {count}")
        for name, (about, labels, read) in self._gauges.items():
            lines += [f"# HELP {name} {about}", f"# TYPE {name} gauge"]
            lines += [f"{name}{_labels(labels, values)} {value:g}" for values, value in read()]
        return "\n".join(lines) + "\n"


class TowerMetrics:
    """What a batcher tells, of one tower."""

    def __init__(self, metrics: Metrics, tower: str) -> None:
        self._metrics = metrics
        self._tower = tower

    def batch(self, size: int, waited: Sequence[float], seconds: float) -> None:
        """As batching.Observer has it."""
        self._metrics.observe("clipref_batch_size", size, self._tower)
        self._metrics.count("clipref_items_total", self._tower, amount=size)
        self._metrics.observe("clipref_stage_seconds", seconds, "engine")
        for wait in waited:
            self._metrics.observe("clipref_stage_seconds", wait, "queue")

    def count_dropped(self, count: int) -> None:
        """As batching.Observer has it."""
        self._metrics.count("clipref_dropped_total", self._tower, amount=count)


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    pairs = ",".join(f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
