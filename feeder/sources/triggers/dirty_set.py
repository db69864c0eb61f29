"""The tables that triggers fill, and who reads them.

`vs_dirty` holds a row a change, `vs_dirty_install` which tables are watched. Several services may follow one
table: each feeder enters itself in `vs_dirty_readers`, notes in `vs_dirty_seen` what it has dealt with, and a
row goes when every reader has seen it. The triggers know nothing of readers: a new reader compares
everything afterwards, so that it misses nothing that was written before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from feeder.changes import Key
from feeder.errors import FeedLost
from feeder.sources.change_feed import Side
from feeder.table_mapping import Identifier

DIRTY, INSTALLS, READERS, SEEN = "vs_dirty", "vs_dirty_install", "vs_dirty_readers", "vs_dirty_seen"
EVENTS = ("insert", "update", "delete", "truncate")
SHARED = "2:"
"""What an install_id begins with where several readers are kept apart; releases before had one reader."""
_FORGET = "DELETE FROM {table} WHERE collection = %s AND side = %s"


@dataclass(frozen=True, slots=True)
class WatchedTable:
    """One side of one collection: the table, the column that names its rows, and what a key becomes."""

    collection: str
    side: Side
    table: Identifier
    column: str
    read_key: Callable[[str], Key | None]

    @property
    def trigger(self) -> str:
        """What the names of its triggers and of their function begin with."""
        return f"vs_{self.collection}_{self.side}"


class Statements(Protocol):
    """Runs statements on one kind of database, in words that both kinds understand."""

    moment: str
    age: str
    any_gen: str
    drop: str
    """Deletes rows by their gens, and waits for no writer."""
    register: str
    """Enters a reader, or says that it is there still."""
    beat: str
    """Says so once a minute."""
    lapse: str
    """Strikes out readers that nobody has seen for a week."""
    note_seen: str
    claim: str
    """Takes a lock of this name for as long as the connection lives."""
    enabled: str | None
    """Counts a table's triggers of these names that fire; None where this user can't see that."""

    def quoted(self, names: Identifier) -> str:
        """Return a name as SQL, each part quoted."""

    def rows(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        """Raises FeedLost where the dirty set is not installed for this user."""

    def change(self, statements: Sequence[str], parameters: Sequence[Any] = ()) -> None:
        """Run statements, with the same parameters each. Raises FeedLost where the dirty set is not
        installed for this user, SourceDown, SettingsWrong."""

    def wait_for_notice(self, seconds: float) -> None:
        """Return when a trigger may have fired, or after `seconds`."""

    def close(self) -> None:
        """Let the connection go."""


class OwnerStatements(Statements, Protocol):
    """As the tables' owner."""

    def install(self, words: Mapping[str, str]) -> None:
        """Make tables and triggers. words: what stands for each {word} of the script, quoted."""

    def drop_triggers(self, watched: WatchedTable) -> None:
        """Drop the triggers of a table, where they exist."""

    def qualified(self, table: Identifier) -> Identifier:
        """Return the table's name with its schema where a trigger would not find it without."""

    def literal(self, text: str) -> str:
        """Return a text as an SQL literal."""


def names_of(statements: Statements, watched: WatchedTable) -> dict[str, str]:
    """Return the dirty set's tables: they lie in the schema of the watched table."""
    schema = watched.table[:-1]
    return {
        "dirty": statements.quoted((*schema, DIRTY)),
        "installs": statements.quoted((*schema, INSTALLS)),
        "readers": statements.quoted((*schema, READERS)),
        "seen": statements.quoted((*schema, SEEN)),
        "table": statements.quoted(watched.table),
    }


def install(statements: OwnerStatements, watched: WatchedTable) -> None:
    """Make the dirty set and the triggers of one side; doing it again is harmless, and tells the feeder to
    compare everything once. Needs the table's owner."""
    table = statements.qualified(watched.table)
    schema = table[:-1]
    statements.install(
        {
            "shared": statements.literal(SHARED),
            **names_of(statements, replace(watched, table=table)),
            "key": statements.quoted((watched.column,)),
            "collection": statements.literal(watched.collection),
            "side": statements.literal(watched.side),
            "function": statements.quoted((*schema, watched.trigger)),
            **{f"trigger_{event}": statements.quoted((f"{watched.trigger}_{event}",)) for event in EVENTS},
        }
    )


def remove(statements: OwnerStatements, watched: WatchedTable) -> None:
    """Undo `install`, also what is half there: triggers, rows, and the tables once no other side uses them.
    Needs the table's owner."""
    statements.drop_triggers(watched)
    names = names_of(statements, watched)
    side = [watched.collection, watched.side]
    for table in ("installs", "dirty", "readers"):
        with contextlib.suppress(FeedLost):  # it may be gone already
            statements.change([_FORGET.format(table=names[table])], side)
    with contextlib.suppress(FeedLost):
        if statements.rows(f"SELECT collection FROM {names['installs']} LIMIT 1", []):
            statements.change(
                [f"DELETE FROM {names['seen']} WHERE gen NOT IN (SELECT gen FROM {names['dirty']})"]
            )
            return
    statements.change([f"DROP TABLE IF EXISTS {names[t]}" for t in ("seen", "readers", "dirty", "installs")])
