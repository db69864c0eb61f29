"""The tables of an index in PostgreSQL (docs/decisions/0126).

Every row is one version of an item: `(id, seq)`, valid from its `seq` until that of the version which
replaced it. A writer puts new versions in, ends the ones before, and moves `generation.head` last: that is
the commit.
A reader takes the head first and sees what holds at it:

    seq <= head AND (until IS NULL OR until > head)

On one server a write is one transaction, so versions above the head are never seen. Where tables are spread
over servers, a killed writer may leave some: the next one removes them, holding the collection's lock.

Tables lie in the first schema of the connection's `search_path`, pgvector's type in any of them.

    index_schema   one row: version of these tables, the number of this index, the last number of a generation
    collection     its kind of id and metric; numbers of the generations that are current, next and former
    generation     its head and what it counts; `history_from`: the oldest seq that pages may still ask for;
                   `ef`: breadth of the graph as measured when `measured_live` items were live, 0 where there
                   is no graph yet; `length_max`: no vector is longer; `sealed_head`: when PostgreSQL last
                   gathered statistics
    cursor         where feeders resume, by generation and source
    digest_sum     the sums of docs/FORMAT.md, by generation and bucket; a missing one is 0
    rows_N         versions of the items of generation N. vector: NULL waits for one. facts: what filters read
                   (`index_store.postgres.facts`), metadata: the exact text. share, bucket: of the digest;
                   bucket: the low 20 bits of the id's CRC-32, of which the low 12 number its sum
    word_sum       by generation: by which fields words are read, up to which seq they are counted, how many
                   items, and how many grams those have together, by stream
    words_N        grams (`index_store.lexical`) of the versions that searches find, as often as their texts
                   hold them; `until` as of rows_N. It is in no index, so that to end a version leaves the
                   index of grams alone
    gram_N         how many items hold a gram, by stream (0 letters, 1 sounds), as of the seq of word_sum
    content_N      what items were made of, by id; of an item only while it bears this content_hash

The graph index holds the newest versions that searches find and no others: to end a version takes its row out
of the index's condition, so a row that is replaced costs no second entry in the graph. An index over facts
finds the rows of a filter (docs/decisions/0127).
"""

from __future__ import annotations

from index_store.types import Metric
from item_rules.ids import IdKind

VERSION = 1
"""Of these tables. An index of a newer one is refused."""
DIM_MAX = 16_000
"""Of pgvector's type."""
GRAPH_DIM_MAX = 2_000
"""Of pgvector's graphs; longer vectors are compared one by one."""
BUCKET_BITS = 20
OPERATORS: dict[Metric, str] = {"l2": "<->", "cosine": "<=>", "ip": "<#>"}
LIVE = "until IS NULL AND active AND vector IS NOT NULL"
"""The condition of newest versions that searches find, as of the graph index. A tombstone is not active."""

TABLES = (
    "CREATE TABLE index_schema(version int NOT NULL, store_id text NOT NULL, generations_begun int NOT NULL)",
    'CREATE TABLE collection(name text COLLATE "C" PRIMARY KEY, id_kind text NOT NULL, metric text NOT NULL, '
    "current int, next int, former int, former_since float8 NOT NULL DEFAULT 0)",
    'CREATE TABLE generation(number int PRIMARY KEY, collection text COLLATE "C" NOT NULL, '
    'embedding_version text COLLATE "C" NOT NULL, dim int NOT NULL, head bigint NOT NULL DEFAULT 0, '
    "history_from bigint NOT NULL DEFAULT 0, items bigint NOT NULL DEFAULT 0, "
    "live bigint NOT NULL DEFAULT 0, awaiting bigint NOT NULL DEFAULT 0, contents bigint NOT NULL DEFAULT 0, "
    "origin text NOT NULL DEFAULT '', ef int NOT NULL DEFAULT 0, length_max float8 NOT NULL DEFAULT 0, "
    "sealed_head bigint NOT NULL DEFAULT 0, measured_live bigint NOT NULL DEFAULT 0)",
    "CREATE TABLE cursor(generation int NOT NULL, source text NOT NULL, value text NOT NULL, "
    "PRIMARY KEY(generation, source))",
    "CREATE TABLE digest_sum(generation int NOT NULL, bucket int NOT NULL, sum bigint NOT NULL, "
    "PRIMARY KEY(generation, bucket))",
    "CREATE TABLE word_sum(generation int PRIMARY KEY, lexical_version text NOT NULL, seq bigint NOT NULL, "
    "documents bigint NOT NULL, letters bigint NOT NULL, sounds bigint NOT NULL)",
)
"""The statements that make an empty schema, but for the row of `index_schema`."""

