"""What requests weigh against rate limits, and how a caller is told: 429, Retry-After, RateLimit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, TypeAlias

from service.app.search import ParsedSearch
from service.app.search_cost import cost_of
from service.http.rate_limits import Grant, RateLimit
from service.http.wire.problems import HttpRefusal

TEXT_UNITS: Final = 10.0
PICTURE_UNITS: Final = 40.0
"""An embedding beside the search of its vector, which is 1: as the processor time of the built-in models."""
OTHER_UNITS: Final = 1.0
"""Of a search route that neither searches nor embeds, and beside an embedding."""

_ROW_UNITS: Final = 1 / 100
"""Of a row that is read from the store: 5 us, where the search of a vector takes some 500."""

Refused: TypeAlias = Callable[[str], None]


class Quotas:
    """The limits of searches and of writes. Event loop only; each method is a no-op for a limit that is off.

    `charge_...` return the value of the RateLimit field for the answer, empty without a limit. They raise
    HttpRefusal 429 where the caller has too little left; then nothing is counted.
    """

    def __init__(self, searches: RateLimit | None, writes: RateLimit | None, count_refused: Refused) -> None:
        """count_refused: gets the name of the limit."""
        self._searches = searches
        self._writes = writes
        self._count_refused = count_refused
        self.has_searches = searches is not None

    def charge_search(self, caller: str, units: float = OTHER_UNITS) -> bytes:
        """Charge a request of a search route. units: of `search_units` or of an embedding."""
        return b"" if self._searches is None else self._charge(self._searches, caller, units)

    def refund_search(self, caller: str, units: float) -> None:
        """Undo a charge: the request is charged again where it is answered."""
        if self._searches is not None:
            self._searches.give_back(caller, units)

    def count_search_rows(self, caller: str, rows: float) -> None:
        """Count rows that a request has read beyond what it was charged for."""
        if self._searches is not None and rows > 0:
            self._searches.count_overrun(caller, rows * _ROW_UNITS)

    def charge_write(self, caller: str, items: int) -> bytes:
        """Charge a write of so many items and deletes."""
        return b"" if self._writes is None else self._charge(self._writes, caller, float(items))

    def _charge(self, limit: RateLimit, caller: str, units: float) -> bytes:
        grant = limit.spend(caller, units)
        told = _field_value(limit, grant)
        if grant.is_given:
            return told.encode()
        self._count_refused(limit.name)
        raise HttpRefusal(
            429,
            "too_many_requests",
            f"This caller may ask for {limit.units_max} units of {limit.name} in {limit.window_s} s; this "
            f"request weighs {units:.3g} and {grant.left:.3g} are left.",
            headers={
                "retry-after": str(max(1, math.ceil(grant.wait_s))),
                "ratelimit": told,
                "ratelimit-policy": f'"{limit.name}";q={limit.units_max};w={limit.window_s}',
            },
        )


def scan_units(rows: float) -> float:
    """Return what a request weighs that lists or counts items. rows: as it waits in line for a scan."""
    return OTHER_UNITS + rows * _ROW_UNITS


def line_cost(search: ParsedSearch) -> float:
    """Return what a search will weigh in line: what it is searched by may not have been read yet."""
    cost = cost_of(search.request)
    return cost if search.recommend == "mean" else cost * len(search.like_ids)  # a search for each


def search_units(search: ParsedSearch) -> float:
    """Return what a search weighs: as it waits in line, and what its content takes to embed."""
    units = line_cost(search)
    if search.content is None or search.mode == "lexical":  # words alone are not embedded
        return units
    return units + (TEXT_UNITS if isinstance(search.content, str) else PICTURE_UNITS)


def _field_value(limit: RateLimit, grant: Grant) -> str:
    return f'"{limit.name}";r={int(grant.left)};t={math.ceil(grant.renews_s)}'
