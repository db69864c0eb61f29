"""Which embedding_version a feeder writes under, and which of two writes is the newer one."""

from __future__ import annotations

import json
from collections.abc import Callable

from feeder.errors import ImportRefused, ServiceDown
from feeder.state.cursor_names import IMPORT_CURSOR
from vector_client.types import CollectionState


class SourceVersions:
    """source_versions: each newer than any the service has seen from a feeder, in milliseconds since 1970
    as far as clocks allow, so that they sort among versions that people make."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = 0

    def start_after(self, stored: str | None) -> None:
        """Make every version newer than `stored`, the newest that the service has seen."""
        self._last = max(self._last, int(stored) if stored and stored.isdecimal() else 0)

    def next(self) -> int:
        """Return a version newer than all before: milliseconds since 1970, or one more than the last."""
        self._last = max(self._last + 1, int(self._clock() * 1000))
        return self._last


def vector_version(state: CollectionState) -> str:
    """Return the embedding_version that the source's vectors are proven to be of. Raises ImportRefused."""
    imported = state.cursors.get(IMPORT_CURSOR)
    proven = json.loads(imported).get("version") if imported else None
    if state.version is not None and proven == state.version:
        return state.version
    held = (
        f"its source's vectors are proven to be of {proven}"
        if proven
        else "nothing proves its source's vectors"
    )
    raise ImportRefused(
        f"{state.name} serves {state.version or 'nothing yet'}, {held}",
        hint=f"Stop `sync`, run `python -m feeder import {state.name}`, which proves and brings them, and"
        " start it again; or go back to the former model with POST /v1/rollback.",
    )


def imported_version(state: CollectionState) -> str:
    """Return the embedding_version of a generation once an import has proven that the source's vectors are of
    it, and has come to its end: it holds the lease until then. Raises ImportRefused."""
    imported = json.loads(state.cursors.get(IMPORT_CURSOR) or "{}")
    if state.version is not None and imported.get("version") == state.version and imported.get("done"):
        return state.version
    raise ImportRefused(
        f"{state.name}: no import has proven and brought its vectors of {state.version} yet",
        hint=f"Run `python -m feeder import {state.name}`, which proves and brings them; `sync` may run"
        " meanwhile.",
    )


def content_version(state: CollectionState) -> str:
    """Return the embedding_version that the service embeds content under. Raises ServiceDown."""
    if state.version is None:
        raise ServiceDown(
            f"{state.name} serves no embedding_version yet",
            hint="Is its model available? The service's /health says why not.",
        )
    return state.version
