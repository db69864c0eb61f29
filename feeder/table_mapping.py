"""Which tables a collection comes from: the `source` part of COLLECTIONS_FILE, checked.

Names may be written bare, quoted ("RECIPE_ID") or with a schema (shop."T"); they are always taken as
written and always quoted, so upper case stays upper case in PostgreSQL.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from string import Formatter
from typing import Any, Literal, TypeAlias

from item_rules.ids import IdKind

Identifier: TypeAlias = tuple[str, ...]
Modality: TypeAlias = Literal["text", "image"]

DIM_MAX = 16000
_PART = re.compile(r'\s*(?:"((?:[^"]|"")+)"|`((?:[^`]|``)+)`|([^\s."`]+))\s*(\.|$)')

FILE_KEYS = ("collections",)
COLLECTION_KEYS = (
    "id_field", "id_type", "modality", "dim", "metric", "model", "text_template", "keep_content", "default",
    "gates", "lexical", "synonyms", "mode", "confidence", "good_match_min", "active_from", "active_until",
    "utc_offset", "source",
)  # fmt: skip
"""What the service and the feeder read of one collection."""
SOURCE_KEYS = ("vectors", "items", "embedding_version", "next")
VECTOR_KEYS = ("table", "key", "id", "vector", "text_template")
ITEM_KEYS = ("table", "id", "active", "content", "metadata", "database")
DEFAULTS = {"id_type": "int64", "modality": "text", "dim": 384}
BUILT_IN = """
[collections.recipes]
id_type = "int64"
modality = "text"
dim = 384
text_template = "{title}: {description}. 재료: {ingredients}"
[collections.recipes.source.vectors]
table = '"RECIPE_VECTOR_TABLE"'
key = '"VECTOR_ID"'
id = '"RECIPE_ID"'
vector = '"VECTOR_NAME"'
[collections.recipes.source.items]
table = "FCT_RECIPE"
id = "RECIPE_ID"
content = { title = "COOKING_NAME" }

[collections.products]
id_type = "string"
modality = "image"
dim = 512
[collections.products.source.vectors]
table = "product_vectors"
key = "product_vector_id"
id = "product_id"
vector = "vector"
[collections.products.source.items]
table = "product"
id = "id"
active = "is_active"
content = { image_url = "image_url" }
metadata = { image_url = "image_url", name = "name" }
"""


@dataclass(frozen=True, slots=True)
class VectorTable:
    """A pgvector table. key: what pages are ordered by (the primary key where there is one).

    text_template: what the stored vectors were made of, for the space probe.
    """

    table: Identifier
    key: str
    id: str
    vector: str
    text_template: str


@dataclass(frozen=True, slots=True)
class ItemTable:
    """Where content and activity of items come from. active: an SQL condition on a row, taken as written.

    content, metadata: field name -> column. database: which connection; None: the only one configured.
    """

    table: Identifier
    id: str
    active: str
    content: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    database: Literal["src", "mariadb"] | None = None


@dataclass(frozen=True, slots=True)
class CollectionTables:
    """One collection as the feeder sees it. items None: every vector's item counts as active. vectors None:
    the service makes the vectors, out of the items' content (text_template; a picture's image_url).

    embedding_version: of the generation that these tables fill, in whatever role it is; empty: the current
    one, whatever an import proves. other_versions: generations that other tables fill. is_next: these are the
    tables of `source.next`, the vectors of another model beside those of `source.vectors`; has_own_table: in
    a table of their own.
    """

    name: str
    id_kind: IdKind
    modality: Modality
    dim: int
    vectors: VectorTable | None
    items: ItemTable | None
    text_template: str = ""
    embedding_version: str = ""
    other_versions: tuple[str, ...] = ()
    is_next: bool = False
    has_own_table: bool = False

    @property
    def label(self) -> str:
        """What commands and log call it."""
        return f"{self.name}.next" if self.is_next else self.name

    @property
    def watched_as(self) -> str:
        """What triggers and publication of the vector table are named after."""
        return f"{self.name}_next" if self.has_own_table else self.name


def parse_identifier(text: str) -> Identifier:
    """Return the parts of a name, unquoted. Raises ValueError."""
    parts: list[str] = []
    position = 0
    while True:
        match = _PART.match(text, position)
        if match is None:
            raise ValueError(f"not a table or column name: {text!r}")
        double, back, bare, dot = match.groups()
        parts.append(double.replace('""', '"') if double else back.replace("``", "`") if back else bare)
        position = match.end()
        if not dot:
            return tuple(parts)


def unknown(name: str, known: Iterable[str]) -> str:
    """Return what is wrong with a name that nobody knows, and the one that was meant, perhaps."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    meant = f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"
    return f"unknown; {meant}"


