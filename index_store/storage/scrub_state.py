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
    """after: the last id looked at in this part of a round, which is_at_contents names. damaged,
    damaged_contents: ids to look at again, not a verdict."""

    after: Id | None = None
    rows: int = 0
    rounds: int = 0
    damaged: Sequence[Id] = ()
    is_at_contents: bool = False
    damaged_contents: Sequence[Id] = ()


def read_scrub_state(directory: Path) -> ScrubState:
    """A file that can't be read is no news: the scrub begins again."""
    try:
        body = json.loads((directory / SCRUB_FILE).read_bytes())
        damaged = [one for one in body["damaged"] if isinstance(one, int | str)]
        after = body["after"] if isinstance(body["after"], int | str) else None
        contents = [one for one in body.get("damaged_contents", ()) if isinstance(one, int | str)]
        is_at_contents = body.get("is_at_contents") is True  # absent: of a program that did not read them
        return ScrubState(after, int(body["rows"]), int(body["rounds"]), damaged, is_at_contents, contents)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ScrubState()
