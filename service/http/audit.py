"""What the audit log keeps of a request: who, from where, what, of which collection, how many, the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from service.http.auth import Role, key_name
from service.observing.audit_log import AuditLog
from service.observing.request_log import RequestLine

_READS: Final = frozenset(("GET", "HEAD"))
_READS_BY_POST: Final = frozenset(
    (
        "/v1/explain",
        "/v1/collections/{collection}/digest",
        "/v1/collections/{collection}/generations/{generation}/search",
    )
)
_REFUSED: Final = frozenset((401, 403))
_REFUSED_PER_MINUTE: Final = 60
_MINUTE_S: Final = 60.0
_CHARS_MAX: Final = 200


@dataclass(slots=True)
class Work:
    """What a request was to do and has done, in words and numbers that hold nothing of an item. details: as
    embedding_version or job. counts: of items, by what became of them."""

    collection: str | None = None
    details: Mapping[str, str | bool] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


class RequestAudit:
    """Records what changes or operates something, and attempts at it: requests of write and admin routes that
    are no mere reads. Event loop only.

    Of requests that no key opened it records some each minute and counts the others: who has no key must not
    be able to push out what was done.
    """

    def __init__(self, log: AuditLog, clock: Callable[[], float] = time.monotonic) -> None:
        self.log = log
        self._clock = clock
        self._minute_ends_at = 0.0
        self._refused = 0
        self._unrecorded = 0

    def record_request(self, line: RequestLine, caller: str, role: Role, work: Work) -> None:
        """caller: as `Keys.check` told, empty where it refused. role: that the route needs."""
        if role < Role.WRITE or line.method in _READS or line.route in _READS_BY_POST or self.log.is_off:
            return
        if line.status in _REFUSED and not self._has_room_for_refused():
            return
        entry = {
            "request_id": line.request_id.decode(),
            "key": key_name(caller),
            "role": role.name.lower(),
            "address": line.peer,
            "method": line.method,
            "route": line.route,
            "collection": work.collection,
            "details": {name: _short(value) for name, value in work.details.items()},
            "counts": {name: count for name, count in work.counts.items() if count},
            "status": line.status,
            "code": line.code,
            "took_ms": round(line.seconds * 1000, 3),
        }
        if self._unrecorded:
            entry["unrecorded_refusals"], self._unrecorded = self._unrecorded, 0
        self.log.record(entry)

    def _has_room_for_refused(self) -> bool:
        now = self._clock()
        if now >= self._minute_ends_at:
            self._minute_ends_at, self._refused = now + _MINUTE_S, 0
        self._refused += 1
        if self._refused <= _REFUSED_PER_MINUTE:
            return True
        self._unrecorded += 1
        return False


def _short(value: str | bool) -> str | bool:
    return value[:_CHARS_MAX] if isinstance(value, str) else value