def template_fields(template: str) -> list[str]:
    """Return the names a template asks for, in order. Raises ValueError for a template that is malformed."""
    return [name for _, name, _, _ in Formatter().parse(template) if name]


def parse_collections(text: str, mistakes: list[str]) -> dict[str, CollectionTables]:
    """Return the collections that name source tables. Every mistake is added to `mistakes`."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        mistakes.append(f"COLLECTIONS_FILE: not TOML: {exc}")
        return {}
    found: dict[str, CollectionTables] = {}
    built_in = tomllib.loads(BUILT_IN)["collections"]
    mistakes += [
        f"COLLECTIONS_FILE: {key}: {unknown(key, FILE_KEYS)}" for key in document if key not in FILE_KEYS
    ]
    collections = document.get("collections", {})
    if not isinstance(collections, dict):
        mistakes.append(f"collections: tables [collections.NAME] are needed, got {collections!r}")
        return {}
    for name, given in collections.items():
        reader = _TableReader(f"collections.{name}", mistakes)
        if not isinstance(given, dict):
            mistakes.append(f"collections.{name}: a table is needed, got {given!r}")
            continue
        reader.only(given, COLLECTION_KEYS)
        table = {**DEFAULTS, **built_in.get(name, {}), **given}  # as the service reads the same file
        if table.get("source"):
            collection = _collection(name, table, reader)
            if collection is not None:
                found[name] = collection
                following = _following(collection, table, reader.at("source"))
                if following is not None:
                    found[following.label] = following
    return found


class _TableReader:
    """Reads typed values out of one TOML table and notes what is wrong instead of raising."""

    def __init__(self, path: str, mistakes: list[str]) -> None:
        self._path = path
        self._mistakes = mistakes

    def at(self, name: str) -> _TableReader:
        return _TableReader(f"{self._path}.{name}", self._mistakes)

    def wrong(self, name: str, message: str) -> None:
        self._mistakes.append(f"{self._path}.{name}: {message}")

    def only(self, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
        """Note keys that nobody reads: a misspelt one would be ignored in silence."""
        for name in table:
            if name not in known:
                self.wrong(name, unknown(name, known))

    def text(self, table: Mapping[str, Any], name: str, default: str | None = None) -> str:
        value = table.get(name, default)
        if not isinstance(value, str) or not value.strip():
            self.wrong(name, f"a text is needed, got {value!r}")
            return "?"
        return value

    def name(self, table: Mapping[str, Any], name: str) -> Identifier:
        try:
            return parse_identifier(self.text(table, name))
        except ValueError as exc:
            self.wrong(name, str(exc))
            return ("?",)

    def column(self, table: Mapping[str, Any], name: str) -> str:
        value = table.get(name)
        if isinstance(value, list) or (isinstance(value, str) and "," in value and '"' not in value[1:-1]):
            self.wrong(
                name,
                f"one column is needed, got {value!r}. A composite key is not named whole: name one of its"
                " columns; rows that share its value are read together",
            )
            return "?"
        parts = self.name(table, name)
        if len(parts) != 1:
            self.wrong(name, f"a column name has one part, got {'.'.join(parts)!r}")
        return parts[0]

    def choice(self, table: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> Any:
        value = table.get(name)
        if value not in choices:
            self.wrong(name, f"one of {', '.join(choices)} is needed, got {value!r}")
        return value

    def columns(self, table: Mapping[str, Any], name: str) -> dict[str, str]:
        value = table.get(name, {})
        if not isinstance(value, dict):
            self.wrong(name, "a table of field = column is needed")
            return {}
        inner = self.at(name)
        return {key: inner.column(value, key) for key in value}

    def whole(self, table: Mapping[str, Any], name: str, highest: int) -> int:
        value = table.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= highest:
            self.wrong(name, f"a whole number 1..{highest} is needed, got {value!r}")
            return 1
        return value


def _collection(name: str, table: dict[str, Any], reader: _TableReader) -> CollectionTables | None:
    source = table["source"]
    if isinstance(source, dict):
        reader.at("source").only(source, SOURCE_KEYS)
    if not isinstance(source, dict) or not all(
        isinstance(source.get(part, {}), dict) for part in ("vectors", "items")
    ):
        reader.wrong("source", "vectors and items are tables")
        return None
    items = _items(source["items"], reader.at("source.items")) if "items" in source else None
    vectors = None
    if "vectors" in source:
        vectors = _vectors(source["vectors"], table, items, reader.at("source.vectors"))
    elif items is None or not items.content:
        reader.wrong("source", "vectors or items.content is needed")
        return None
    found = CollectionTables(
        name=name,
        id_kind=reader.choice(table, "id_type", ("int64", "string")),
        modality=reader.choice(table, "modality", ("text", "image")),
        dim=reader.whole(table, "dim", DIM_MAX),
        vectors=vectors,
        items=items,
        text_template=_template(table, list(items.content) if items else []),
    )
    if "embedding_version" in source:
        found = replace(
            found,
            embedding_version=reader.at("source").text(source, "embedding_version"),
            other_versions=_other_version(source),
        )
        if vectors is None:
            reader.wrong("source.embedding_version", "is said of source.vectors, which are missing")
    if vectors is None and found.modality == "image" and "image_url" not in (items.content if items else {}):
        reader.wrong("source.items.content", 'pictures need image_url = "COLUMN"')
    return found


def _other_version(source: Mapping[str, Any]) -> tuple[str, ...]:
    following = source.get("next")
    version = following.get("embedding_version") if isinstance(following, dict) else None
    return (version,) if isinstance(version, str) and version else ()


def _following(
    collection: CollectionTables, table: Mapping[str, Any], reader: _TableReader
) -> CollectionTables | None:
    """Return the tables of `source.next`: a column or table beside that of `source.vectors`, which stands for
    what is not named here. Where neither is named, the items' content, for the service to embed."""
    source, vectors = table["source"], collection.vectors
    given = source.get("next")
    if given is None:
        return None
    inner = reader.at("next")
    if not isinstance(given, dict) or vectors is None:
        reader.wrong("next", "a table is needed, beside one of source.vectors")
        return None
    named = {name: value for name, value in given.items() if name not in ("embedding_version", "dim")}
    if not collection.embedding_version:
        reader.wrong("embedding_version", "is needed beside source.next: of which model source.vectors are")
    version = inner.text(given, "embedding_version")
    if version == collection.embedding_version:
        inner.wrong("embedding_version", f"{version!r} is that of source.vectors")
    following = replace(
        collection,
        vectors=None,
        dim=inner.whole(given, "dim", DIM_MAX) if "dim" in given else collection.dim,
        embedding_version=version,
        other_versions=(collection.embedding_version,),
        is_next=True,
    )
    if not named and collection.items is not None and collection.items.content:
        return following
    found = _vectors({**source["vectors"], **named}, table, collection.items, inner)
    if (found.table, found.vector) == (vectors.table, vectors.vector):
        inner.wrong(
            "vector",
            f"{found.vector!r} is the column of source.vectors: name another one",
        )
    has_own_table = (found.table, found.key) != (vectors.table, vectors.key)
    return replace(following, vectors=found, has_own_table=has_own_table)


