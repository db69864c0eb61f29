"""The shapes of request bodies. Search and embed ignore unknown fields, writes and operations refuse them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, cast

import msgspec

IdIn: TypeAlias = int | str
VectorIn: TypeAlias = list[float] | str
IncludeIn: TypeAlias = Literal["score", "rank", "metadata", "vector", "why", "confidence"]
ModeIn: TypeAlias = Literal["dense", "lexical", "hybrid"]
RecommendIn: TypeAlias = Literal["mean", "best", "each"]
RoleIn: TypeAlias = Literal["query", "document"]


class HybridIn(msgspec.Struct, gc=False):
    """alpha: multiplies what words are worth beside vectors."""

    alpha: float | None = None


class LinearIn(msgspec.Struct, gc=False, forbid_unknown_fields=True, rename={"low": "from", "high": "to"}):
    """0 at `from`, 1 at `to`."""

    key: str
    low: float
    high: float


class DecayIn(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """1 at origin, one half at a distance of scale; of dates where scale is a duration."""

    key: str
    scale: float | str
    origin: float | str | None = None
    shape: Literal["exp", "gauss", "linear"] = "exp"


class BoostIn(msgspec.Struct, gc=False, forbid_unknown_fields=True, rename={"condition": "if"}):
    """weight times one of linear, decay and if."""

    weight: float
    linear: LinearIn | None = None
    decay: DecayIn | None = None
    condition: dict[str, Any] | None = None


class GroupByIn(msgspec.Struct, gc=False, forbid_unknown_fields=True, rename={"most": "max"}):
    """At most `max` hits with one value of a key."""

    key: str
    most: int = 1


class CollapseIn(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """What is as near as that to a better hit is left out."""

    distance: float


class SearchIn(msgspec.Struct, gc=False):
    """One search; None means absent. The last five are other engines' names: no fields, but warned of."""

    query: str | None = None
    image: str | None = None
    vector: VectorIn | None = None
    like_ids: list[IdIn] | None = None
    unlike_ids: list[IdIn] | None = None
    recommend: RecommendIn | None = None
    like_weights: list[float] | None = None
    seen_key: str | None = None
    seen_reset: bool | None = None
    collection: str | None = None
    top_k: int | None = None
    exclude_ids: list[IdIn] | None = None
    filter: dict[str, Any] | None = None
    offset: int | None = None
    cursor: str | None = None
    max_distance: float | None = None
    exact: bool | None = None
    min_seq: int | None = None
    embedding_version: str | None = None
    include: list[IncludeIn] | None = None
    mode: ModeIn | None = None
    hybrid: HybridIn | None = None
    degrade: Literal["lexical"] | None = None
    min_confidence: float | None = None
    boost: Annotated[list[BoostIn], msgspec.Meta(max_length=8)] | None = None
    group_by: GroupByIn | None = None
    collapse: CollapseIn | None = None
    diversity: float | None = None
    pool: int | None = None
    limit: Any = None
    k: Any = None
    size: Any = None
    n_results: Any = None
    min_score: Any = None


class SearchBatchIn(msgspec.Struct):
    """POST /v1/search-batch."""

    searches: list[SearchIn]


class VectorParametersIn(msgspec.Struct, forbid_unknown_fields=True):
    """What stands in the query string when the body is the vector itself. filter: JSON. exclude_ids: texts as
    they came, one for each parameter of this name."""

    collection: str | None = None
    top_k: int | None = None
    exclude_ids: list[str] | None = None
    filter: str | None = None
    offset: int | None = None
    cursor: str | None = None
    max_distance: float | None = None
    exact: bool | None = None
    min_seq: int | None = None
    embedding_version: str | None = None
    include: list[IncludeIn] | None = None


class EmbedIn(msgspec.Struct):
    """POST /v1/embed: one of `text` and `image`."""

    text: str | None = None
    image: str | None = None
    normalize: bool | None = None
    collection: str | None = None
    model: str | None = None
    role: RoleIn | None = None
    embedding_version: str | None = None


