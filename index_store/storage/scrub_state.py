"""What the background scrub of a store has left behind: how far it is, which rows it found damaged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from index_store.types import Id

SCRUB_FILE = "scrub.json"


@dataclass(frozen=True, slots=True)
class ScrubState:
    """after: the last id looked at in this round. damaged: ids to look at again, not a verdict."""

    after: Id | None = None
    rows: int = 0
    rounds: int = 0
    damaged: Sequence[Id] = ()


def read_scrub_state(directory: Path) -> ScrubState:
    """A file that can't be read is no news: the scrub begins again."""
    try:
        body = json.loads((directory / SCRUB_FILE).read_bytes())
        damaged = [one for one in body["damaged"] if isinstance(one, int | str)]
        after = body["after"] if isinstance(body["after"], int | str) else None
        return ScrubState(after, int(body["rows"]), int(body["rounds"]), damaged)
    except (OSError, ValueError, KeyError, TypeError):
        return ScrubState()
