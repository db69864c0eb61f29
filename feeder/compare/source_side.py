"""The source's side of a comparison: what each of its ids adds to the sums, in arrays rather than objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from feeder.digest import BUCKETS, Shares, Sums, crc_of, crcs_of
from feeder.facts import Known, Portion
from vector_client.types import Id

_SIDES: Final[tuple[Literal["left"], Literal["right"]]] = ("left", "right")


@dataclass(frozen=True, slots=True)
class Mine:
    """What the source says of one id."""

    share: int
    active: bool


@dataclass(frozen=True, slots=True)
class News:
    """What was read again of some ids. mine: None for what is not there. aside: what is in quarantine, and
    whether it is active."""

    mine: Mapping[Id, Mine | None]
    aside: Mapping[Id, bool]


def news_of(known: Known, shares: Shares, refused: Iterable[Id] = ()) -> News:
    """refused: what the service would not store of it."""
    mine: dict[Id, Mine | None] = dict.fromkeys(known.absent)
    active: dict[Id, bool] = {}
    for item in known.items:
        content = known.contents.get(item.id)
        if content is not None:
            share = shares.of_content(item.id, item.active, content.digest)
        else:
            assert isinstance(item.vector, bytes)
            share = shares.of_vector(item.id, item.active, item.vector)
        mine[item.id] = Mine(share, item.active)
        active[item.id] = item.active
    aside = {item_id: failure.active for item_id, failure in known.failed.items()}
    return News(mine, aside | {item_id: active[item_id] for item_id in refused if item_id in active})


class SourceSide:
    """Filled by `add`, then `sealed`; afterwards single ids may change. For one thread."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._parts: list[tuple[list[Id] | npt.NDArray[np.int64], Sums, npt.NDArray[np.bool_]]] = []
        self._ids: list[Id] | npt.NDArray[np.int64] = []
        self._values: Sums = np.zeros(0, dtype=np.uint64)
        self._active: npt.NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)
        self._crcs: npt.NDArray[np.uint32] = np.zeros(0, dtype=np.uint32)
        self._by_crc: npt.NDArray[np.int64] | None = None
        self._changed: dict[Id, Mine | None] = {}
        self.aside: dict[Id, bool] = {}
        self.set_aside: dict[str, int] = {}
        self.sums: Sums = np.zeros(BUCKETS, dtype=np.uint64)
        self.count = 0

    def add(self, portion: Portion) -> None:
        for reason, named in portion.set_aside.items():
            self.set_aside[reason] = self.set_aside.get(reason, 0) + len(named)
        self.aside |= portion.aside
        if len(portion.ids):
            is_int = isinstance(portion.ids[0], int)
            ids = np.array(portion.ids, dtype=np.int64) if is_int else list(portion.ids)
            self._parts.append((ids, self._shares.of_portion(portion), portion.active))

    def seal(self) -> None:
        """Put the portions together: of several rows of one id the last one holds."""
        parts, self._parts = self._parts, []
        if not parts:
            return
        values = np.concatenate([part[1] for part in parts])
        active = np.concatenate([part[2] for part in parts])
        if isinstance(parts[0][0], np.ndarray):
            ids = np.concatenate([part[0] for part in parts])
            _, from_end = np.unique(ids[::-1], return_index=True)
            last = np.sort(len(ids) - 1 - from_end)
            self._ids = ids[last]
        else:
            names = [item_id for part in parts for item_id in part[0]]
            place_of = dict(zip(names, range(len(names)), strict=True))
            last = np.sort(np.fromiter(place_of.values(), dtype=np.int64, count=len(place_of)))
            self._ids = names if len(last) == len(names) else [names[place] for place in last]
        self._values, self._active = values[last], active[last]
        self._crcs = crcs_of(self._ids)
        self.sums = self._sums_as_read(BUCKETS)
        self.count = len(self._ids)

    def sums_of(self, parts: int) -> Sums:
        """(parts,) as `sums`, by more bits of the ids' CRC-32. parts: a power of two from 4,096."""
        if parts == BUCKETS:
            return self.sums
        sums = self._sums_as_read(parts)
        for item_id, mine in self._changed.items():
            before = self._as_read(item_id)
            difference = (mine.share if mine else 0) - (before.share if before else 0)
            np.add.at(sums, [crc_of(item_id) & (parts - 1)], np.uint64(difference % 2**64))
        return sums

    def within(self, numbers: Sequence[int], parts: int) -> dict[Id, Mine]:
        """Return the source's ids of some of so many parts."""
        is_asked = np.zeros(parts, dtype=np.bool_)
        is_asked[list(numbers)] = True
        places = np.flatnonzero(is_asked[self._crcs & np.uint32(parts - 1)])
        found = {_plain(self._ids[place]): self._at(place) for place in places.tolist()}
        for item_id, mine_now in self._changed.items():
            if is_asked[crc_of(item_id) & (parts - 1)]:
                found.pop(item_id, None)
                if mine_now is not None:
                    found[item_id] = mine_now
        return found

    def take(self, news: News) -> None:
        """Take over what was read again."""
        for item_id, mine in news.mine.items():
            if mine is not None:
                self.aside.pop(item_id, None)
            self.put(item_id, mine)
        self.aside |= news.aside

    def put(self, item_id: Id, mine: Mine | None) -> None:
        bucket = crc_of(item_id) & (BUCKETS - 1)
        before = self._changed[item_id] if item_id in self._changed else self._as_read(item_id)
        difference = (mine.share if mine else 0) - (before.share if before else 0)
        self.sums[bucket] = np.uint64((int(self.sums[bucket]) + difference) % 2**64)
        self.count += (mine is not None) - (before is not None)
        self._changed[item_id] = mine

    def _sums_as_read(self, parts: int) -> Sums:
        sums: Sums = np.zeros(parts, dtype=np.uint64)
        np.add.at(sums, self._crcs & np.uint32(parts - 1), self._values)
        return sums

    def _at(self, place: int) -> Mine:
        return Mine(int(self._values[place]), bool(self._active[place]))

    def _as_read(self, item_id: Id) -> Mine | None:
        if self._by_crc is None:
            self._by_crc = np.argsort(self._crcs, kind="stable")
        crc = np.uint32(crc_of(item_id))
        low, high = (np.searchsorted(self._crcs, crc, side, sorter=self._by_crc) for side in _SIDES)
        for place in self._by_crc[low:high].tolist():
            if self._ids[place] == item_id:
                return self._at(place)
        return None


def _plain(item_id: Id | np.int64) -> Id:
    return int(item_id) if isinstance(item_id, np.int64) else item_id