class EmbedBatchIn(msgspec.Struct):
    """POST /v1/embed-batch."""

    texts: list[str]
    normalize: bool | None = None
    collection: str | None = None
    model: str | None = None
    role: RoleIn | None = None
    embedding_version: str | None = None


class EmbeddingsIn(msgspec.Struct):
    """POST /v1/embeddings, in OpenAI's shape. input: one text or several; token ids are refused by name."""

    model: str
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    role: RoleIn | None = None


class SimilarByUrlIn(msgspec.Struct):
    """POST /search_similar_by_url."""

    image_url: str
    top_k: int | None = None


class DeleteIn(msgspec.Struct, forbid_unknown_fields=True):
    """One delete of an upsert batch."""

    id: IdIn
    source_version: int | None = None


class UpsertIn(msgspec.Struct, forbid_unknown_fields=True):
    """items and delete_ids are decoded one by one, later: one bad one must not spoil the others of a partial
    write."""

    collection: str | None = None
    embedding_version: str | None = None
    items: list[msgspec.Raw] = []
    delete_ids: list[msgspec.Raw] | None = None
    source: dict[str, str] | None = None
    except_versions: Annotated[list[str], msgspec.Meta(max_length=8)] | None = None


class ItemIn(msgspec.Struct, forbid_unknown_fields=True):
    """One item of an upsert. Each collection has its own twin with its id field (see `item_type`)."""

    vector: VectorIn | None = None
    text: str | None = None
    image: str | None = None
    image_url: str | None = None
    active: bool | None = None
    metadata: dict[str, Any] | None = None
    source_version: int | None = None
    id: IdIn | None = None


def item_type(id_field: str) -> type[ItemIn]:
    """Return ItemIn with a field `id_field` as another name of `id`."""
    if id_field == "id":
        return ItemIn
    twin = msgspec.defstruct(
        f"ItemIn_{id_field}",
        [(id_field, IdIn | None, None)],
        bases=(ItemIn,),
        kw_only=True,
        forbid_unknown_fields=True,
    )
    return cast("type[ItemIn]", twin)


class StepIn(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/promote, /v1/rollback, /v1/abort, /v1/retire. force: though a promotion would lose items, or
    items that are hidden now would be shown again."""

    collection: str
    embedding_version: str | None = None
    force: bool = False


class RebuildIn(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/rebuild. model: a reference; left out, the configured one. dim: of a model that gives any.
    dry_run: only say what it takes."""

    collection: str
    model: str | None = None
    dim: int | None = None
    text_template: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    embedding_version: str | None = None
    dry_run: bool = False


class ReportQueryIn(SearchIn):
    """One line of a file of queries: a search. next_vector: of the same content, by the model of after."""

    next_vector: VectorIn | None = None


class ExplainIn(SearchIn, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/explain: a search, and the item whose place in its answer is asked for."""

    id: IdIn


class JudgementIn(msgspec.Struct, forbid_unknown_fields=True):
    """grades: by id, as text; how well the item answers the query, above 0 where it does."""

    query: str
    grades: dict[str, float]


class ReportIn(msgspec.Struct, forbid_unknown_fields=True):
    """POST .../report. Without any queries those at hand are taken."""

    queries: list[ReportQueryIn] = []
    judgements: list[JudgementIn] = []


class ChangeIn(msgspec.Struct, forbid_unknown_fields=True):
    """What a rehearsal changes of every search."""

    exact: bool | None = None
    ef: int | None = None
    max_distance: float | None = None
    query_template: str | None = None


class RehearsalIn(ReportIn, forbid_unknown_fields=True, kw_only=True):
    """POST .../rehearsal."""

    change: ChangeIn


class DigestIn(msgspec.Struct, forbid_unknown_fields=True):
    """sums: base64 of little-endian uint64, a power of two of them. first: the part to begin with."""

    sums: str
    first: Annotated[int, msgspec.Meta(ge=0)] = 0
    embedding_version: str | None = None


class SnapshotIn(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing can be chosen: the server makes the name."""
