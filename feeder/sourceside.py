"""The source's side of a comparison: what each of its ids adds to the sums, in arrays rather than objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feeder.known import Known, Portion
from feeder.proof import BUCKETS, Shares, Sums, bucket_of, buckets_of
from vector_client.types import Id


@dataclass(frozen=True, slots=True)
class Mine:
    """What the source says of one id."""

    share: int
    active: bool


class SourceSide:
    """Filled by `add`, then `sealed`; afterwards single ids may change. For one thread."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._parts: list[tuple[list[Id] | npt.NDArray[np.int64], Sums, npt.NDArray[np.bool_]]] = []
        self._ids: list[Id] | npt.NDArray[np.int64] = []
        self._values: Sums = np.zeros(0, dtype=np.uint64)
        self._active: npt.NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)
        self._buckets: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._read: dict[Id, Mine] = {}
        self._changed: dict[Id, Mine | None] = {}
        self._is_looked_at: npt.NDArray[np.bool_] = np.zeros(BUCKETS, dtype=np.bool_)
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
        self._buckets = buckets_of(self._ids)
        np.add.at(self.sums, self._buckets, self._values)
        self.count = len(self._ids)

    def within(self, buckets: npt.NDArray[np.int64]) -> dict[Id, Mine]:
        """Return the source's ids of these buckets."""
        is_asked = np.zeros(BUCKETS, dtype=np.bool_)
        is_asked[buckets] = True
        found: dict[Id, Mine] = {}
        for place in np.flatnonzero(is_asked[self._buckets]).tolist():
            item_id = self._ids[place]
            mine = Mine(int(self._values[place]), bool(self._active[place]))
            found[int(item_id) if isinstance(item_id, np.integer) else item_id] = mine
        self._read |= found
        self._is_looked_at |= is_asked
        for item_id, mine_now in self._changed.items():
            if is_asked[bucket_of(item_id)]:
                found.pop(item_id, None)
                if mine_now is not None:
                    found[item_id] = mine_now
        return found

    def update(self, known: Known) -> None:
        """Take over what was read again."""
        for item_id in known.absent:
            self.put(item_id, None)
        for item in known.items:
            self.aside.pop(item.id, None)
            content = known.contents.get(item.id)
            if content is not None:
                share = self._shares.of_content(item.id, item.active, content.digest)
            else:
                assert isinstance(item.vector, bytes)
                share = self._shares.of_vector(item.id, item.active, item.vector)
            self.put(item.id, Mine(share, item.active))
        for item_id, failure in known.failed.items():
            self.aside[item_id] = failure.active

    def put(self, item_id: Id, mine: Mine | None) -> None:
        bucket = bucket_of(item_id)
        if not self._is_looked_at[bucket]:
            self.within(np.array([bucket]))
        before = self._changed[item_id] if item_id in self._changed else self._read.get(item_id)
        difference = (mine.share if mine else 0) - (before.share if before else 0)
        self.sums[bucket] = np.uint64((int(self.sums[bucket]) + difference) % 2**64)
        self.count += (mine is not None) - (before is not None)
        self._changed[item_id] = mine

    def set_back(self, refused: Mapping[Id, str], known: Known) -> None:
        """Set ids aside that the service would not store."""
        active = {item.id: item.active for item in known.items}
        for item_id in refused:
            if item_id in active:
                self.aside[item_id] = active[item_id]
