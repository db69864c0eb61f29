"""One collection followed from start to end, over every interruption."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from feeder.errors import FeederError
from feeder.follow.backoff import Interruptions, Stop
from feeder.follow.follower import Syncer
from feeder.sink.writer import Applier

Build: TypeAlias = Callable[[], tuple[Syncer, Applier]]
"""Returns what follows a collection, by what its databases grant now. Raises FeederError."""


def follow(build: Build, stop: Stop, interruptions: Interruptions) -> None:
    """Follow until `stop`; after each interruption everything is built anew, since a database may grant
    something else by then. Raises AnotherFeeder and SettingsWrong where waiting is in vain."""
    while not stop.is_set():
        try:
            _run(*build(), stop, interruptions)
        except FeederError as exc:
            if interruptions.is_final(exc):
                raise
            stop.wait(interruptions.note(exc))


def _run(syncer: Syncer, applier: Applier, stop: Stop, interruptions: Interruptions) -> None:
    applier.start()
    try:
        syncer.run(stop, interruptions.over)
    finally:
        syncer.close()
        applier.close()