def _template(collection: Mapping[str, Any], content: list[str]) -> str:
    """Return the collection's own template, unless the source lacks one of its fields: what is not there
    cannot be embedded."""
    template = str(collection.get("text_template", ""))
    if not template or not set(template_fields(template)) <= set(content):
        template = " ".join(f"{{{name}}}" for name in content)
    return template


def _items(table: Mapping[str, Any], reader: _TableReader) -> ItemTable:
    reader.only(table, ITEM_KEYS)
    database = reader.choice(table, "database", ("src", "mariadb")) if "database" in table else None
    return ItemTable(
        table=reader.name(table, "table"),
        id=reader.column(table, "id"),
        active=reader.text(table, "active", "1 = 1"),
        content=reader.columns(table, "content"),
        metadata=reader.columns(table, "metadata"),
        database=database,
    )


def _vectors(
    table: Mapping[str, Any], collection: Mapping[str, Any], items: ItemTable | None, reader: _TableReader
) -> VectorTable:
    reader.only(table, VECTOR_KEYS)
    content = list(items.content) if items else []
    template = table.get("text_template")
    if template is None:
        template = _template(collection, content)
    elif not isinstance(template, str) or not set(template_fields(template)) <= set(content):
        reader.wrong("text_template", f"only the content fields {content} can stand in it, got {template!r}")
        template = ""
    return VectorTable(
        table=reader.name(table, "table"),
        key=reader.column(table, "key" if "key" in table else "id"),
        id=reader.column(table, "id"),
        vector=reader.column(table, "vector"),
        text_template=template,
    )
