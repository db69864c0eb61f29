"""Which generation of a collection is current, next and former, and the steps between. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from index_store.errors import GenerationConflict
from index_store.types import Id

_IDS_NAMED = 5


@dataclass(frozen=True, slots=True)
class GenerationName:
    """One generation: its directory's name, made here and never by a caller, and its address."""

    name: str
    embedding_version: str


@dataclass(frozen=True, slots=True)
class Pointer:
    """Roles of the generations. counter: number of the newest directory ever named. former_since: when the
    former one became it, in seconds since the epoch; 0 where nobody noted it."""

    current: GenerationName | None = None
    next: GenerationName | None = None
    former: GenerationName | None = None
    counter: int = 0
    former_since: float = 0.0

    @property
    def members(self) -> tuple[GenerationName, ...]:
        """Current first: writes go to it before the others."""
        return tuple(m for m in (self.current, self.next, self.former) if m is not None)

    @property
    def names(self) -> set[str]:
        """Of the directories that have a role."""
        return {member.name for member in self.members}

    def with_new_generation(self, embedding_version: str) -> tuple[GenerationName, Pointer]:
        """A new member of that version, not in any role yet, and the pointer that has counted it."""
        if any(m.embedding_version == embedding_version for m in self.members):
            raise GenerationConflict(f"a generation of {embedding_version!r} exists already")
        if self.next is not None:
            raise GenerationConflict(
                f"{self.next.embedding_version!r} is being built: promote or abort it first"
            )
        counter = self.counter + 1
        return GenerationName(f"g{counter:06d}", embedding_version), replace(self, counter=counter)

    def with_next(self, member: GenerationName) -> Pointer:
        """Return the pointer with `member` as next, or as current where there is none."""
        return replace(self, next=member) if self.current else replace(self, current=member)

    def after_step(self, step: str, embedding_version: str) -> Pointer:
        """Return the pointer after `promote`, `rollback`, `abort` or `retire`. Raises GenerationConflict."""
        moves = {
            "promote": self.promoted,
            "rollback": self.rolled_back,
            "abort": self.aborted,
            "retire": self.retired,
        }
        return moves[step](embedding_version)

    def promoted(self, embedding_version: str) -> Pointer:
        """Return the pointer with next as current and current as former. Raises GenerationConflict."""
        member = _require_role(self.next, embedding_version, "promote", "next")
        return replace(self, current=member, next=None, former=self.current)

    def rolled_back(self, embedding_version: str) -> Pointer:
        """Return the pointer with former and current swapped. Raises GenerationConflict."""
        member = _require_role(self.former, embedding_version, "rollback", "former")
        return replace(self, current=member, former=self.current)

    def aborted(self, embedding_version: str) -> Pointer:
        """Return the pointer without its next generation. Raises GenerationConflict."""
        _require_role(self.next, embedding_version, "abort", "next")
        return replace(self, next=None)

    def retired(self, embedding_version: str) -> Pointer:
        """Return the pointer without its former generation. Raises GenerationConflict."""
        if self.current is not None and self.current.embedding_version == embedding_version:
            raise GenerationConflict(f"can't retire {embedding_version!r}: it is the current generation")
        _require_role(self.former, embedding_version, "retire", "former")
        return replace(self, former=None)

    def without(self, name: str) -> Pointer:
        """The pointer without a next or former generation of that name."""
        is_next = self.next is not None and self.next.name == name
        is_former = self.former is not None and self.former.name == name
        return replace(self, next=None if is_next else self.next, former=None if is_former else self.former)

    def renamed(self, names: Mapping[str, str]) -> Pointer:
        """Return the same roles of generations that are called otherwise. names: by the names here."""

        def named(member: GenerationName | None) -> GenerationName | None:
            return None if member is None else replace(member, name=names[member.name])

        current, following, former = named(self.current), named(self.next), named(self.former)
        return replace(self, current=current, next=following, former=former)


def _require_role(
    member: GenerationName | None, embedding_version: str, step: str, role: str
) -> GenerationName:
    if member is None:
        raise GenerationConflict(f"nothing to {step}: there is no {role} generation")
    if member.embedding_version != embedding_version:
        raise GenerationConflict(
            f"can't {step} {embedding_version!r}: the {role} generation is {member.embedding_version!r}"
        )
    return member


def shown_again(ids: Iterable[Id]) -> GenerationConflict:
    """Return what refuses a step after which these items would be shown, which are hidden or deleted now."""
    shown = sorted(ids)
    return GenerationConflict(
        f"{len(shown)} item(s) that are hidden or deleted now would be shown again, as "
        f"{', '.join(map(str, shown[:_IDS_NAMED]))}",
        "wait for that generation's feeder, if it has one; or say again what hid them (POST /v1/deactivate,"
        " /v1/delete: every generation takes them); or say force",
    )
