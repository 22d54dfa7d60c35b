"""What one request may have, what all of them together may hold, and the account of it.

Amounts are checked before anything of their size is made: bytes of a body while it streams in, pixels by an image's
header. What would never fit is refused for good (413); what doesn't fit now, with the time to try again (429).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from ..images import MAX_PIXELS
from .refusals import Refusal


@dataclass(frozen=True)
class Limits:
    """Of one request: `body_bytes`, `items` (images and texts), `text_characters` of a text, `image_pixels` of an
    image. Of all accepted and unanswered: `held_requests`, `held_bytes` (bodies, fetched files, and the pixels that
    the engine takes), `held_pixels` (of images waiting to be decoded). In seconds: `body_seconds` for a body to arrive,
    `answer_seconds` from there to the answer.
    """

    body_bytes: int = 2**25
    items: int = 256
    text_characters: int = 100_000
    image_pixels: int = MAX_PIXELS
    held_requests: int = 256
    held_bytes: int = 2**29
    held_pixels: int = 2**28
    body_seconds: float = 30.0
    answer_seconds: float = 60.0

    def as_json(self) -> dict[str, Any]:
        """As /info has them."""
        return asdict(self)


class Held:
    """What accepted requests hold at this moment. Used from the event loop alone, so it needs no lock."""

    def __init__(self, limits: Limits, retry_after: Callable[[], int] = lambda: 1) -> None:
        self.limits = {"requests": limits.held_requests, "bytes": limits.held_bytes, "pixels": limits.held_pixels}
        self.amounts = dict.fromkeys(self.limits, 0)
        self._retry_after = retry_after

    def share(self) -> Share:
        """The account of one request; raises Refusal where there are too many."""
        share = Share(self)
        share.take("requests", 1)
        return share

    def take(self, kind: str, amount: int) -> None:
        """Raises Refusal if it is more than there is left."""
        most = self.limits[kind]
        if amount > most:
            raise Refusal(413, f"The request has {amount} {kind}; at most {most} are taken. Send less at a time.")
        if self.amounts[kind] + amount > most:
            seconds = self._retry_after()
            raise Refusal(
                429,
                f"The server is busy: it holds {self.amounts[kind]} of {most} {kind}. Try again in {seconds} s.",
                retry_after=seconds,
            )
        self.amounts[kind] += amount

    def give_back(self, kind: str, amount: int) -> None:
        """What `take` took."""
        self.amounts[kind] -= amount


class Share:
    """What one request holds; given back at the end of `with`."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self._amounts: dict[str, int] = {}

    def take(self, kind: str, amount: int) -> None:
        """Raises Refusal."""
        self._held.take(kind, amount)
        self._amounts[kind] = self._amounts.get(kind, 0) + amount

    def give_back(self, kind: str, amount: int) -> None:
        """Some of it, before the end."""
        self._held.give_back(kind, amount)
        self._amounts[kind] -= amount

    def __enter__(self) -> Share:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, amount in self._amounts.items():
            self._held.give_back(name, amount)
        self._amounts.clear()
