"""What differs between the two sides of a comparison, once both have said what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from feeder.compare.source_side import Mine, SourceSide
from feeder.digest import BUCKETS, crc_of
from vector_client.types import DigestRow, Id

ROWS_A_PART = 4
PARTS_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Differences:
    """Ids by what is wrong with them in the index. vanishing: how many of them search would lose. theirs:
    what the index holds of them."""

    missing: Sequence[Id]
    changed: Sequence[Id]
    extra: Sequence[Id]
    vanishing: int
    theirs: Mapping[Id, DigestRow] = field(default_factory=dict)

    @property
    def ids(self) -> list[Id]:
        return [*self.missing, *self.changed, *self.extra]


NO_DIFFERENCES = Differences((), (), (), 0)


def parts_for(rows: int) -> int:
    """How many sums name the rows that differ without many others."""
    return min(PARTS_MAX, max(BUCKETS, 1 << (rows // ROWS_A_PART).bit_length()))


def without_asides(
    source: SourceSide,
    mine: dict[Id, Mine],
    theirs: dict[Id, DigestRow],
    numbers: Sequence[int],
    parts: int,
) -> None:
    """Take what is in quarantine out of both sides: what the index holds of it counts as right, unless it is
    shown and must not be, or the other way round."""
    listed = set(numbers)
    for item_id, is_active in source.aside.items():
        if crc_of(item_id) & (parts - 1) not in listed:
            continue
        row = theirs.get(item_id)
        if row is None or not row.has_vector or row.active == is_active:
            mine.pop(item_id, None)
            theirs.pop(item_id, None)
            source.put(item_id, None if row is None else Mine(row.sum, row.active))
        else:
            mine[item_id] = Mine(-1, is_active)


def compared(mine: Mapping[Id, Mine], theirs: Mapping[Id, DigestRow]) -> Differences:
    missing = [item_id for item_id in mine if item_id not in theirs]
    known = [item_id for item_id in mine if item_id in theirs]
    changed = [item_id for item_id in known if theirs[item_id].sum != mine[item_id].share]
    extra = [item_id for item_id in theirs if item_id not in mine]
    leaving = [*extra, *(item_id for item_id in changed if not mine[item_id].active)]
    vanishing = sum(theirs[item_id].active and theirs[item_id].has_vector for item_id in leaving)
    return Differences(missing, changed, extra, vanishing, {i: theirs[i] for i in changed})
