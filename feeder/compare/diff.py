"""What differs between the two sides of a comparison, once both have said what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from feeder.compare.source_side import SourceRow, SourceSide
from feeder.digest import BUCKETS, crc_of
from vector_client.types import DigestRow, Id

ROWS_A_BUCKET = 4
BUCKETS_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Differences:
    """Ids by what is wrong with them in the index. vanishing: how many of them search would lose. index_rows:
    what the index holds of them."""

    missing: Sequence[Id]
    changed: Sequence[Id]
    extra: Sequence[Id]
    vanishing: int
    index_rows: Mapping[Id, DigestRow] = field(default_factory=dict)

    @property
    def all_ids(self) -> list[Id]:
        """Every id that differs, whatever is wrong with it."""
        return [*self.missing, *self.changed, *self.extra]


NO_DIFFERENCES = Differences((), (), (), 0)


def bucket_count_for(rows: int) -> int:
    """How many sums name the rows that differ without many others."""
    return min(BUCKETS_MAX, max(BUCKETS, 1 << (rows // ROWS_A_BUCKET).bit_length()))


def leave_out_quarantined(
    source: SourceSide,
    source_rows: dict[Id, SourceRow],
    index_rows: dict[Id, DigestRow],
    numbers: Sequence[int],
    bucket_count: int,
) -> None:
    """Take what is in quarantine out of both sides: what the index holds of it counts as right, unless it is
    shown and must not be, or the other way round."""
    listed = set(numbers)
    for item_id, is_active in source.quarantined.items():
        if crc_of(item_id) & (bucket_count - 1) not in listed:
            continue
        row = index_rows.get(item_id)
        if row is None or not row.has_vector or row.active == is_active:
            source_rows.pop(item_id, None)
            index_rows.pop(item_id, None)
            source.set_row(item_id, None if row is None else SourceRow(row.sum, row.active))
        else:
            source_rows[item_id] = SourceRow(-1, is_active)


def differences_between(
    source_rows: Mapping[Id, SourceRow], index_rows: Mapping[Id, DigestRow]
) -> Differences:
    """Return how two sides differ that hold rows of the same buckets. Pure."""
    missing = [item_id for item_id in source_rows if item_id not in index_rows]
    known = [item_id for item_id in source_rows if item_id in index_rows]
    changed = [item_id for item_id in known if index_rows[item_id].sum != source_rows[item_id].share]
    extra = [item_id for item_id in index_rows if item_id not in source_rows]
    leaving = [*extra, *(item_id for item_id in changed if not source_rows[item_id].active)]
    vanishing = sum(index_rows[item_id].active and index_rows[item_id].has_vector for item_id in leaving)
    return Differences(missing, changed, extra, vanishing, {i: index_rows[i] for i in changed})
