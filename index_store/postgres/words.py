"""The words of a generation's items in PostgreSQL, as writes keep them and searches read them.

A write counts its own changes, so statistics are exact at the head; those of an older seq are made of them
and of what has changed since. Where rows were written by who reads words of other fields, or of none, nothing
is counted any more, and searches by words are refused until all are read again.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from index_store.errors import WordsNotSealed
from index_store.lexical.analysis import Grams, document_text
from index_store.lexical.postings import STREAMS, lexical_version
from index_store.lexical.row_postings import RowGrams, grams_of_texts
from index_store.lexical.scores import SOUND_SHARE, QueryGrams, QueryTerms, StreamStatistics, StreamTerms
from index_store.postgres.conditions import Condition
from index_store.postgres.connections import BoundedConnection
from index_store.postgres.parameters import COPY_BEGIN, COPY_END, Int8ArrayValue, id_array, int_array
from index_store.postgres.schema import LIVE, gram_table, rows_table, words_table
from index_store.record.rows import Row
from index_store.types import CollectionSpec, Id

_STREAM_NUMBERS = {stream: number for number, stream in enumerate(STREAMS)}
_ELEMENT = np.dtype([("length", ">i4"), ("value", ">i8")])
_ARRAY_HEAD = struct.Struct(">iiiii")
_INT8 = 20
_REREAD_ROWS = 2048
_COPIED_ROWS = 24
"""From so many rows on they are copied: one way there and back more, and less for each."""


def begin_words(connection: BoundedConnection, number: int, spec: CollectionSpec) -> None:
    """Count words from here on, of a generation without rows."""
    connection.execute(
        "INSERT INTO word_sum VALUES(%s, %s, 0, 0, 0, 0)", (number, lexical_version(spec.lexical_fields))
    )


def put_words(connection: BoundedConnection, number: int, spec: CollectionSpec, rows: Sequence[Row]) -> None:
    """Keep the words of new versions, tombstones among them, in the writer's transaction, and end those
    before. rows: one an id."""
    version = lexical_version(spec.lexical_fields)
    known = connection.execute(
        "SELECT lexical_version FROM word_sum WHERE generation = %s", (number,)
    ).fetchone()
    if not rows or known in (None, ("",)):
        return
    if known != (version,):
        connection.execute("UPDATE word_sum SET lexical_version = '' WHERE generation = %s", (number,))
        return
    ended = connection.execute(
        f"UPDATE {words_table(number)} AS old SET until = fresh.seq FROM unnest(%s, %s) AS fresh(id, seq) "
        f"WHERE old.id = fresh.id AND old.until IS NULL RETURNING {GRAM_COLUMNS}".encode(),
        (id_array([row.id for row in rows], spec.id_kind), int_array([row.seq for row in rows])),
        binary=True,
    ).fetchall()
    live = [row for row in rows if row.is_live]
    fresh = grams_of_texts([document_text(row.metadata, spec.lexical_fields) for row in live])
    if len(live) >= _COPIED_ROWS:
        _copy_words(connection, number, [(row.id, row.seq) for row in live], fresh)
    changes = [(fresh, len(live), 1), (grams_from(ended), len(ended), -1)]
    insert = f"INSERT INTO {words_table(number)}(id, seq, {', '.join(fresh)}) VALUES(%s, %s, %s, %s)"
    with connection.pipeline():
        if len(live) < _COPIED_ROWS:
            for row, *arrays in zip(live, *map(_arrays, fresh.values()), strict=True):
                connection.execute(insert.encode(), (row.id, row.seq, *map(Int8ArrayValue, arrays)))
        _count_words(connection, number, max(row.seq for row in rows), changes)


def is_other_fields(connection: BoundedConnection, number: int, spec: CollectionSpec) -> bool:
    """Return whether the words of a generation were read by other fields than those of `spec`, or are not
    counted any more."""
    version = lexical_version(spec.lexical_fields)
    found = connection.execute(
        "SELECT count(*) FROM word_sum WHERE generation = %s AND lexical_version = %s", (number, version)
    ).fetchone()
    return bool(version) and found == (0,)


def reread_words(connection: BoundedConnection, number: int, spec: CollectionSpec) -> None:
    """Read all words again (.1 ms a row), in a transaction in which nobody else writes to the collection.
    Searches by the former fields are answered until it commits."""
    found = connection.execute("SELECT head FROM generation WHERE number = %s", (number,)).fetchone()
    if found is None:
        return
    connection.execute(f"DELETE FROM {words_table(number)}".encode())
    connection.execute(f"DELETE FROM {gram_table(number)}".encode())
    connection.execute("DELETE FROM word_sum WHERE generation = %s", (number,))
    begin_words(connection, number, spec)
    last: tuple[Any, ...] | None = None
    while True:
        behind = "" if last is None else "AND id > %s "
        some = connection.execute(
            f"SELECT id, seq, metadata FROM {rows_table(number)} WHERE {LIVE} {behind}"
            f"ORDER BY id LIMIT {_REREAD_ROWS}".encode(),
            () if last is None else (last[0],),
        ).fetchall()
        if not some:
            break
        last = some[-1]
        fresh = grams_of_texts([document_text(row[2], spec.lexical_fields) for row in some])
        _copy_words(connection, number, [(row[0], row[1]) for row in some], fresh)
        _count_words(connection, number, found[0], [(fresh, len(some), 1)])


GRAM_COLUMNS = ", ".join(f"array_send({stream})" for stream in STREAMS)
"""What a query selects for `grams_from`."""


def grams_from(found: Sequence[tuple[Any, ...]]) -> dict[str, RowGrams]:
    """Return the grams of rows of `GRAM_COLUMNS`; of a row without words, none."""
    out = {}
    for place, stream in enumerate(STREAMS):
        # Behind the head of an array each element stands with its length; an empty one has a shorter head.
        some = [b"" if row[place] is None else bytes(row[place])[_ARRAY_HEAD.size :] for row in found]
        lengths = np.array([len(each) // _ELEMENT.itemsize for each in some], np.int32)
        out[stream] = RowGrams(np.frombuffer(b"".join(some), _ELEMENT)["value"].astype(np.int64), lengths)
    return out


def _copy_words(
    connection: BoundedConnection, number: int, keys: Sequence[tuple[Id, int]], grams: Mapping[str, RowGrams]
) -> None:
    """keys: id and seq of each row."""
    if not keys:
        return
    copied = [COPY_BEGIN]
    for (item_id, seq), *arrays in zip(keys, *map(_arrays, grams.values()), strict=True):
        fields = [item_id.encode() if isinstance(item_id, str) else struct.pack(">q", item_id)]
        fields += (struct.pack(">q", seq), *arrays)
        copied.append(struct.pack(">h", len(fields)))
        copied += (part for field in fields for part in (struct.pack(">i", len(field)), field))
    statement = f"COPY {words_table(number)}(id, seq, {', '.join(grams)}) FROM STDIN (FORMAT BINARY)"
    with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        copy.write(b"".join([*copied, COPY_END]))


def _arrays(rows: RowGrams) -> list[bytes]:
    """The grams of each row as a bigint[] in the binary form."""
    elements = np.empty(len(rows.grams), _ELEMENT)
    elements["length"], elements["value"] = 8, rows.grams
    joined, stops = elements.tobytes(), np.cumsum(rows.lengths).tolist()
    starts = [0, *stops][:-1]
    size = _ELEMENT.itemsize
    return [
        _ARRAY_HEAD.pack(1, 0, _INT8, stop - start, 1) + joined[start * size : stop * size]
        for start, stop in zip(starts, stops, strict=True)
    ]


def _count_words(
    connection: BoundedConnection,
    number: int,
    seq: int,
    changes: Sequence[tuple[Mapping[str, RowGrams], int, int]],
) -> None:
    """changes: grams of rows, how many rows, and 1 for new or -1 for ended ones."""
    sums = []
    for stream, stream_number in _STREAM_NUMBERS.items():
        grams, counts = _held([(rows[stream], sign) for rows, _, sign in changes])
        counted = gram_table(number)
        connection.execute(
            f"INSERT INTO {counted} SELECT {stream_number}, fresh.gram, fresh.held "
            "FROM unnest(%s, %s) AS fresh(gram, held) ON CONFLICT (stream, gram) "
            f"DO UPDATE SET documents = {counted}.documents + excluded.documents".encode(),
            (int_array(grams), int_array(counts)),
        )
        sums.append(sum(sign * int(rows[stream].lengths.sum()) for rows, _, sign in changes))
    documents = sum(sign * count for _, count, sign in changes)
    connection.execute(
        "UPDATE word_sum SET seq = %s, documents = documents + %s, letters = letters + %s, "
        "sounds = sounds + %s WHERE generation = %s",
        (seq, documents, *sums, number),
    )


def _held(changes: Sequence[tuple[RowGrams, int]]) -> tuple[Grams, npt.NDArray[np.int64]]:
    """Grams, and by how many rows more each is held."""
    grams, signs = [], []
    for rows, sign in changes:
        of_row = np.repeat(np.arange(len(rows.lengths)), rows.lengths)
        order = np.lexsort((of_row, rows.grams))
        sorted_grams, sorted_rows = rows.grams[order], of_row[order]
        fresh = np.ones(len(order), np.bool_)
        fresh[1:] = (sorted_grams[1:] != sorted_grams[:-1]) | (sorted_rows[1:] != sorted_rows[:-1])
        grams.append(sorted_grams[fresh])
        signs.append(np.full(len(grams[-1]), sign))
    distinct, places = np.unique(np.concatenate(grams), return_inverse=True)
    counts = np.bincount(places, np.concatenate(signs), len(distinct)).astype(np.int64)
    return distinct[counts != 0], counts[counts != 0]


def read_statistics(
    connection: BoundedConnection, number: int, spec: CollectionSpec, query: QueryGrams, seq: int
) -> dict[str, StreamStatistics]:
    """Return the statistics of a query over the items that were live at `seq`. Raises WordsNotSealed."""
    wanted = {stream: query.grams.get(stream, np.empty(0, np.int64)) for stream in STREAMS}
    of_grams = f"SELECT stream::int, gram, documents, '' FROM {gram_table(number)} WHERE stream = "
    of_all = "FROM word_sum WHERE generation = %s"
    # One statement, so that all of it is of one moment.
    found = connection.execute(
        f"{of_grams}0 AND gram = ANY(%s) UNION ALL {of_grams}1 AND gram = ANY(%s) "
        f"UNION ALL SELECT 2, seq, documents, lexical_version {of_all} "
        f"UNION ALL SELECT 3, letters, sounds, '' {of_all}".encode(),
        (*(int_array(grams) for grams in wanted.values()), number, number),
        binary=True,
    ).fetchall()
    sums = {row[0]: row for row in found if row[0] >= len(STREAMS)}
    if not sums or sums[2][3] != lexical_version(spec.lexical_fields):
        raise WordsNotSealed(
            f"the words of {lexical_version(spec.lexical_fields)!r} are not read yet",
            "they are read when the index opens and by maintenance: try again in a while",
        )
    counted, documents = sums[2][1], sums[2][2]
    held = {stream: np.zeros(len(grams), np.int64) for stream, grams in wanted.items()}
    for stream, stream_number in _STREAM_NUMBERS.items():
        some = {row[1]: row[2] for row in found if row[0] == stream_number}
        held[stream] += np.array([some.get(gram, 0) for gram in wanted[stream].tolist()], np.int64)
    lengths = dict(zip(STREAMS, sums[3][1:3], strict=True))
    if counted != seq:
        for sign, rows, count in _changes_between(connection, number, counted, seq):
            documents += sign * count
            for stream, grams in wanted.items():
                lengths[stream] += sign * int(rows[stream].lengths.sum())
                distinct, counts = _held([(rows[stream], sign)])
                places = np.searchsorted(distinct, grams)
                places[places == len(distinct)] = 0
                if len(distinct):
                    held[stream] += np.where(distinct[places] == grams, counts[places], 0)
    return {
        stream: StreamStatistics(documents, held[stream], max(1.0, lengths[stream] / max(1, documents)))
        for stream in query.grams
    }


def _changes_between(
    connection: BoundedConnection, number: int, counted: int, seq: int
) -> list[tuple[int, dict[str, RowGrams], int]]:
    """What has to be added, or taken away, to come from one seq to another: sign, grams, number of rows."""
    low, high = min(counted, seq), max(counted, seq)
    seen = "(seq <= %s AND (until IS NULL OR until > %s))::int"
    found = connection.execute(
        f"SELECT {GRAM_COLUMNS}, sign FROM "
        f"(SELECT id, seq, {seen} - {seen} AS sign FROM {rows_table(number)} "
        "WHERE (seq > %s AND seq <= %s) OR (until > %s AND until <= %s)) AS changed "
        f"JOIN {words_table(number)} USING (id, seq) WHERE sign <> 0".encode(),
        (seq, seq, counted, counted, low, high, low, high),
        binary=True,
    ).fetchall()
    out = []
    for sign in (1, -1):
        some = [row for row in found if row[-1] == sign]
        out.append((sign, grams_from(some), len(some)))
    return out


def sharing(terms: QueryTerms, least: float) -> Condition:
    """Return a condition on words_N that all rows meet which score `least` or more: they hold one of the
    grams without which no row can."""
    found, parameters = [], []
    for stream, own in terms.items():
        factor = SOUND_SHARE if stream == "sounds" and "letters" in terms else 1.0
        needed = _needed_grams(own, max(0.0, least) ** 0.5 / factor)
        if len(needed):
            found.append(f"w.{stream} && %s")
            parameters.append(int_array(needed))
    return Condition(" OR ".join(found) or "false", tuple(parameters))


def _needed_grams(terms: StreamTerms, share: float) -> Grams:
    """The fewest grams of which a row with such a share holds one: those left out weigh less together."""
    order = np.argsort(terms.weights)
    together = np.cumsum(terms.weights[order].astype(np.float64))
    spare = int(np.searchsorted(together, share * (1 - 1e-6) - 1e-9, side="left"))
    needed: Grams = terms.grams[order[spare:]]
    return needed
