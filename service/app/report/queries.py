"""The queries of a report, wherever they come from."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import msgspec

from index_store.port import ReplaySource
from index_store.types import Content, Id, SearchRequest, Vector
from service.app.search import NO_VECTOR, ParsedSearch
from service.collections import Collection

QueryKind: TypeAlias = Literal["text", "picture", "id", "vector"]
QueryOrigin: TypeAlias = Literal["recorded", "given", "judged", "sampled"]
Language: TypeAlias = Literal["korean", "english", "other"]

DEPTH = 25
"""How many results of each query are compared."""
SAMPLED = 100
"""Items drawn of each kind."""
SAMPLED_BYTES_MAX = 64 << 20
"""Of kept content: a report holds its queries in memory, and a picture may have 20 MB."""
_LABEL_CHARS_MAX = 200


class _RecordedLine(msgspec.Struct):
    query: str | None = None
    like_ids: list[Id] = []
    unlike_ids: list[Id] = []
    exclude_ids: list[Id] = []
    filter: dict[str, Any] | None = None
    max_distance: float | None = None


_DECODER = msgspec.json.Decoder(_RecordedLine)


@dataclass(frozen=True, slots=True)
class ReplayQuery:
    """One query, to be put to both generations.

    search: as a caller would have asked; a vector of its own belongs to the generation before. next_vector:
    the same content's vector by the model after. own_id: the item whose own content this is, which it
    should find. grades: by id, how well an item answers the query. is_compared: whether it counts in the
    tables of agreement; known items do not where there are queries of callers.
    """

    label: str
    origin: QueryOrigin
    search: ParsedSearch
    next_vector: Vector | None = None
    own_id: Id | None = None
    grades: Mapping[Id, float] = field(default_factory=dict)
    is_compared: bool = True

    @property
    def kind(self) -> QueryKind:
        """What it was made of."""
        if self.search.content is not None:
            return "text" if isinstance(self.search.content, str) else "picture"
        return "id" if self.search.like_ids else "vector"

    @property
    def language(self) -> Language | None:
        """The script of a text; None for other kinds."""
        return language_of(self.search.content) if isinstance(self.search.content, str) else None


def language_of(text: str) -> Language:
    """Return what most letters of `text` belong to, by script: Hangul is Korean and Latin English; no letters
    at all are other. Of as many of each the first of these."""
    counts: dict[Language, int] = {"korean": 0, "english": 0, "other": 0}
    for character in text:
        if not character.isalpha():
            continue
        name = unicodedata.name(character, "")
        counts[
            "korean" if name.startswith("HANGUL") else "english" if name.startswith("LATIN") else "other"
        ] += 1
    if not any(counts.values()):
        return "other"
    return max(counts, key=lambda language: counts[language])


def replay_search(
    collection: Collection,
    *,
    content: str | bytes | None = None,
    like_ids: Sequence[Id] = (),
) -> ParsedSearch:
    """Return a search of one content: a normalised text, or a picture file; or of items alike."""
    request = SearchRequest(NO_VECTOR, DEPTH)
    return ParsedSearch(collection, request, content=content, like_ids=like_ids)


def sampled_queries(
    source: ReplaySource, collection: Collection, seed: str, limit: int, *, are_compared: bool
) -> list[ReplayQuery]:
    """Return queries out of the current generation: items' own kept content, and items to find others like,
    `limit` of each at most. Blocking. are_compared: whether they count where callers' queries are missing."""
    drawn = min(SAMPLED, limit)
    found = source.draw_contents(collection.name, seed, drawn, SAMPLED_BYTES_MAX)
    queries = [
        query
        for item_id, content in found
        if (query := _known_item(collection, item_id, content, are_compared)) is not None
    ]
    if not are_compared:
        return queries
    ids = source.draw_ids(collection.name, seed, drawn)
    return queries + [
        ReplayQuery(f"like {item_id}", "sampled", replay_search(collection, like_ids=[item_id]))
        for item_id in ids
    ]


def recorded_queries(
    collection: Collection, lines: Sequence[str], seed: str, limit: int
) -> list[ReplayQuery]:
    """Return `limit` queries of callers, drawn by `seed`; lines as the query log keeps them, of which those
    that can't be read are left out."""
    drawn = sorted(lines, key=lambda line: hashlib.sha256(f"{seed}/{line}".encode()).digest())[:limit]
    queries = []
    for line in sorted(drawn):
        try:
            kept = _DECODER.decode(line)
        except msgspec.DecodeError:
            continue
        request = SearchRequest(
            NO_VECTOR,
            DEPTH,
            exclude_ids=kept.exclude_ids,
            filter=kept.filter,
            max_distance=kept.max_distance,
        )
        search = ParsedSearch(
            collection, request, content=kept.query, like_ids=kept.like_ids, unlike_ids=kept.unlike_ids
        )
        queries.append(ReplayQuery(label_of(search, ""), "recorded", search))
    return queries


def label_of(search: ParsedSearch, where: str) -> str:
    """Return how a report names a query. where: tells apart those that have no words."""
    if isinstance(search.content, str):
        return search.content[:_LABEL_CHARS_MAX]
    if search.like_ids:
        unlike = f" unlike {_listed(search.unlike_ids)}" if search.unlike_ids else ""
        return f"like {_listed(search.like_ids)}{unlike}"
    return f"{'vector' if search.content is None else 'picture'} {where}"


def _listed(ids: Sequence[Id]) -> str:
    return ", ".join(map(str, ids))[:_LABEL_CHARS_MAX]


def _known_item(
    collection: Collection, item_id: Id, content: Content, is_compared: bool
) -> ReplayQuery | None:
    if content.kind == "text":
        text = content.data.decode()  # normalised when it was written
        search = replay_search(collection, content=text)
        label = label_of(search, "")
    elif content.kind == "picture":
        search = replay_search(collection, content=content.data)
        label = f"picture of {item_id}"
    else:
        return None  # it would have to be fetched
    return ReplayQuery(label, "sampled", search, own_id=item_id, is_compared=is_compared)
