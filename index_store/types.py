"""The words of the index: what goes in, what comes out. No behaviour, no I/O.

A *collection* is a named set of vectors with one id kind, one dim and one metric. All its data under one
`embedding_version` is a *generation*. `seq` is the number of a change in the order of commits of one
generation's store.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.errors import IndexStoreError
from index_store.request.confidence import ConfidenceQuery
from index_store.request.page_key import PageKey as PageKey
from index_store.request.ranking import Ranking
from index_store.request.recommendation import Recommendation
from item_rules.ids import IdKind
from item_rules.lifetime import Lifetime, ShownSpan

Id: TypeAlias = int | str
Ids: TypeAlias = Sequence[Id]
Metric: TypeAlias = Literal["l2", "cosine", "ip"]
Vector: TypeAlias = npt.NDArray[np.float32]
Metadata: TypeAlias = Mapping[str, Any]
Filter: TypeAlias = Mapping[str, Any]
"""A condition over metadata in the operators of CONTRACT (`$eq $ne $gt $gte $lt $lte $in $nin $exists
$and $or $not`), as parsed JSON. `index_store.filter.compile.compile_filter` refuses anything else."""


DIGEST_BUCKETS = 4096
"""How many sums a digest has, unless more are asked for."""


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """What never changes about a collection. `metric` has pgvector's meaning: l2 `<->` (with the square
    root), cosine `<=>` (1 - cos), ip `<#>` (negative inner product); smaller is nearer in all three.

    lexical_fields: top-level keys of the metadata whose texts can be searched by their words; these may
    change, and rows that were sealed before are sealed again. lifetime: when items are shown."""

    name: str
    id_kind: IdKind
    dim: int
    metric: Metric
    lexical_fields: tuple[str, ...] = ()
    lifetime: Lifetime | None = None


ContentKind: TypeAlias = Literal["text", "picture", "address"]


@dataclass(frozen=True, slots=True)
class Content:
    """What a vector was made of. data: a text in UTF-8, the bytes of a picture file, or the address of one in
    UTF-8, by `kind`."""

    kind: ContentKind
    data: bytes


@dataclass(frozen=True, slots=True)
class ItemWrite:
    """One item to store. `None` keeps what is stored (vector, active, metadata are independent facts).

    vector: (dim,) float32, finite, not zero. An item without one changes what is stored of its id; where
    nothing is, or it was deleted, nothing is stored and `Ack.unknown_ids` names it.
    source_version: position of the fact in its source's own order; older than the stored one is ignored.
    content: what the vector was made of, to be kept with the item; only together with its content_hash. A
    write that changes the content_hash without it drops what was kept.
    drops_vector: the vector that is stored was made of something else; the item waits for one.
    fills: stored only where the item has no vector and bears this content_hash: what was made of its content
    by a rebuild, while others may write it.
    merge: its top-level keys are put over what is stored at the moment of the commit, and those that are None
    removed; instead of metadata.
    """

    id: Id
    vector: Vector | None = None
    active: bool | None = None
    metadata: Metadata | None = None
    source_version: int | None = None
    content_hash: bytes | None = None
    content: Content | None = None
    drops_vector: bool = False
    fills: bytes | None = None
    merge: Metadata | None = None


@dataclass(frozen=True, slots=True)
class ItemDelete:
    """One id to remove; its tombstone keeps the newest source_version seen, so nothing deleted comes back."""

    id: Id
    source_version: int | None = None


@dataclass(frozen=True, slots=True)
class WriteBatch:
    """All or nothing, one commit. Applied in order: items, then deletes.

    embedding_version: the space of the vectors; required when any item has one. A batch without vectors
    (activity, metadata, deletes) goes to every generation of the collection, and so does one whose version
    some generations do not hold: those take its deletes, what it says without a vector, activity and
    metadata.
    cursors: where the feeder resumes, by source name; stored in the same commit as the rows.
    other_vectors: of other versions, for the same items in order, by version; None: not known, the item waits
    for one in the generation of that version.
    is_for_current: refused unless `embedding_version` is the current generation's.
    takes_content: whether the vectors of that version are made of contents like these; None: of each version.
    Where they are not, and the batch is_for_current, the item loses vector and content, unless they came with
    the same source_version.
    except_versions: generations of these versions take nothing of it, since somebody else brings them theirs;
    but the one that `embedding_version` names takes all, whatever stands here.
    only_where: items whose stored metadata do not pass it at the moment of the commit, and unknown ones, are
    left as they are (`Ack.passed_over`).
    """

    items: Sequence[ItemWrite] = ()
    deletes: Sequence[ItemDelete] = ()
    embedding_version: str | None = None
    cursors: Mapping[str, str] = field(default_factory=dict)
    other_vectors: Mapping[str, Sequence[Vector | None]] = field(default_factory=dict)
    is_for_current: bool = False
    except_versions: Collection[str] = ()
    takes_content: Callable[[str], bool] | None = None
    only_where: Filter | None = None


@dataclass(frozen=True, slots=True)
class Ack:
    """What a durable write did. On disk and visible to every later search of every process.

    vanished: items that a search could return before and no longer can. reappeared: ids known before, deleted
    ones among them, that a search can return again; a new id is none.
    unknown_ids: of items without a vector, those that no generation knows; nothing is stored of them.
    passed_over: items that do not pass `only_where`. too_large_ids: items that a merge would have given more
    metadata than an item may have; nothing of them is changed.
    """

    upserted: int
    deleted: int
    stale_ignored: int
    seq: int
    embedding_version: str
    vanished: int = 0
    reappeared: int = 0
    unknown_ids: Ids = ()
    passed_over: int = 0
    too_large_ids: Ids = ()


@dataclass(frozen=True, slots=True)
class TextQuery:
    """What a search asks for in words. lexical: by them alone, whatever the vector is; hybrid: by the
    similarity of the vectors and, weighed, by them. alpha: multiplies that weight."""

    text: str
    mode: Literal["lexical", "hybrid"] = "hybrid"
    alpha: float = 1.0


PlanStep: TypeAlias = tuple[Literal["graph", "scan", "gather", "delta"], int, int]
"""How one source of rows was searched: way, ef, rows. gather: rows one by one; delta: rows in memory. ef:
breadth of a graph, else 0. rows: how many were compared with the query; of a graph, how many it gave. A plain
tuple, since every search makes some."""


@dataclass(slots=True)
class SearchRequest:
    """One question. vector: (dim,) float32, finite, not zero.

    Never changed once made, like Hit and SearchResult; not frozen, since a frozen one takes six times as long
    to make and there is one for every search.

    k >= 1 results after `offset` (or after `after`, never both). exclude_ids: any number, exact; an
    int64 array or a sequence of ids. exact: compare with every allowed row instead of using the graph.
    ef: breadth of graphs instead of the planned one, which finds fewer or takes longer; for measurements.
    with_matches: hits tell which words of `text` they hold. metadata_bytes_max: bound of what their metadata
    weighs together, as JSON. steps: a list that the index fills with how it searched; None asks for none.
    text: what is asked for in words; None: by the vector alone. recommendation: by its vectors, whatever
    `vector` is, which has to be one all the same. ranking: None: in the order of the search.
    confidence: asked for beside an embedding_version, but not by words alone; None: not asked for.
    shown: put in by the index: which items may be shown now; None for all.
    checked_for: the collection by whose rules every field but the filter was checked already, by
    `checked_request` or as strictly; an index checks all others.
    """

    vector: Vector
    k: int
    exclude_ids: Ids | npt.NDArray[np.int64] = ()
    filter: Filter | None = None
    offset: int = 0
    after: PageKey | None = None
    max_distance: float | None = None
    exact: bool = False
    embedding_version: str | None = None
    min_seq: int | None = None
    with_metadata: bool = False
    with_vectors: bool = False
    with_matches: bool = False
    metadata_bytes_max: int | None = None
    checked_for: str = ""
    steps: list[PlanStep] | None = None
    text: TextQuery | None = None
    ef: int | None = None
    recommendation: Recommendation | None = None
    confidence: ConfidenceQuery | None = None
    ranking: Ranking | None = None
    shown: ShownSpan | None = None


@dataclass(slots=True)
class Hit:
    """One answer row. distance: as the collection's metric says, accumulated in float64; NaN where words
    alone were searched. score, text_score: of a search by words, what it is ordered by and how well the words
    fit (0 to 1). A score also where boosts are added. like: of a recommendation, which liked item it was
    found for; `distance` is to that one. confidence: 0 to 1, where it was asked for."""

    id: Id
    distance: float
    metadata: Metadata | None = None
    vector: Vector | None = None
    score: float | None = None
    text_score: float | None = None
    like: int | None = None
    confidence: float | None = None


@dataclass(slots=True)
class SearchResult:
    """Nearest first, ties by id: min(k, live items allowed) hits; by words the highest score first, and by
    them alone only items that share some with the query. `exhausted`: nothing comes after them.

    `next_page` is None when exhausted. `seq`: every write up to it is in the answer.
    `unknown_filter_keys`: keys of the filter that no row has; unknown_ranking_keys: those of the ranking,
    each with the field that names it. text_weight: as `PageKey` has it.
    """

    hits: Sequence[Hit]
    generation: str
    embedding_version: str
    seq: int
    exhausted: bool
    next_page: PageKey | None
    unknown_filter_keys: Sequence[str] = ()
    text_weight: float = 0.0
    unknown_ranking_keys: Sequence[tuple[str, str]] = ()


SearchOutcome: TypeAlias = SearchResult | IndexStoreError


@dataclass(frozen=True, slots=True)
class StoredItem:
    """What the store holds of one id. is_live: has a vector and is active."""

    id: Id
    vector: Vector | None
    active: bool
    metadata: Metadata | None
    source_version: int | None
    content_hash: bytes | None
    seq: int

    @property
    def is_live(self) -> bool:
        """Whether a search can return it: active, and with a vector."""
        return self.active and self.vector is not None


@dataclass(frozen=True, slots=True)
class NewGeneration:
    """In what a generation that begins differs from the current one. dim: of its vectors; None: the same.
    with_contents: whether its vectors are made of the contents that are kept, which it takes along then."""

    dim: int | None = None
    with_contents: bool = True


ALIKE = NewGeneration()
Damage: TypeAlias = Literal["store_behind", "items_missing", "rows_damaged", "contents_damaged"]


@dataclass(frozen=True, slots=True)
class GenerationStatus:
    """One generation in numbers. items: known ids, live or not; live: what a search can return. dim: of its
    vectors. origin: what made them, in the words of who writes them; empty where nobody has noted it.
    contents: items whose content is kept, so that another model can read it. awaiting: items of those that
    have no vector yet."""

    generation: str
    role: Literal["current", "next", "former"]
    embedding_version: str
    items: int
    live: int
    seq: int
    cursors: Mapping[str, str]
    dim: int = 0
    origin: str = ""
    contents: int = 0
    awaiting: int = 0


@dataclass(frozen=True, slots=True)
class GenerationIdentity:
    """What a generation says of itself. dim: of its vectors. origin: empty where nobody has noted it."""

    embedding_version: str
    dim: int
    origin: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something wrong that searches survive. code: for programs. reason: a sentence. hint: the command or the
    setting that helps, or an empty string."""

    code: Damage | Literal["generation_not_open", "writes_refused"]
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class UnopenedGeneration:
    """One that the pointer names and this process can't open now; it refuses writes, which that one would
    miss, and tries again. reason, hint: as of a Trouble."""

    generation: str
    role: Literal["next", "former"]
    embedding_version: str
    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """A collection's generations; `current` is None until something names its first embedding_version.

    troubles: what is wrong with any of its stores, worst first. former_since: when its former generation
    became that, in seconds since the epoch. unopened: further generations, which no other field counts."""

    spec: CollectionSpec
    current: GenerationStatus | None
    others: Sequence[GenerationStatus]
    troubles: Sequence[Trouble] = ()
    former_since: float = 0.0
    unopened: Sequence[UnopenedGeneration] = ()

    @property
    def generations(self) -> Sequence[GenerationStatus]:
        """All of them, the current one first."""
        return self.others if self.current is None else (self.current, *self.others)

    @property
    def named(self) -> Sequence[GenerationStatus | UnopenedGeneration]:
        """All of them, those that are not open here too."""
        return (*self.generations, *self.unopened)

    def in_role(self, role: str) -> GenerationStatus | None:
        """Return the generation in that role, if there is one."""
        return next((each for each in self.generations if each.role == role), None)

    def of_version(self, embedding_version: str) -> GenerationStatus | None:
        """Return the generation of that version, if there is one."""
        return next((each for each in self.generations if each.embedding_version == embedding_version), None)

    @property
    def problem(self) -> str | None:
        """The reasons of all troubles, or None."""
        return "; ".join(each.reason for each in self.troubles) or None


@dataclass(frozen=True, slots=True)
class Digest:
    """Proof of content: 4,096 order-free sums by hash(id). Equal roots mean equal sets.

    buckets: (4096,) uint64, or as many parts as were asked for. method and inputs: docs/FORMAT.md.
    """

    root: str
    buckets: npt.NDArray[np.uint64]
    items: int
    seq: int


@dataclass(frozen=True, slots=True)
class DigestRow:
    """One id's share of its bucket, for finding which row differs."""

    id: Id
    sum: int
    active: bool
    has_vector: bool
