"""One pass over the small columns of all known rows: finer sums than the 4,096 kept, and whose they are.

Searches run in the same interpreter, so a page is short: between two rows SQLite lets others have their turn,
between two pages numpy and zlib have held it for a fraction of a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from index_store.record.digest import crc_of
from index_store.storage.schema import Connection
from index_store.types import Id

_PAGE_ROWS = 512


@dataclass(frozen=True, slots=True)
class DigestPage:
    """Some known rows. crcs: uint32; the low bits of one are the number of its bucket or part. shares:
    uint64, as stored."""

    ids: list[Id]
    crcs: npt.NDArray[np.uint32]
    shares: npt.NDArray[np.uint64]

    def ids_in(self, is_wanted: npt.NDArray[np.bool_]) -> list[Id]:
        """The ids of those parts for which it is True. is_wanted: (parts,)."""
        positions = np.flatnonzero(is_wanted[self.crcs & np.uint32(len(is_wanted) - 1)])
        return [self.ids[position] for position in positions.tolist()]


def digest_pages(connection: Connection) -> Iterator[DigestPage]:
    """Every known row, as of the transaction that the caller opened."""
    rows = iter(connection.execute("SELECT id, share FROM item WHERE deleted=0"))
    while found := list(islice(rows, _PAGE_ROWS)):
        try:
            yield _page(found)
        except (TypeError, ValueError, AttributeError, ArithmeticError):
            yield _page([row for row in found if _is_readable(*row)])


def _page(rows: list[tuple[Id, int]]) -> DigestPage:
    ids = [item_id for item_id, _ in rows]
    crcs = np.fromiter(map(crc_of, ids), dtype=np.uint32, count=len(ids))
    shares = np.fromiter((share for _, share in rows), dtype=np.int64, count=len(ids))
    return DigestPage(ids, crcs, shares.view(np.uint64))


def _is_readable(item_id: Id, share: object) -> bool:
    """Bit rot may have changed the type of either, or made text undecodable; reading the whole row finds the
    wrong checksum."""
    try:
        crc_of(item_id)
    except (TypeError, ValueError, AttributeError, ArithmeticError):
        return False
    return isinstance(share, int)


def bucket_sums(connection: Connection, parts: int) -> npt.NDArray[np.uint64]:
    """(parts,) sums modulo 2**64 of the shares as stored. parts: a power of two."""
    sums = np.zeros(parts, dtype=np.uint64)
    for page in digest_pages(connection):
        np.add.at(sums, page.crcs & np.uint32(parts - 1), page.shares)
    return sums
