"""What `feeder status` says of one collection: for people, and for programs."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from feeder.load.import_cursor import ImportCursor
from feeder.sink.brake import BrakeWindow
from feeder.state.cursor_names import BRAKE_CURSOR, IMPORT_CURSOR, REPORT_CURSOR, TIERS_CURSOR, WINDOW_CURSOR
from vector_client.types import CollectionState, Id

NAMES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Status:
    """One collection, or one of its other generations (role). problem: why it can't be served, with what
    helps, or empty. tiers: by side, {} while nobody follows. equal, as_of_ms: of the last full comparison;
    lag_ms: of the last change. brake: why it holds, None while it does not; brake_hint: what helps.
    vanished: within the brake's window. imported: where an import stands. quarantined: why, by id, as far
    as this machine knows."""

    collection: str
    serves: str | None
    problem: str
    seq: int
    store: str
    tiers: Mapping[str, str]
    equal: bool | None
    as_of_ms: int | None
    lag_ms: float | None
    brake: str | None
    brake_hint: str
    brake_since_ms: int | None
    vanished: int
    imported: Mapping[str, Any] | None
    quarantined: Mapping[str, str]
    cursors: Mapping[str, str]
    role: str = "current"


def followed_apart(state: CollectionState) -> Sequence[tuple[str, CollectionState]]:
    """Return the generations that are not current and that a feeder has written to, each with its role."""
    return [
        (each.role, CollectionState(state.name, each.embedding_version, each.seq, each.cursors, state.store))
        for each in state.generations
        if each.role != "current" and each.cursors
    ]


def status_of(
    state: CollectionState,
    quarantined: Mapping[Id, str],
    window_s: float,
    clock: Callable[[], float],
    role: str = "current",
) -> Status:
    """Return what the cursors say. One that another program wrote says nothing."""
    cursors = state.cursors
    report, brake = _object(cursors.get(REPORT_CURSOR)), _object(cursors.get(BRAKE_CURSOR))
    window = BrakeWindow(window_s, clock)
    window.load(cursors.get(WINDOW_CURSOR), state.version)
    imported = ImportCursor.parsed(cursors[IMPORT_CURSOR]) if IMPORT_CURSOR in cursors else None
    return Status(
        collection=state.name,
        serves=state.version,
        problem=state.problem,
        seq=state.seq,
        store=state.store,
        tiers=dict(part.split("=", 1) for part in cursors.get(TIERS_CURSOR, "").split() if "=" in part),
        equal=report.get("equal"),
        as_of_ms=report.get("as_of_ms"),
        lag_ms=report.get("lag_ms"),
        brake=brake.get("why"),
        brake_hint=str(brake.get("hint") or ""),
        brake_since_ms=brake.get("since_ms"),
        vanished=window.total(),
        imported=None
        if imported is None
        else {"done": imported.done, "rows": imported.rows, "version": imported.version},
        quarantined={str(item_id): why for item_id, why in quarantined.items()},
        cursors=dict(cursors),
        role=role,
    )


def as_json(status: Status) -> str:
    """Return one line for programs."""
    return json.dumps(asdict(status), ensure_ascii=False, default=str)


def as_text(status: Status) -> str:
    """Return a few lines for people."""
    followed = ", ".join(f"{side} by {tier}" for side, tier in status.tiers.items())
    lines = [
        f"{status.collection}: serves {status.serves or 'nothing yet'}"
        if status.role == "current"
        else f"{status.collection} ({status.role}): holds {status.serves}",
        _line("followed", followed or "never"),
        _line("compared", _compared(status)),
        _line("last change", "-" if status.lag_ms is None else f"there after {status.lag_ms:,.0f} ms"),
        _line(
            "brake", f"HOLDS since {_time(status.brake_since_ms)}: {status.brake}" if status.brake else "off"
        ),
    ]
    if status.brake and status.brake_hint:
        lines.append(_line("", status.brake_hint))
    lines.append(_line("vanished", f"{status.vanished:,} items lately"))
    if status.problem:
        lines.insert(1, _line("problem", status.problem))
    if status.imported is not None:
        done = "finished" if status.imported["done"] else "not finished: run `import` again"
        lines.append(_line("import", f"{status.imported['rows']:,} rows, {done}"))
    lines.append(_line("quarantined", f"{len(status.quarantined):,}"))
    shown = list(status.quarantined.items())
    lines += [f"    {item_id}: {why}" for item_id, why in shown[:NAMES_SHOWN]]
    if len(shown) > NAMES_SHOWN:
        lines.append(f"    and {len(shown) - NAMES_SHOWN:,} more: --json names all")
    return "\n".join(lines)


def _compared(status: Status) -> str:
    if status.equal is None:
        return "never"
    return f"{'equal' if status.equal else 'NOT equal'} as of {_time(status.as_of_ms)}"


def _line(name: str, text: str) -> str:
    return f"  {name:<12} {text}"


def _time(ms: int | None) -> str:
    if ms is None:
        return "?"
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC).isoformat(timespec="seconds")


def _object(text: str | None) -> Mapping[str, Any]:
    try:
        body = json.loads(text or "{}")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
