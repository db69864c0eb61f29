"""Take over a pgvector table: survey, brake, space probe, then pages that a killed run resumes at."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from feeder.changes import UNKNOWN, Changes, Directory, ItemRow, Survey, VectorPage, last_shown
from feeder.errors import ImportRefused, SettingsWrong
from feeder.load.import_cursor import ImportCursor, is_finished
from feeder.load.space_probe import SpaceProbe, require
from feeder.read.image_fetch import PictureFetcher
from feeder.read.pages import PageItems, items_of_page, pages, read_ahead
from feeder.settings import Bounds
from feeder.sink.brake import Store
from feeder.sink.writer import Writer
from feeder.sources.change_feed import Lease
from feeder.sources.port import ItemSource, VectorShape, VectorSource
from feeder.state.cursor_names import FOLLOWER_CURSOR, IMPORT_CURSOR
from feeder.state.follower_state import NOBODY
from feeder.table_mapping import CollectionTables
from feeder.telemetry.reporting import Progress, Summary
from vector_client.types import Id, Rejected

log = logging.getLogger(__name__)

NAMES_KEPT = 5
WRONG_DATABASE = "Is this the wrong database? Check TGT_DB_*, SRC_DB_* and MARIADB_SERVICE_URL."


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """trust_vectors: write under embedding_version without the probe. accept_orphans: leave out ids that the
    items table lacks, however many. restart: forget where an earlier run stopped. once: leave it at a
    finished import of this table under the serving version."""

    embedding_version: str | None = None
    trust_vectors: bool = False
    accept_orphans: bool = False
    restart: bool = False
    once: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ImportDependencies:
    """What an import of one collection works with. items None: nothing is known about activity. store:
    the way into the service; `writer` sends."""

    vectors: VectorSource
    items: ItemSource | None
    writer: Writer
    store: Store
    probe: SpaceProbe
    pictures: PictureFetcher
    progress: Progress
    lease: Lease


class Importer:
    """Imports one collection. For one thread, once."""

    def __init__(
        self,
        tables: CollectionTables,
        deps: ImportDependencies,
        bounds: Bounds,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tables = tables
        self._deps = deps
        self._bounds = bounds
        self._clock = clock
        self._names: dict[str, list[Any]] = {}

    def run(self, options: ImportOptions) -> Summary:
        """Return what was taken over. Raises ImportRefused, SourceDown, ServiceDown, SettingsWrong, and
        AnotherFeeder while one follows the collection; whatever was acknowledged before stays, and the next
        run resumes behind it."""
        try:
            if not options.dry_run:
                self._deps.lease.hold()
            return self._run(options)
        finally:
            self._deps.lease.release()

    def _run(self, options: ImportOptions) -> Summary:
        began_at = self._clock()
        deps = self._deps
        shape = deps.vectors.open()
        if deps.items is not None:
            deps.items.open()
        state = deps.store.state()
        if options.once and is_finished(state.cursors.get(IMPORT_CURSOR), shape.identity, state.version):
            return Summary(self._tables.label, f"was imported as {state.version} before", {})
        survey = deps.vectors.survey()
        directory = deps.items.directory() if deps.items is not None else None
        facts = self._facts(survey, directory, shape)
        self._check(survey, directory, facts, options)
        cursor = ImportCursor.resumed(state.cursors.get(IMPORT_CURSOR), shape.identity, options.restart)
        cursor, note = self._labelled(cursor, survey, directory, options)
        notes = [note] if cursor.after is None else [note, f"resumed behind key {cursor.after}"]
        if facts.get("shared_keys"):
            notes.append("several rows share a key: of rows of one id the physically last one holds")
        if shape.kind == "halfvec":
            notes.append("halfvec source: unit vectors were renormalised, and their metadata says so")
        if options.dry_run:
            return Summary(self._tables.label, "dry run, nothing was written", facts, notes, self._names)
        cursor = self._copy(cursor, survey, directory, shape.kind == "halfvec")
        seconds = self._clock() - began_at
        counts = {**facts, **cursor.counts, "seconds": f"{seconds:.1f}"}
        return Summary(self._tables.label, f"imported as {cursor.version}", counts, notes, self._names)

    def _facts(
        self, survey: Survey, directory: Directory | None, shape: VectorShape
    ) -> dict[str, int | float | str]:
        """Count what is known before any vector is read."""
        ids = survey.ids
        distinct = np.unique(ids) if isinstance(ids, np.ndarray) else sorted(set(ids))
        facts: dict[str, int | float | str] = {"rows": survey.rows, **survey.bad}
        self._names |= {name: list(keys) for name, keys in survey.bad_keys.items()}
        facts["duplicates"] = len(ids) - len(distinct)
        self._names["duplicates"] = _repeated(ids) if facts["duplicates"] else []
        if facts["duplicates"]:
            widest, facts["rows_of_one_id"] = _most(ids)
            self._names["rows_of_one_id"] = [widest]
        if not shape.key_is_unique:
            facts["shared_keys"] = len(survey.keys) - len(set(survey.keys))
            self._names["shared_keys"] = _repeated(survey.keys) if facts["shared_keys"] else []
        if directory is not None:
            orphans = np.flatnonzero(directory.states(distinct) == UNKNOWN)
            facts["orphans"] = len(orphans)
            self._names["orphans"] = [distinct[int(position)] for position in orphans[:NAMES_KEPT]]
            facts["items"] = directory.count
            facts["items_active"] = directory.active_count
            facts["items_without_vector"] = directory.count - (len(distinct) - len(orphans))
        facts["ids"] = len(distinct)
        return facts

    def _check(
        self, survey: Survey, directory: Directory | None, facts: Mapping[str, Any], options: ImportOptions
    ) -> None:
        """The brake: a source that looks empty, or like another shop's, is not taken over unseen."""
        name = self._tables.label
        if not len(survey.ids):
            raise ImportRefused(
                f"{name}: the vector table holds no usable row ({dict(facts)}); nothing was written",
                hint=WRONG_DATABASE,
            )
        if directory is None:
            return
        if not directory.count:
            raise ImportRefused(f"{name}: the items table is empty; nothing was written", hint=WRONG_DATABASE)
        percent = 100 * facts["orphans"] / facts["ids"]
        if percent > self._bounds.orphan_percent_max and not options.accept_orphans:
            shown = ", ".join(map(str, self._names["orphans"]))
            raise ImportRefused(
                f"{name}: {facts['orphans']:,} of {facts['ids']:,} ids ({percent:.1f} %) are not in the items"
                f" table (as {shown}); nothing was written",
                hint="If these items are really gone, run again with --accept-orphans: they are left out.",
            )

    def _labelled(
        self, cursor: ImportCursor, survey: Survey, directory: Directory | None, options: ImportOptions
    ) -> tuple[ImportCursor, str]:
        """Return the cursor with the embedding_version that the vectors are proven, or said, to be of."""
        mapped = self._tables.embedding_version or None
        if mapped and options.embedding_version not in (None, mapped):
            raise ImportRefused(
                f"{self._tables.label}: COLLECTIONS_FILE says that its vectors are of {mapped},"
                f" --embedding-version {options.embedding_version}",
                hint="Leave --embedding-version out, or right the embedding_version in COLLECTIONS_FILE.",
            )
        said = options.embedding_version or mapped
        if options.trust_vectors:
            if not said:
                raise SettingsWrong(
                    "--trust-vectors needs --embedding-version", hint="Name what made the vectors."
                )
            return cursor.labelled(said), f"embedding_version {said} by the operator's word, not proven"
        proof, note = self._proof(survey, directory)
        if said not in (None, proof):
            raise ImportRefused(
                f"{self._tables.label}: the vectors are proven to be of {proof}, not of {said}",
                hint="Leave --embedding-version out, or import the table that holds such vectors.",
            )
        return cursor.labelled(proof), note

    def _proof(self, survey: Survey, directory: Directory | None) -> tuple[str, str]:
        deps = self._deps
        if deps.items is None:
            raise ImportRefused(
                f"{self._tables.label}: without source.items there is no content to prove the vectors by",
                hint="Add source.items to COLLECTIONS_FILE, or say --embedding-version NAME --trust-vectors.",
            )
        known = np.arange(len(survey.ids))
        if directory is not None:
            known = np.flatnonzero(directory.states(survey.ids) != UNKNOWN)
        positions = _spread(survey.ids, known, self._bounds.probe_rows)
        keys = sorted(_plain(survey.keys[int(position)]) for position in positions)
        sample = deps.vectors.rows_at(keys)
        content: Mapping[Id, Sequence[ItemRow]] = deps.items.fetch(sorted(set(sample.ids)))
        proof = deps.probe.prove(sample, content, deps.pictures.picture_at)
        require(proof, self._tables.label)
        return proof.version, f"space probe: {proof}"

    def _copy(
        self, cursor: ImportCursor, survey: Survey, directory: Directory | None, is_half: bool
    ) -> ImportCursor:
        deps = self._deps
        deps.progress.begin(self._tables.label, len(survey.keys), cursor.rows)
        deps.writer.start()
        try:
            with read_ahead(pages(deps.vectors, cursor.after, self._bounds.page_rows)) as ahead:
                for page in ahead:
                    cleaned = items_of_page(page, directory, self._metadata(page), is_half)
                    cursor = cursor.moved(page.keys[-1], len(page.keys), _page_counts(cleaned))
                    deps.lease.hold()
                    cursor = self._apply(cursor, cleaned)
                    deps.progress.advance(len(page.keys))
            deps.store.apply(Changes(), _cursors(replace(cursor, done=True)))
        finally:
            deps.progress.end()
            deps.writer.close()
        return cursor

    def _apply(self, cursor: ImportCursor, cleaned: PageItems) -> ImportCursor:
        changes = Changes(cleaned.items, embedding_version=cursor.version)
        applied = self._deps.store.apply(changes, _cursors(cursor))
        for reason, ids in cleaned.skipped.items():
            self._keep_names(reason, ids)
        if applied.rejected:
            self._keep_names("rejected", [_rejection(row) for row in applied.rejected])
            log.warning(
                "items_rejected", extra={"count": len(applied.rejected), "first": str(applied.rejected[0])}
            )
        # The cursor of this page is stored already and counts every row as taken; the next one corrects it.
        return cursor.counted({"stored": -len(applied.rejected), "rejected": len(applied.rejected)})

    def _keep_names(self, reason: str, names: Sequence[Any]) -> None:
        kept = self._names.setdefault(reason, [])
        kept += names[: NAMES_KEPT - len(kept)]

    def _metadata(self, page: VectorPage) -> Mapping[Id, Mapping[str, object]] | None:
        """Return what the items table says, activity left out."""
        if self._deps.items is None or self._tables.items is None or not self._tables.items.metadata:
            return None
        rows = self._deps.items.fetch(list(dict.fromkeys(page.ids)))
        return {item_id: last_shown(found).metadata for item_id, found in rows.items()}


