"""One collection followed from start to end, over every interruption."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from feeder.errors import FeederError
from feeder.follow.backoff import Backoff, StopSignal
from feeder.follow.follower import Follower
from feeder.sink.writer import Writer

Build: TypeAlias = Callable[[], tuple[Follower, Writer]]
"""Returns what follows a collection, by what its databases grant now. Raises FeederError."""


def follow(build: Build, stop: StopSignal, backoff: Backoff) -> None:
    """Follow until `stop`; after each interruption everything is built again, since a database may grant
    something else by then. Raises AnotherFeeder and SettingsWrong where waiting can't help."""
    while not stop.is_set():
        try:
            _run(*build(), stop, backoff)
        except FeederError as exc:
            if backoff.is_final(exc):
                raise
            stop.wait(backoff.note_failure(exc))


def _run(follower: Follower, writer: Writer, stop: StopSignal, backoff: Backoff) -> None:
    writer.start()
    try:
        follower.follow_until(stop, backoff.note_progress)
    finally:
        follower.close()
        writer.close()
