"""What a segment's manifest states, as types; and how they stand in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from index_store import hints
from index_store.ann.calibration import Calibration, Point
from index_store.ann.hnsw import GraphShape, Storage
from index_store.ann.sq8 import Int8Codes
from index_store.errors import StoreDamaged
from index_store.types import Metric
from item_rules.ids import IdKind

Engine: TypeAlias = Literal["scan", "hnsw"]


@dataclass(frozen=True, slots=True)
class SegmentIdentity:
    """Whose rows these are. seq: every write up to it is in the segment."""

    store_uuid: str
    embedding_version: str
    id_kind: IdKind
    dim: int
    metric: Metric
    seq: int
    model: str = ""


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """All that is needed to open a segment and to plan searches over it.

    storage: what the graph is searched over; None without a graph. target: recall wanted of the graph.
    """

    identity: SegmentIdentity
    rows: int
    engine: Engine
    storage: Storage | None
    shape: GraphShape
    codes: Int8Codes
    calibration: Calibration
    target: float
    library: str

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON values, for the manifest."""
        return asdict(self)


def facts_from_json(facts: Mapping[str, Any], directory: Path) -> SegmentFacts:
    """Return the facts of the manifest of `directory`, typed. Raises StoreDamaged for anything that is not a
    segment's."""
    try:
        table = facts["calibration"]
        return SegmentFacts(
            identity=SegmentIdentity(**facts["identity"]),
            rows=int(facts["rows"]),
            engine=facts["engine"],
            storage=facts["storage"],
            shape=GraphShape(**facts["shape"]),
            codes=Int8Codes(**facts["codes"]),
            calibration=Calibration(
                points=tuple(Point(p["ef"], tuple(p["recall"]), p["us"]) for p in table["points"]),
                scan_us=tuple((share, us) for share, us in table["scan_us"]),
                noise=table["noise"],
                queries=table["queries"],
            ),
            target=float(facts["target"]),
            library=str(facts["library"]),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise StoreDamaged(
            f"the manifest of {directory} does not describe a segment: {exc!r}", hints.rebuild(directory)
        ) from exc
