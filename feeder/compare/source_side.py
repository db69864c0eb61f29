"""The source's side of a comparison: what each of its ids adds to the sums, in arrays rather than objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from feeder.digest import BUCKETS, Shares, Sums, crc_of, crcs_of
from feeder.facts import Chunk, SourceState
from vector_client.types import Id

_SIDES: Final[tuple[Literal["left"], Literal["right"]]] = ("left", "right")


@dataclass(frozen=True, slots=True)
class SourceRow:
    """What the source says of one id."""

    share: int
    active: bool


@dataclass(frozen=True, slots=True)
class SourceUpdate:
    """What was read again of some ids. rows: None for what is not there. quarantined: ids in
    quarantine, and whether they are active."""

    rows: Mapping[Id, SourceRow | None]
    quarantined: Mapping[Id, bool]


def source_update(current: SourceState, shares: Shares, refused: Iterable[Id] = ()) -> SourceUpdate:
    """refused: what the service would not store of it."""
    source_row: dict[Id, SourceRow | None] = dict.fromkeys(current.absent)
    active: dict[Id, bool] = {}
    for item in current.items:
        content = current.contents.get(item.id)
        if content is not None:
            share = shares.of_content(item.id, item.active, content.digest)
        else:
            assert isinstance(item.vector, bytes)
            share = shares.of_vector(item.id, item.active, item.vector)
        source_row[item.id] = SourceRow(share, item.active)
        active[item.id] = item.active
    quarantined = {item_id: failure.active for item_id, failure in current.failed.items()}
    return SourceUpdate(
        source_row, quarantined | {item_id: active[item_id] for item_id in refused if item_id in active}
    )


class SourceSide:
    """The source's ids and what each adds to the sums. Filled by `add_chunk`, then `seal`; afterwards single
    ids may change. For one thread."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._pending: list[tuple[list[Id] | npt.NDArray[np.int64], Sums, npt.NDArray[np.bool_]]] = []
        self._ids: list[Id] | npt.NDArray[np.int64] = []
        self._values: Sums = np.zeros(0, dtype=np.uint64)
        self._active: npt.NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)
        self._crcs: npt.NDArray[np.uint32] = np.zeros(0, dtype=np.uint32)
        self._by_crc: npt.NDArray[np.int64] | None = None
        self._changed: dict[Id, SourceRow | None] = {}
        self.quarantined: dict[Id, bool] = {}
        self.skipped: dict[str, int] = {}
        self.sums: Sums = np.zeros(BUCKETS, dtype=np.uint64)
        self.count = 0

    def add_chunk(self, chunk: Chunk) -> None:
        """Take over a chunk of a scan, in the order of the scan."""
        for reason, named in chunk.skipped.items():
            self.skipped[reason] = self.skipped.get(reason, 0) + len(named)
        self.quarantined |= chunk.quarantined
        if len(chunk.ids):
            is_int = isinstance(chunk.ids[0], int)
            ids = np.array(chunk.ids, dtype=np.int64) if is_int else list(chunk.ids)
            self._pending.append((ids, self._shares.of_chunk(chunk), chunk.active))

    def seal(self) -> None:
        """Put the chunks together: of several rows of one id the last one holds."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        values = np.concatenate([part[1] for part in pending])
        active = np.concatenate([part[2] for part in pending])
        if isinstance(pending[0][0], np.ndarray):
            ids = np.concatenate([part[0] for part in pending])
            _, from_end = np.unique(ids[::-1], return_index=True)
            last = np.sort(len(ids) - 1 - from_end)
            self._ids = ids[last]
        else:
            names = [item_id for part in pending for item_id in part[0]]
            position_of = dict(zip(names, range(len(names)), strict=True))
            last = np.sort(np.fromiter(position_of.values(), dtype=np.int64, count=len(position_of)))
            self._ids = names if len(last) == len(names) else [names[position] for position in last]
        self._values, self._active = values[last], active[last]
        self._crcs = crcs_of(self._ids)
        self.sums = self._sums_as_read(BUCKETS)
        self.count = len(self._ids)

    def sums_in(self, bucket_count: int) -> Sums:
        """(bucket_count,) as `sums`, by more bits of the ids' CRC-32. bucket_count: a power of two,
        4,096 at least."""
        if bucket_count == BUCKETS:
            return self.sums
        sums = self._sums_as_read(bucket_count)
        for item_id, source_row in self._changed.items():
            before = self._as_read(item_id)
            difference = (source_row.share if source_row else 0) - (before.share if before else 0)
            np.add.at(sums, [crc_of(item_id) & (bucket_count - 1)], np.uint64(difference % 2**64))
        return sums

    def rows_in(self, numbers: Sequence[int], bucket_count: int) -> dict[Id, SourceRow]:
        """Return the source's ids that fall into these of `bucket_count` buckets."""
        is_asked = np.zeros(bucket_count, dtype=np.bool_)
        is_asked[list(numbers)] = True
        positions = np.flatnonzero(is_asked[self._crcs & np.uint32(bucket_count - 1)])
        found = {_plain(self._ids[position]): self._row_at(position) for position in positions.tolist()}
        for item_id, row_now in self._changed.items():
            if is_asked[crc_of(item_id) & (bucket_count - 1)]:
                found.pop(item_id, None)
                if row_now is not None:
                    found[item_id] = row_now
        return found

    def update(self, update: SourceUpdate) -> None:
        """Take over what was read again."""
        for item_id, source_row in update.rows.items():
            if source_row is not None:
                self.quarantined.pop(item_id, None)
            self.set_row(item_id, source_row)
        self.quarantined |= update.quarantined

    def set_row(self, item_id: Id, source_row: SourceRow | None) -> None:
        """Say what the source holds of one id now. source_row: None for nothing."""
        bucket = crc_of(item_id) & (BUCKETS - 1)
        before = self._changed[item_id] if item_id in self._changed else self._as_read(item_id)
        difference = (source_row.share if source_row else 0) - (before.share if before else 0)
        self.sums[bucket] = np.uint64((int(self.sums[bucket]) + difference) % 2**64)
        self.count += (source_row is not None) - (before is not None)
        self._changed[item_id] = source_row

    def _sums_as_read(self, bucket_count: int) -> Sums:
        sums: Sums = np.zeros(bucket_count, dtype=np.uint64)
        np.add.at(sums, self._crcs & np.uint32(bucket_count - 1), self._values)
        return sums

    def _row_at(self, position: int) -> SourceRow:
        return SourceRow(int(self._values[position]), bool(self._active[position]))

    def _as_read(self, item_id: Id) -> SourceRow | None:
        if self._by_crc is None:
            self._by_crc = np.argsort(self._crcs, kind="stable")
        crc = np.uint32(crc_of(item_id))
        low, high = (np.searchsorted(self._crcs, crc, side, sorter=self._by_crc) for side in _SIDES)
        for position in self._by_crc[low:high].tolist():
            if self._ids[position] == item_id:
                return self._row_at(position)
        return None


def _plain(item_id: Id | np.int64) -> Id:
    return int(item_id) if isinstance(item_id, np.int64) else item_id
