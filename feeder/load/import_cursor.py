"""Where an import stands, as the text that the service stores in the same commit as the rows."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from feeder.changes import Key

log = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True, slots=True)
class ImportCursor:
    """table: the identity of the source table. after: the last key that is stored, None before the first.
    counts: what was counted on the way, so that a resumed run reports the whole import."""

    table: str
    after: Key | None = None
    version: str = ""
    rows: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    done: bool = False

    @classmethod
    def resumed(cls, text: str | None, table: str, restart: bool) -> ImportCursor:
        """Return where the last run of the same table stopped; the beginning when there is none, it was
        finished, or it was another table."""
        fresh = cls(table)
        found = None if text is None or restart else cls.parsed(text)
        return fresh if found is None or found.done or found.table != table else found

    @classmethod
    def parsed(cls, text: str) -> ImportCursor | None:
        """Return what the service stored; None, and a line in the log, for what another program wrote."""
        try:
            body = json.loads(text)
            found = cls(
                body["table"], body["after"], body["version"], body["rows"], body["counts"], body["done"]
            )
            is_ours = body["format"] == FORMAT
        except (ValueError, KeyError, TypeError):
            is_ours = False
        if not is_ours:
            log.warning("cursor_not_understood", extra={"cursor": text[:200]})
            return None
        return found

    def to_json(self) -> str:
        """Return it as the service stores it; `parsed` reads it back."""
        body = {
            "format": FORMAT,
            "table": self.table,
            "after": self.after,
            "version": self.version,
            "rows": self.rows,
            "counts": dict(self.counts),
            "done": self.done,
        }
        return json.dumps(body, ensure_ascii=False)

    def labelled(self, version: str) -> ImportCursor:
        """Return the cursor under an embedding_version; where it changes, the import starts over."""
        if self.version in ("", version):
            return replace(self, version=version)
        return ImportCursor(self.table, version=version)

    def moved(self, after: Key, rows: int, counts: Mapping[str, int]) -> ImportCursor:
        """Return the cursor behind one more page. after: its last key. rows: of the page."""
        return replace(self, after=after, rows=self.rows + rows).counted(counts)

    def counted(self, counts: Mapping[str, int]) -> ImportCursor:
        """Return the cursor with these counts added to its own."""
        total = dict(self.counts)
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
        return replace(self, counts=total)


def is_finished(text: str | None, table: str, version: str | None) -> bool:
    """Tell whether an import of this very table is done under this embedding_version."""
    found = None if text is None else ImportCursor.parsed(text)
    return found is not None and found.done and (found.table, found.version) == (table, version)
