"""The generations that a pointer file named, as far as this process could open them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from index_store.diagnosis import is_passing, unavailable, what_helps
from index_store.engine.generation import Generation
from index_store.errors import StoreDamaged, StoreUnavailable, Unavailable
from index_store.record.pointer import Pointer
from index_store.storage.schema import STORE_FILE
from index_store.types import UnopenedGeneration

log = logging.getLogger(__name__)

Stamp: TypeAlias = tuple[int, int, int]

_GIVES_UP: Mapping[str, str] = {"next": "/v1/abort", "former": "/v1/retire"}


@dataclass(slots=True)
class OpenGenerations:
    """The generations as one pointer file named them, open for as long as somebody uses them. pointer:
    without those that are in `unopened`, which are never current."""

    pointer: Pointer
    stamp: Stamp
    generations: Mapping[str, Generation]
    unopened: Sequence[UnopenedGeneration] = ()
    users: int = 0
    current: Generation | None = field(init=False)
    """The generation that is searched; None before the first one was begun."""
    dims: Mapping[str, int] = field(init=False)
    """Of the vectors of each, by embedding_version; the current one first."""

    def __post_init__(self) -> None:
        member = self.pointer.current
        self.current = None if member is None else self.generations[member.name]
        self.dims = {each.embedding_version: each.dim for each in self.in_order()}

    def in_order(self) -> list[Generation]:
        """Current first."""
        return [self.generations[member.name] for member in self.pointer.members]

    def opened_version(self, embedding_version: str) -> Generation | None:
        """Return the generation of that version; None where the pointer names none. Raises StoreUnavailable
        for one that is not open here."""
        for generation in self.in_order():
            if generation.embedding_version == embedding_version:
                return generation
        for each in self.unopened:
            if each.embedding_version == embedding_version:
                raise _not_open(each)
        return None

    def follow_others(self, wanted: Set[str]) -> list[str]:
        """See `RebuildSource.catch_up_others`."""
        others = self.in_order()[1:]
        for generation in others:
            if generation.embedding_version in wanted:
                generation.read_into_memory()
            generation.follow()
        return [each.embedding_version for each in others if each.is_in_memory]

    def require_all(self) -> None:
        """Raises StoreUnavailable where a generation is not open here: it would miss a write."""
        for each in self.unopened:
            raise _not_open(each)


def unopened_generations(
    directory: Path, pointer: Pointer, problems: Mapping[str, Unavailable | OSError]
) -> list[UnopenedGeneration]:
    """Return what of the collection in `directory` can't be opened. problems: by generation; none of the
    current one."""
    found = []
    for role, member in (("next", pointer.next), ("former", pointer.former)):
        if member is None or member.name not in problems:
            continue
        path, problem = directory / member.name / STORE_FILE, problems[member.name]
        error = unavailable(path, problem) if isinstance(problem, OSError) else problem
        found.append(
            UnopenedGeneration(
                member.name,
                role,  # type: ignore[arg-type]
                member.embedding_version,
                f"the {role} generation {member.name} can't be opened and writes wait for it: {error}",
                f"{what_helps(error, path)}; or give it up: POST {_GIVES_UP[role]}",
            )
        )
    return found


def log_unopened(
    collection: str, before: Sequence[UnopenedGeneration], now: Sequence[UnopenedGeneration]
) -> None:
    """Log what is new, not every try."""
    for each in now:
        if each not in before:
            extra = {"collection": collection, "generation": each.generation}
            log.error("generation_not_open", extra={**extra, "error": each.reason, "hint": each.hint})
    for each in before:
        if each.generation not in [one.generation for one in now]:
            log.info("generation_open", extra={"collection": collection, "generation": each.generation})


def is_lasting(directory: Path, problem: Exception) -> bool:
    """Whether trying again is useless: a busy or failing disk may recover, damaged bytes do not."""
    if not isinstance(problem, StoreDamaged):
        return False
    return not is_passing(problem) or not (directory / STORE_FILE).exists()


def _not_open(generation: UnopenedGeneration) -> StoreUnavailable:
    return StoreUnavailable(generation.reason, generation.hint)
