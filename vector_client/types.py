"""What a caller of the vector service sends and gets. No behaviour, no I/O, no numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Id: TypeAlias = int | str
Vector: TypeAlias = bytes | Sequence[float]
"""Numbers, or the same as packed little-endian float32 (four bytes each): twenty times cheaper to send."""

Metadata: TypeAlias = Mapping[str, Any]
Role: TypeAlias = Literal["query", "document"]
Recommend: TypeAlias = Literal["mean", "best", "each"]


@dataclass(frozen=True, slots=True)
class Keys:
    """API keys by route; an empty one is not sent (the service may then refuse to write)."""

    search: str = ""
    write: str = ""
    admin: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """One item to store, with at most one of vector, text, image (bytes of a picture file).

    metadata None keeps what is stored. source_version: see the contract of POST /v1/upsert.
    """

    id: Id
    vector: Vector | None = None
    text: str | None = None
    image: bytes | None = None
    active: bool = True
    metadata: Metadata | None = None
    source_version: int | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """An item that the service would not store, and why."""

    id: Id | None
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Written:
    """What a durable write did: on disk, and visible to every later search.

    vanished: items that a search could return before and no longer can; reappeared: known ids that it can
    return again. Both None where a service of an older release answers.
    unknown_ids: of items without content, those that the collection does not hold; nothing is stored of them.
    """

    upserted: int
    deleted: int
    stale_ignored: int
    rejected: Sequence[Rejected]
    seq: int
    version: str
    vanished: int | None = None
    reappeared: int | None = None
    unknown_ids: Sequence[Id] = ()


@dataclass(frozen=True, slots=True)
class Query:
    """One search: exactly one of text, vector, image, like_ids. k results, nearest first, ties by id.

    recommend: near the mean of like_ids (None), to any of them, or to each in turns; like_weights: one each.
    include: any of score, rank, metadata, vector, why, confidence; with_metadata is short for the third.
    cursor: `next_cursor` of the page before, with the same question. min_confidence: 0..1, of a text only;
    leaves out hits that are less likely what was asked for. boost, group_by, collapse, diversity, pool: how
    hits are ranked, as in openapi.yaml. more: further fields of the request by their name on the wire.
    seen_key: a session; what was answered under it is left out. seen_reset: but begins anew.
    """

    text: str | None = None
    vector: Vector | None = None
    image: bytes | None = None
    like_ids: Sequence[Id] = ()
    unlike_ids: Sequence[Id] = ()
    recommend: Recommend | None = None
    like_weights: Sequence[float] = ()
    seen_key: str | None = None
    seen_reset: bool = False
    k: int = 25
    collection: str | None = None
    exclude_ids: Sequence[Id] = ()
    filter: Mapping[str, Any] | None = None
    offset: int = 0
    cursor: str | None = None
    max_distance: float | None = None
    embedding_version: str | None = None
    min_seq: int | None = None
    exact: bool = False
    with_metadata: bool = False
    include: Sequence[str] = ()
    boost: Sequence[Mapping[str, Any]] = ()
    group_by: Mapping[str, Any] | None = None
    collapse: Mapping[str, Any] | None = None
    diversity: float | None = None
    pool: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    min_confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One result row. distance: as the collection's metric says, smaller is nearer; NaN where words alone
    were searched. The others: where `include` asked for them; score: bigger is better, 0..1 unless words were
    searched too; rank from 1; why: of what the score is made, which words of the query it holds (`matched`),
    or which liked item (`like_id`) it is for; confidence 0..1: how likely it is what was asked for."""

    id: Id
    distance: float
    metadata: Metadata | None = None
    score: float | None = None
    rank: int | None = None
    vector: Sequence[float] | None = None
    why: Mapping[str, Any] | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a Query. exhausted: nothing comes after these hits. truncated: the text is longer than
    the model reads. more: the answer's other fields by their name on the wire. no_good_match: confidence was
    asked for, and no hit of the first page has enough."""

    hits: Sequence[Hit]
    embedding_version: str
    seq: int
    exhausted: bool
    next_cursor: str | None = None
    truncated: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)
    no_good_match: bool = False


@dataclass(frozen=True, slots=True)
class SimilarProduct:
    """A row of POST /search_similar. score 0..1, bigger is better; rank from 1."""

    product_id: str
    image_url: str | None
    score: float
    rank: int


@dataclass(frozen=True, slots=True)
class StoredItem:
    """What the current generation holds of one id. live: active and with a vector: a search can show it."""

    id: Id
    active: bool
    live: bool
    metadata: Metadata | None
    source_version: int | None
    seq: int
    embedding_version: str
    vector: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class ItemPage:
    """Stored items in the order of their ids; there may be none though others follow. next_cursor is None on
    the last page."""

    items: Sequence[StoredItem]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class ByFilter:
    """A change of all items that pass. verb: delete, activate, deactivate or metadata. conditions: a filter;
    an empty one is refused but with all_items. merge: of metadata, what is put over them. confirm: so many
    items may match. dry_run: only tell what would be changed."""

    collection: str
    verb: str
    conditions: Mapping[str, Any]
    merge: Mapping[str, Any] | None = None
    confirm: int | None = None
    dry_run: bool = False
    all_items: bool = False


@dataclass(frozen=True, slots=True)
class Changed:
    """A write by filter. matched: items that passed; done: that were changed. is_dry_run: nothing was, and
    needs_confirm tells whether `confirm` is needed. fields: the whole answer."""

    matched: int
    done: int
    is_dry_run: bool
    needs_confirm: bool
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Facet:
    """What items have under one metadata key. count: items that have it. values: the most common with their
    items; distinct: how many there are, None where they are too many. ranges: (from, to, items) of
    numbers."""

    key: str
    count: int
    distinct: int | None
    values: Sequence[tuple[str | float | bool | None, int]]
    ranges: Sequence[tuple[float, float, int]]


@dataclass(frozen=True, slots=True)
class Health:
    """GET /health. ready: the default collection can embed and search right now. fields: the whole answer."""

    status: str
    ready: bool
    model: str
    dim: int
    version: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation of a collection. role: current, next or former. live: those that a search can show.
    cursors: as of CollectionState. contents: items whose content is kept. awaiting: those of them without a
    vector."""

    generation: str
    role: str
    embedding_version: str
    items: int
    live: int
    seq: int
    cursors: Mapping[str, str] = field(default_factory=dict)
    contents: int = 0
    awaiting: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """One rebuild or other long work. fields: the whole answer, with progress."""

    id: str
    state: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors in the order asked, and the space (embedding_version) they belong to."""

    vectors: Sequence[Sequence[float]]
    dim: int
    version: str


@dataclass(frozen=True, slots=True)
class CollectionState:
    """One collection as its feeder needs it. version is None before the first generation exists.

    cursors: where each source resumes, stored in the same commit as the rows. store: names the service's data
    directory; empty where a service of an older release answers. problem: why the collection can't be served,
    with what helps; empty where it can. generations: the current one first; none where a service of an older
    release answers.
    """

    name: str
    version: str | None
    seq: int
    cursors: Mapping[str, str] = field(default_factory=dict)
    store: str = ""
    problem: str = ""
    generations: Sequence[Generation] = ()


@dataclass(frozen=True, slots=True)
class Digest:
    """Proof of content: 4,096 order-free sums by hash of the id. Equal roots mean equal sets."""

    root: str
    buckets: Sequence[int]
    items: int
    seq: int


@dataclass(frozen=True, slots=True)
class DigestRow:
    """One id's share of its bucket, for finding which row differs."""

    id: Id
    sum: int
    active: bool
    has_vector: bool


@dataclass(frozen=True, slots=True)
class Differing:
    """Where the service's sums are not the caller's: the numbers of those sums, and what it holds there."""

    parts: Sequence[int]
    rows: Sequence[DigestRow]