def _page_counts(cleaned: PageItems) -> dict[str, int]:
    """Return what one page adds to the counts. Duplicates and orphans are left out: the survey counted
    them."""
    quarantined = {
        reason: len(ids) for reason, ids in cleaned.skipped.items() if reason not in ("duplicate", "orphan")
    }
    return {**quarantined, "stored": len(cleaned.items), "inactive": cleaned.inactive}


def _cursors(cursor: ImportCursor) -> dict[str, str]:
    return {IMPORT_CURSOR: cursor.to_json(), FOLLOWER_CURSOR: NOBODY.to_text()}


def _rejection(row: Rejected) -> str:
    return f"{row.id} ({row.code}: {row.detail})"


def _spread(ids: Any, known: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Return about `count` of the positions `known`, evenly: of each id one row first, more only where there
    are too few ids."""
    if not len(known):
        return known
    _, first = np.unique(np.asarray(ids)[known], return_index=True)
    firsts = known[np.sort(first)]
    others = np.setdiff1d(known, firsts)
    positions = [_evenly(firsts, count), _evenly(others, count - len(firsts))]
    spread: npt.NDArray[np.int64] = np.concatenate(positions)
    return spread


def _evenly(positions: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    if count <= 0 or not len(positions):
        return positions[:0]
    chosen: npt.NDArray[np.int64] = positions[
        np.unique(np.linspace(0, len(positions) - 1, count).astype(int))
    ]
    return chosen


def _most(ids: Any) -> tuple[Any, int]:
    """Return the id that stands in the most rows, and in how many."""
    values, counts = np.unique(np.asarray(ids), return_counts=True)
    position = int(np.argmax(counts))
    return values[position].item(), int(counts[position])


def _repeated(ids: Any) -> list[Any]:
    """Return a few ids that stand in more than one row."""
    values, counts = np.unique(np.asarray(ids), return_counts=True)
    return [value.item() for value in values[counts > 1][:NAMES_KEPT]]


def _plain(key: Any) -> Any:
    return key.item() if isinstance(key, np.generic) else key