_PENDING_KB = 512
"""Of grams that wait to be sorted into their index: each search looks through them."""

ROW_COLUMNS = (
    "id", "seq", "until", "deleted", "active", "source_version", "content_hash", "metadata", "facts", "share",
    "bucket", "vector",
)  # fmt: skip
"""Of the table of a generation's rows, in order."""

_ID_TYPES: dict[IdKind, str] = {"int64": "bigint", "string": 'text COLLATE "C"'}
_OPERATOR_CLASSES: dict[Metric, str] = {
    "l2": "vector_l2_ops",
    "cosine": "vector_cosine_ops",
    "ip": "vector_ip_ops",
}


def rows_table(number: int) -> str:
    """Return the name of the table with the rows of a generation."""
    return f"rows_{number}"


def content_table(number: int) -> str:
    """Return the name of the table of what a generation's items were made of."""
    return f"content_{number}"


def words_table(number: int) -> str:
    """Return the name of the table with the words of a generation's rows."""
    return f"words_{number}"


def gram_table(number: int) -> str:
    """Return the name of the table that says how many items of a generation hold a gram."""
    return f"gram_{number}"


def generation_tables(number: int, id_kind: IdKind, dim: int) -> list[str]:
    """Return the statements that make the tables of a generation, without the graph index."""
    rows, words, id_type = rows_table(number), words_table(number), _ID_TYPES[id_kind]
    return [
        f"CREATE TABLE {rows}(id {id_type} NOT NULL, seq bigint NOT NULL, until bigint, "
        "deleted bool NOT NULL, active bool NOT NULL, source_version bigint, content_hash bytea, "
        "metadata text, facts jsonb NOT NULL, share bigint NOT NULL, bucket int NOT NULL, "
        # Rows of up to a page stay whole: a search would look each vector up in another table else.
        f"vector vector({dim}), PRIMARY KEY(id, seq)) WITH (toast_tuple_target = 8160)",
        f"CREATE INDEX {rows}_seq ON {rows}(seq)",
        f"CREATE INDEX {rows}_until ON {rows}(until) WHERE until IS NOT NULL",
        f"CREATE INDEX {rows}_deleted ON {rows}(id) WHERE deleted AND until IS NULL",
        f"CREATE INDEX {rows}_facts ON {rows} USING gin (facts jsonb_path_ops)",
        f"CREATE TABLE {content_table(number)}(id {id_type} PRIMARY KEY, content_hash bytea NOT NULL, "
        "kind text NOT NULL, data bytea NOT NULL)",
        f"CREATE TABLE {words}(id {id_type} NOT NULL, seq bigint NOT NULL, until bigint, "
        "letters bigint[] NOT NULL, sounds bigint[] NOT NULL, PRIMARY KEY(id, seq)) WITH (fillfactor = 80)",
        *(
            f"CREATE INDEX {words}_{stream} ON {words} USING gin ({stream}) "
            f"WITH (gin_pending_list_limit = {_PENDING_KB})"
            for stream in ("letters", "sounds")
        ),
        f"CREATE TABLE {gram_table(number)}(stream smallint NOT NULL, gram bigint NOT NULL, "
        "documents bigint NOT NULL, PRIMARY KEY(stream, gram)) WITH (fillfactor = 70)",
    ]


def graph_name(number: int) -> str:
    """Return the name of the graph index of a generation."""
    return f"{rows_table(number)}_graph"


def graph_index(number: int, metric: Metric, dim: int) -> list[str]:
    """Return the statement that makes the graph index of a generation while others read and write, outside of
    any transaction; none for vectors that are too long."""
    if dim > GRAPH_DIM_MAX:
        return []
    column = f"vector {_OPERATOR_CLASSES[metric]}"
    return [
        f"CREATE INDEX CONCURRENTLY {graph_name(number)} ON {rows_table(number)} USING hnsw ({column}) "
        f"WHERE {LIVE}"
    ]


def dropped_tables(number: int) -> list[str]:
    """Return the statements that remove all of a generation that no collection names any more."""
    return [
        f"DROP TABLE IF EXISTS {rows_table(number)}, {content_table(number)}, {words_table(number)}, "
        f"{gram_table(number)}",
        f"DELETE FROM word_sum WHERE generation = {number}",
        f"DELETE FROM cursor WHERE generation = {number}",
        f"DELETE FROM digest_sum WHERE generation = {number}",
        f"DELETE FROM generation WHERE number = {number}",
    ]
