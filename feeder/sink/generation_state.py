"""Which generation of a collection is written, and its state as if it were the only one.

Two generations that have a source column each are followed apart: each has its own cursors, brake and proof,
and nothing that is written to one reaches the other. So nothing changes here when they trade places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from feeder.errors import ImportRefused
from feeder.state.cursor_names import CLOCK_CURSOR
from vector_client.types import CollectionState, Generation


@dataclass(frozen=True, slots=True)
class WrittenGeneration:
    """embedding_version: of which generation, in whatever role it is; None: of the current one, whatever that
    is. except_versions: generations that others fill, which take nothing of what is written. label: what
    errors and the log call it."""

    label: str
    embedding_version: str | None = None
    except_versions: Sequence[str] = ()

    def state_in(self, state: CollectionState) -> CollectionState:
        """Return the collection's state as this generation has it: its version, seq and cursors. A collection
        without any generation is left as it is: an import begins the first one. Raises ImportRefused where
        there are others and not this one."""
        version = self.embedding_version
        if version is None or state.problem or (state.version is None and not state.generations):
            return state
        for generation in state.generations:
            if generation.embedding_version == version:
                return replace(
                    state,
                    name=self.label,
                    version=version,
                    seq=generation.seq,
                    cursors=_with_newest_clock(generation, state.generations),
                )
        if not state.generations and state.version == version:
            return replace(state, name=self.label)
        held = [f"{each.embedding_version} ({each.role})" for each in state.generations]
        raise ImportRefused(
            f"{self.label}: its vectors are of {version!r}, the service holds no generation of that; it holds"
            f" {', '.join(held) or state.version}",
            hint="Right the embedding_version in COLLECTIONS_FILE, or begin that generation with"
            " `python -m service rebuild`; take source.next out where it was given up or retired.",
        )


def _with_newest_clock(generation: Generation, all_of_them: Sequence[Generation]) -> dict[str, str]:
    """Return its cursors. What a new generation took over bears source_versions of the others' feeder, so
    its own begin behind those."""
    clocks = [each.cursors.get(CLOCK_CURSOR, "") for each in all_of_them]
    newest = max((int(clock) for clock in clocks if clock.isdecimal()), default=0)
    return {**generation.cursors, **({CLOCK_CURSOR: str(newest)} if newest else {})}
