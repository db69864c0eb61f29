"""The table of kept contents in a store of record (docs/FORMAT.md): text, a picture, or a picture's address.

A row here belongs to its item only while it bears the item's content_hash: a program that knows nothing of
this table may write items, and what it leaves here counts as not kept. Every function runs inside the
caller's transaction.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from index_store.awaiting import AwaitingItem
from index_store.types import Content, ContentKind, Id

COUNTER = "contents"
"""The key in `meta` of how many contents are kept."""
_TABLE = (
    "CREATE TABLE IF NOT EXISTS content(id {id_type} PRIMARY KEY NOT NULL, kind INTEGER NOT NULL, "
    "codec INTEGER NOT NULL, hash BLOB NOT NULL, crc INTEGER NOT NULL, data BLOB NOT NULL)"
)
_KINDS: Mapping[ContentKind, int] = {"text": 1, "picture": 2, "address": 3}
_NAMES: Mapping[int, ContentKind] = {number: name for name, number in _KINDS.items()}
_RAW, _DEFLATE = 0, 1
_LEVEL = 6
_IDS_A_SELECT = 500
_KEEP = (
    "INSERT INTO content(id, kind, codec, hash, crc, data) VALUES(?,?,?,?,?,?) ON CONFLICT(id) DO UPDATE SET "
    "kind=excluded.kind, codec=excluded.codec, hash=excluded.hash, crc=excluded.crc, data=excluded.data"
)


class ContentConnection(Protocol):
    """What of a database connection is used here."""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        """Run one statement with its parameters."""

    def executemany(self, sql: str, parameters: Any, /) -> object:
        """Run one statement for each set of parameters."""


@dataclass(frozen=True, slots=True)
class KeptContent:
    """A content and the content_hash of the item that was made of it."""

    content: Content
    content_hash: bytes


def has_table(connection: ContentConnection) -> bool:
    """Whether any content was ever kept in this store."""
    query = "SELECT 1 FROM sqlite_master WHERE type='table' AND name='content'"
    return connection.execute(query).fetchone() is not None


def keep_contents(connection: ContentConnection, changes: Mapping[Id, KeptContent | None]) -> None:
    """Keep what the changed items are made of now; None: their content is no longer known."""
    if not changes:
        return
    kept = {item_id: each for item_id, each in changes.items() if each is not None}
    if kept:
        (id_kind,) = connection.execute("SELECT value FROM meta WHERE key='id_kind'").fetchone()
        connection.execute(_TABLE.format(id_type="INTEGER" if id_kind == "int64" else "TEXT"))
    elif not has_table(connection):
        return
    held = _held(connection, sorted(changes))
    dropped = [(item_id,) for item_id in held if changes[item_id] is None]
    connection.executemany("DELETE FROM content WHERE id=?", dropped)
    connection.executemany(_KEEP, [_columns(item_id, kept[item_id]) for item_id in sorted(kept)])
    added = len(kept.keys() - held) - len(dropped)
    connection.execute(
        "INSERT INTO meta(key, value) VALUES(?,?) ON CONFLICT(key) DO UPDATE SET value=value+excluded.value",
        (COUNTER, added),
    )


def _held(connection: ContentConnection, ids: Sequence[Id]) -> set[Id]:
    held: set[Id] = set()
    for start in range(0, len(ids), _IDS_A_SELECT):
        some = ids[start : start + _IDS_A_SELECT]
        marks = ",".join("?" * len(some))
        found = connection.execute(f"SELECT id FROM content WHERE id IN ({marks})", some)
        held.update(item_id for (item_id,) in found)
    return held


def read_contents(connection: ContentConnection, ids: Sequence[Id]) -> dict[Id, KeptContent]:
    """Return what is kept, and sound, of these ids; whether it is still an item's content its content_hash
    tells."""
    found: dict[Id, KeptContent] = {}
    if not has_table(connection):
        return found
    for start in range(0, len(ids), _IDS_A_SELECT):
        some = ids[start : start + _IDS_A_SELECT]
        marks = ",".join("?" * len(some))
        query = f"SELECT id, kind, codec, hash, crc, data FROM content WHERE id IN ({marks})"
        for values in connection.execute(query, some):
            kept = from_values(values)
            if kept is not None:
                found[values[0]] = kept
    return found


def read_some(connection: ContentConnection, limit: int) -> list[Content]:
    """Return the first contents by id that are sound."""
    if not has_table(connection):
        return []
    query = "SELECT id, kind, codec, hash, crc, data FROM content ORDER BY id LIMIT ?"
    found = [from_values(values) for values in connection.execute(query, (limit,))]
    return [kept.content for kept in found if kept is not None]


def read_awaiting(connection: ContentConnection, after: Id | None, limit: int) -> list[AwaitingItem]:
    """Return the next items by id that are made of a kept content and have no vector."""
    if not has_table(connection):
        return []
    where, start = ("", ()) if after is None else ("c.id > ? AND ", (after,))
    query = (
        "SELECT c.id, c.kind, c.codec, c.hash, c.crc, c.data FROM content c JOIN item i ON i.id=c.id "
        f"WHERE {where}i.vector IS NULL AND i.deleted=0 AND i.content_hash=c.hash ORDER BY c.id LIMIT ?"
    )
    found = []
    for values in connection.execute(query, (*start, limit)):
        kept = from_values(values)
        found.append(AwaitingItem(values[0], values[3], kept.content if kept else None))
    return found


def from_values(values: Sequence[Any]) -> KeptContent | None:
    """Return the content of one row (id, kind, codec, hash, crc, data); None when its checksum fails."""
    item_id, kind, codec, content_hash, crc, data = values
    try:
        if _checksum(item_id, kind, codec, content_hash, data) != crc:
            return None
        plain = zlib.decompress(data) if codec == _DEFLATE else data
        return KeptContent(Content(_NAMES[kind], plain), content_hash)
    except (TypeError, ValueError, KeyError, AttributeError, zlib.error):
        return None


@dataclass(frozen=True, slots=True)
class ContentPage:
    """What a scan of contents saw. damaged: ids of those that fail their checksum. last: the last id of the
    page; None where nothing comes after it."""

    damaged: Sequence[Id]
    last: Id | None


def scan_contents(connection: ContentConnection, after: Id | None, bytes_max: int) -> ContentPage:
    """Check the next contents by id, until they weigh `bytes_max` together."""
    if not has_table(connection):
        return ContentPage((), None)
    where, start = ("", ()) if after is None else ("WHERE id > ?", (after,))
    damaged: list[Id] = []
    size = 0
    for values in connection.execute(
        f"SELECT id, kind, codec, hash, crc, data FROM content {where} ORDER BY id", start
    ):
        if from_values(values) is None and isinstance(values[0], int | str):
            damaged.append(values[0])
        size += len(values[5]) if isinstance(values[5], bytes) else 0
        if size >= bytes_max:
            return ContentPage(damaged, values[0])
    return ContentPage(damaged, None)


def damaged_among(connection: ContentConnection, ids: Sequence[Id]) -> list[Id]:
    """Return which of these ids have a content that fails its checksum."""
    if not ids or not has_table(connection):
        return []
    query = "SELECT id, kind, codec, hash, crc, data FROM content WHERE id=?"
    found = [connection.execute(query, (item_id,)).fetchone() for item_id in ids]
    return [values[0] for values in found if values is not None and from_values(values) is None]


def check_contents(connection: ContentConnection) -> Iterator[str]:
    """Yield what is wrong with the table: rows that fail their checksum, a count that is not theirs."""
    counter = connection.execute("SELECT value FROM meta WHERE key=?", (COUNTER,)).fetchone()
    rows = 0
    if has_table(connection):
        for values in connection.execute("SELECT id, kind, codec, hash, crc, data FROM content"):
            rows += 1
            if from_values(values) is None:
                yield f"the kept content of {values[0]!r} fails its checksum"
    counted = counter[0] if counter else 0
    if counted != rows:
        yield f"counts {counted} kept contents, there are {rows}"


def _columns(item_id: Id, kept: KeptContent) -> tuple[Any, ...]:
    kind, data, codec = _KINDS[kept.content.kind], kept.content.data, _RAW
    if kept.content.kind == "text":
        smaller = zlib.compress(data, _LEVEL)
        if len(smaller) < len(data):
            data, codec = smaller, _DEFLATE
    crc = _checksum(item_id, kind, codec, kept.content_hash, data)
    return item_id, kind, codec, kept.content_hash, crc, data


def _checksum(item_id: Id, kind: int, codec: int, content_hash: bytes, data: bytes) -> int:
    """CRC-32 over every column but itself."""
    head = f"{item_id} {kind} {codec} {len(content_hash)} ".encode("utf-8", "surrogatepass")
    return zlib.crc32(data, zlib.crc32(head + content_hash))
