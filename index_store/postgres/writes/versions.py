"""Versions of rows put in and ended, and what a generation counts: the statements between a writer's reads
and its COMMIT."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from psycopg.types.numeric import Int8

from index_store.contents.table import KeptContent
from index_store.postgres.connections import BoundedConnection
from index_store.postgres.facts import facts_of
from index_store.postgres.generations import GenerationRecord
from index_store.postgres.parameters import (
    COPY_BEGIN,
    COPY_END,
    data_array,
    id_array,
    int_array,
    text_array,
    vector_from_stored,
)
from index_store.postgres.schema import BUCKET_BITS, ROW_COLUMNS, content_table, rows_table
from index_store.record.batches import TransactionRows, count_changes
from index_store.record.digest import crc_of, to_signed
from index_store.record.rows import Row
from index_store.types import Id
from item_rules.ids import IdKind

_COPIED_ROWS = 24
"""From so many new versions on they are copied: one way there and back more, and less for each."""
_COPY_BYTES = 1 << 20
_BUCKET_MASK = (1 << BUCKET_BITS) - 1
_NULL = b"\xff\xff\xff\xff"
_INT8 = struct.Struct(">iq")
_INT4 = struct.Struct(">ii")
_FALSE, _TRUE = b"\0\0\0\1\0", b"\0\0\0\1\1"
_JSONB_VERSION = b"\1"


def put_versions(
    connection: BoundedConnection, id_kind: IdKind, generation: GenerationRecord, work: TransactionRows
) -> int:
    """End the versions that were replaced and put in the new ones; return how many contents more are kept."""
    table = rows_table(generation.number)
    changed = [work.changed[each] for each in sorted(work.changed)]
    ended = [(old, row.seq) for row in changed if (old := work.before.get(row.id)) is not None]
    with connection.pipeline():
        if ended:
            connection.execute(
                f"UPDATE {table} r SET until = n.until FROM unnest(%s, %s, %s) AS n(id, seq, until) "
                "WHERE r.id = n.id AND r.seq = n.seq".encode(),
                (
                    id_array([old.id for old, _ in ended], id_kind),
                    int_array([old.seq for old, _ in ended]),
                    int_array([until for _, until in ended]),
                ),
            )
        if len(changed) < _COPIED_ROWS:
            marks = ", ".join(["%s"] * len(ROW_COLUMNS))
            for row in changed:
                connection.execute(f"INSERT INTO {table} VALUES({marks})".encode(), _values(row))
    if len(changed) >= _COPIED_ROWS:
        with connection.cursor() as cursor:
            statement = f"COPY {table} ({', '.join(ROW_COLUMNS)}) FROM STDIN (FORMAT BINARY)"
            with cursor.copy(statement.encode()) as copy:
                for piece in _copied(changed):
                    copy.write(piece)
    return _keep_contents(connection, id_kind, generation, work.contents) if work.contents else 0


def _values(row: Row) -> tuple[Any, ...]:
    """The values of `ROW_COLUMNS` of a version that is the newest."""
    return (
        Int8(row.id) if isinstance(row.id, int) else row.id,
        Int8(row.seq),
        None,
        row.deleted,
        row.active,
        None if row.source_version is None else Int8(row.source_version),
        row.content_hash,
        row.metadata,
        facts_of(row.metadata),
        Int8(to_signed(row.share)),
        Int8(crc_of(row.id) & _BUCKET_MASK),
        None if row.vector is None else vector_from_stored(row.vector),
    )


def _copied(rows: Sequence[Row]) -> Iterator[bytes]:
    """The same of many rows, as COPY takes them in binary."""
    made = bytearray(COPY_BEGIN)
    head = struct.pack(">h", len(ROW_COLUMNS))
    for row in rows:
        made += head
        made += _INT8.pack(8, row.id) if isinstance(row.id, int) else _field(row.id.encode())
        made += _INT8.pack(8, row.seq)
        made += _NULL
        made += _TRUE if row.deleted else _FALSE
        made += _TRUE if row.active else _FALSE
        made += _NULL if row.source_version is None else _INT8.pack(8, row.source_version)
        made += _field(row.content_hash)
        made += _field(None if row.metadata is None else row.metadata.encode())
        made += _field(_JSONB_VERSION + facts_of(row.metadata).encode())
        made += _INT8.pack(8, to_signed(row.share))
        made += _INT4.pack(4, crc_of(row.id) & _BUCKET_MASK)
        made += _field(None if row.vector is None else vector_from_stored(row.vector))
        if len(made) >= _COPY_BYTES:
            yield bytes(made)
            made.clear()
    yield bytes(made + COPY_END)


def _field(value: bytes | None) -> bytes:
    return _NULL if value is None else len(value).to_bytes(4, "big") + value


def _keep_contents(
    connection: BoundedConnection,
    id_kind: IdKind,
    generation: GenerationRecord,
    changes: Mapping[Id, KeptContent | None],
) -> int:
    """Keep what the changed items are made of now, and return how many more that makes."""
    table = content_table(generation.number)
    kept = [(item_id, each) for item_id, each in changes.items() if each is not None]
    dropped = [item_id for item_id, each in changes.items() if each is None]
    held = connection.execute(
        f"SELECT count(*) FROM {table} WHERE id = ANY(%s)".encode(), (id_array(list(changes), id_kind),)
    ).fetchone()
    assert held is not None
    with connection.pipeline():
        connection.execute(f"DELETE FROM {table} WHERE id = ANY(%s)".encode(), (id_array(dropped, id_kind),))
        connection.execute(
            f"INSERT INTO {table}(id, content_hash, kind, data) SELECT * FROM unnest(%s, %s, %s, %s) "
            "ON CONFLICT(id) DO UPDATE "
            "SET content_hash = excluded.content_hash, kind = excluded.kind, data = excluded.data".encode(),
            (
                id_array([item_id for item_id, _ in kept], id_kind),
                data_array([each.content_hash for _, each in kept]),
                text_array([each.content.kind for _, each in kept]),
                data_array([each.content.data for _, each in kept]),
            ),
        )
    return len(kept) - int(held[0])


def changed_counts(generation: GenerationRecord, work: TransactionRows, contents: int) -> GenerationRecord:
    """Return the generation as it is once the changes of one batch are committed."""
    changes = count_changes(work)
    vectors = [row.vector for row in work.changed.values() if row.vector]
    lengths = [generation.length_max]
    if vectors:
        stacked = np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), -1)
        lengths.append(float(np.sqrt(np.einsum("ij,ij->i", stacked, stacked, dtype=np.float64)).max()))
    return replace(
        generation,
        head=work.seq,
        items=generation.items + changes.items,
        live=generation.live + changes.live,
        awaiting=generation.awaiting + changes.awaiting,
        contents=generation.contents + contents,
        length_max=max(lengths),
    )


def store_counts(connection: BoundedConnection, generation: GenerationRecord, work: TransactionRows) -> None:
    """Write what a generation counts after a batch, and its head last: the commit."""
    shares = {bucket: to_signed(share) for bucket, share in count_changes(work).shares.items() if share}
    if shares:
        connection.execute(
            # Sums are modulo 2**64, and bigint is signed: past its end one begins again at the other.
            "INSERT INTO digest_sum AS d(generation, bucket, sum) "
            "SELECT %s, b, s FROM unnest(%s, %s) AS n(b, s) ON CONFLICT(generation, bucket) DO UPDATE SET "
            "sum = (mod(d.sum::numeric + excluded.sum + 27670116110564327424, 18446744073709551616) "
            "- 9223372036854775808)::bigint",
            (generation.number, int_array(list(shares)), int_array(list(shares.values()))),
        )
    if work.changed:
        connection.execute(
            "UPDATE generation SET items = %s, live = %s, awaiting = %s, contents = %s, length_max = %s, "
            "head = %s WHERE number = %s",
            (
                Int8(generation.items),
                Int8(generation.live),
                Int8(generation.awaiting),
                Int8(generation.contents),
                generation.length_max,
                Int8(generation.head),
                generation.number,
            ),
        )
