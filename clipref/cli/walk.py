"""Which files of a folder are images to be embedded: one rule.

A folder is searched to any depth. Taken is every file whose suffix, in capitals or not, is one of a format that is
opened (`SUFFIXES` of clipref/images.py). Links to files and folders are followed. Left out, and counted by reason, are
- what begins with a dot, files and whole folders, as `ls` leaves it out: among them `._IMG.jpg`, by which macOS keeps
  what it knows of `IMG.jpg`;
- files with another suffix;
- links that lead nowhere, or round in circles;
- folders that were searched already and are met again by a link, so that each is searched once, under its own name
  where it has one in here;
- what is no file: named pipes, sockets, devices;
- what vanished while it was looked at.

What may not be read, a folder or what is in it, is a failure, like an image that can't be read. A path that is given by
name is taken, whatever it is called.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

from .texts import reason

# Suffixes of what was left out that are told, the most frequent first.
TOLD_SUFFIXES = 5


@dataclass
class Found:
    """Images, in order; what was left out, by reason; files that are no images, by suffix; what could not be read."""

    images: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, other: Found) -> None:
        """Count what another search found, too."""
        self.images += other.images
        self.left_out += other.left_out
        self.others += other.others
        self.failures += other.failures

    def describe_left_out(self) -> str:
        """Which files were left out and why, or nothing, in words."""
        parts = [f"{count} {what}" for what, count in sorted(self.left_out.items())]
        if self.others:
            common = [f"{count} {suffix or 'without one'}" for suffix, count in self.others.most_common(TOLD_SUFFIXES)]
            more = ["..."] if len(self.others) > TOLD_SUFFIXES else []
            parts.append(f"{self.others.total()} with other suffixes ({', '.join(common + more)})")
        return ", ".join(parts)


def images_at(given: str) -> Found:
    """The path itself, or what the rule takes of a folder."""
    path = Path(given)
    try:
        mode = os.stat(given).st_mode  # of "", as a script's unset variable gives it, there is none; Path makes it "."
    except (OSError, ValueError) as error:
        return Found(failures=[f"{given!r}: {reason(error)}"])
    return images_in(path) if stat.S_ISDIR(mode) else Found([path])


def images_in(top: Path) -> Found:
    """The files of a folder that the rule takes, sorted by path."""
    from ..images import SUFFIXES  # asks Pillow

    found = Found()
    searched: set[tuple[int, int]] = set()
    # Linked folders come after all others, so that a folder that is in here is met first under its own name.
    folders, linked = [top], deque[Path]()
    while folders or linked:
        folder = folders.pop() if folders else linked.popleft()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in searched:
                found.left_out["folders searched already"] += 1
                continue
            searched.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except FileNotFoundError:
            found.left_out["vanished"] += 1
            continue
        except OSError as error:
            found.failures.append(f"{str(folder)!r}: {reason(error)}")
            continue
        for entry in entries:
            try:
                _sort_in(entry, SUFFIXES, found, folders, linked)
            except OSError as error:
                found.failures.append(f"{entry.path!r}: {reason(error)}")
    found.images.sort()
    return found


def _sort_in(
    entry: os.DirEntry[str], suffixes: frozenset[str], found: Found, folders: list[Path], linked: deque[Path]
) -> None:
    """Add an entry of a folder to what it is."""
    path, link = Path(entry.path), entry.is_symlink()
    if entry.name.startswith("."):
        found.left_out["hidden"] += 1
    elif link and not path.exists():
        found.left_out["links that lead nowhere"] += 1
    elif entry.is_dir():
        (linked if link else folders).append(path)
    elif path.suffix.lower() not in suffixes:
        found.others[path.suffix.lower()[:12]] += 1
    elif entry.is_file():
        found.images.append(path)
    else:
        found.left_out["neither file nor folder" if os.path.lexists(path) else "vanished"] += 1
