"""The tables of a store, its format's number, and the steps from one format to the next.

`image` has a path a row; `content` a sha256 a row, whose number, the slot, is that of its vector. A picture without a
vector has an error. `hole` has the slots whose content was removed, until the file of vectors is written anew. `shard`
has the tars whose pictures are in here. `phash` is missing where vectors were imported.
"""

from __future__ import annotations

from collections.abc import Mapping

# "clip", by which `file` and others tell the database from other programs'.
APPLICATION = 0x636C6970
FORMAT = 1

SCHEMA = (
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {FORMAT}",
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    "CREATE TABLE content (slot INTEGER PRIMARY KEY, sha256 BLOB NOT NULL UNIQUE, width INTEGER, height INTEGER, "
    "orientation INTEGER, taken TEXT, phash INTEGER)",
    "CREATE TABLE image (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, mtime_ns INTEGER, "
    "tried_at INTEGER NOT NULL, slot INTEGER, error TEXT, CHECK ((slot IS NULL) = (error IS NOT NULL)))",
    "CREATE INDEX image_slot ON image (slot)",
    "CREATE TABLE shard (path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE hole (slot INTEGER PRIMARY KEY)",
    "CREATE TRIGGER content_removed AFTER DELETE ON content BEGIN INSERT INTO hole VALUES (old.slot); END",
)

# Statements that make the next format of one, by its number.
UPGRADES: Mapping[int, tuple[str, ...]] = {}
