"""One collection followed from start to end: a database that is down when the feeder starts is waited for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from feeder.applying import Applier
from feeder.errors import ServiceDown, SourceDown
from feeder.interruptions import Interruptions, Stop
from feeder.sync import Syncer

Build: TypeAlias = Callable[[], tuple[Syncer, Applier]]
"""Returns what follows a collection; asks its databases what they grant, so it may raise SourceDown."""


def follow(build: Build, stop: Stop, interruptions: Interruptions) -> None:
    """Follow until `stop`. Raises AnotherFeeder and SettingsWrong."""
    while not stop.is_set():
        try:
            syncer, applier = build()
        except (SourceDown, ServiceDown) as exc:
            stop.wait(interruptions.note(exc))
            continue
        applier.start()
        try:
            syncer.run(stop)
        finally:
            syncer.close()
            applier.close()
