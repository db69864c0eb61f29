"""Documents and judged queries of each data set, for bench_quality. Everything is drawn by fixed seeds.

Recipes, places, emoji and stamps bring their queries along, written by people or by rule; those of products
are made of the products' own names. How each kind is made stands at the function that makes it.
"""

from __future__ import annotations

import csv
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality_spellings import on_english_keyboard, romanised, with_one_jamo_wrong

SEED = 17
NAMES = 400
"""Products that are asked for by name."""
SYNONYMS = 600
"""Of a set's synonyms, so many are asked for."""
RECIPE_TEXT = "{title}: {description}. 재료: {ingredients}"
_SHOP = re.compile(r"^[^\[\]]*\[[^\]]*\]")
_ASIDE = re.compile(r"\([^)]*\)|\[[^\]]*\]")
_NO_LETTER = re.compile(r"[^0-9A-Za-z가-힣]+")
_WORD = re.compile(r"[가-힣]{2,}")
_COMMON = 0.02
"""A word that more of the names hold says nothing of a product: 선물세트, 국내산."""
_WORDS_MIN, _WORDS_MAX = 2, 4
_NOUN_NAMES = range(3, 101)


@dataclass(frozen=True, slots=True)
class Document:
    """One item. text: what its vector is made of. fields: what its words stand in, by metadata field."""

    text: str
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """relevant: places of documents."""

    kind: str
    text: str
    relevant: frozenset[int]


@dataclass(frozen=True, slots=True)
class DataSet:
    """One collection's worth. lexical: metadata fields that are searched by words."""

    name: str
    lexical: Sequence[str]
    documents: Sequence[Document]
    queries: Sequence[JudgedQuery]


def data_sets(data: Path) -> Iterator[DataSet]:
    """Yield those whose files are in `data`; says which are not."""
    makers = {
        "recipes.jsonl": _recipes,
        "kok_products.csv": _products,
        "osm_presets_ko.jsonl": _places,
        "emoji_ko.jsonl": _emoji,
        "tuxpaint_ko.jsonl": _stamps,
    }
    for file, make in makers.items():
        if (data / file).exists():
            yield make(data / file)
        else:
            print(f"{file}: none at {data}, left out")


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _recipes(path: Path) -> DataSet:
    """614 recipes, and their own 759 queries by kind. `wrong_keyboard`: those of kind `dish`, typed while the
    keyboard is in English (`quality_spellings.on_english_keyboard`)."""
    rows = rows_of(path)
    places = {row["recipe_id"]: place for place, row in enumerate(rows)}
    queries = [
        JudgedQuery(each["kind"], each["query"], frozenset(places[id] for id in each["relevant"]))
        for each in rows_of(path.with_name("recipe_queries.jsonl"))
    ]
    queries += [
        JudgedQuery("wrong_keyboard", on_english_keyboard(each.text), each.relevant)
        for each in queries
        if each.kind == "dish"
    ]
    fields = ("title", "ingredients", "description")
    documents = [
        Document(
            RECIPE_TEXT.format(**{**row, "ingredients": ", ".join(row["ingredients"])}),
            {field: row[field] for field in fields},
        )
        for row in rows
    ]
    return DataSet("recipes", fields, documents, queries)


def _products(path: Path) -> DataSet:
    """4,156 products by their names as they are sold, and for `NAMES` of them, drawn at random:

    `words`: 2 to 4 words of the name, drawn at random and in the order of the name, as few as no other name
    holds all of. A word is two syllables or more without a digit or a Latin letter, stands outside of
    brackets and behind the shop's name, and is none that a fiftieth of all names hold.
    `no_spaces`: the same words written together.
    `jamo_wrong`: the same words with one jamo of one syllable replaced (`with_one_jamo_wrong`).
    `romanised`: the same words in the Revised Romanisation, spaces kept (`romanised`).
    All that hold the words, duplicates of the name among them, are relevant.

    `head_noun`: a word that 3 to 100 names have a word that ends with, two other words at least among them
    (김치: 포기김치, 갓김치), and with which half of those names end, or more. All those names are relevant:
    what a Korean word ends with says what it is. `NAMES` at most.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = [row["KOK_PRODUCT_NAME"] for row in csv.DictReader(file)]
    words = _telling_words(names)
    documents = [Document(name, {"name": name}) for name in names]
    return DataSet("products", ("name",), documents, [*_by_words(words), *_by_head_noun(words)])


def _telling_words(names: Sequence[str]) -> list[list[str]]:
    """Of each name, in order."""
    found = [
        [word for word in _NO_LETTER.split(_ASIDE.sub(" ", _SHOP.sub(" ", name))) if _WORD.fullmatch(word)]
        for name in names
    ]
    held = Counter(word for words in found for word in set(words))
    return [[word for word in words if held[word] <= _COMMON * len(names)] for words in found]


def _by_words(words: Sequence[Sequence[str]]) -> Iterator[JudgedQuery]:
    rng = random.Random(SEED)
    holders = defaultdict(set)
    for place, own in enumerate(words):
        for word in own:
            holders[word].add(place)
    several = [place for place, own in enumerate(words) if len(set(own)) >= _WORDS_MIN]
    for place in sorted(rng.sample(several, min(NAMES, len(several)))):
        own = list(dict.fromkeys(words[place]))
        drawn = rng.sample(own, len(own))[:_WORDS_MAX]
        for count in range(_WORDS_MIN, len(drawn) + 1):
            relevant = frozenset(set.intersection(*(holders[word] for word in drawn[:count])))
            if len(relevant) == 1:
                break
        asked = [word for word in own if word in drawn[:count]]
        text = " ".join(asked)
        yield JudgedQuery("words", text, relevant)
        yield JudgedQuery("no_spaces", "".join(asked), relevant)
        yield JudgedQuery("jamo_wrong", with_one_jamo_wrong(text, rng), relevant)
        yield JudgedQuery("romanised", romanised(text), relevant)


def _by_head_noun(words: Sequence[Sequence[str]]) -> Iterator[JudgedQuery]:
    names: dict[str, set[int]] = defaultdict(set)
    wholes: dict[str, set[str]] = defaultdict(set)
    ends: Counter[str] = Counter()
    for place, own in enumerate(words):
        for word in own:
            for start in range(len(word) - 1):
                names[word[start:]].add(place)
                wholes[word[start:]].add(word)
        if own:
            ends.update(own[-1][start:] for start in range(len(own[-1]) - 1))
    nouns = [
        noun
        for noun in sorted({own[-1] for own in words if own})
        if len(names[noun]) in _NOUN_NAMES and len(wholes[noun]) > 2 and 2 * ends[noun] >= len(names[noun])
    ]
    for noun in sorted(random.Random(SEED).sample(nouns, min(NAMES, len(nouns)))):
        yield JudgedQuery("head_noun", noun, frozenset(names[noun]))


def _places(path: Path) -> DataSet:
    """963 kinds of places by their Korean names. `english`: their English names, by people; all places of
    that English name are relevant. `synonyms`: as `_synonyms`, of `terms_ko`."""
    rows = rows_of(path)
    english = _grouped((row["name_en"], [place]) for place, row in enumerate(rows))
    queries = [JudgedQuery("english", text, relevant) for text, relevant in english.items()]
    return _by_text("places", rows, [*queries, *_synonyms(rows, "terms_ko")])


def _emoji(path: Path) -> DataSet:
    """915 emoji by their Korean labels. `synonyms`: as `_synonyms`, of `tags_ko`."""
    rows = rows_of(path)
    return _by_text("emoji", rows, _synonyms(rows, "tags_ko"))


def _stamps(path: Path) -> DataSet:
    """432 stamps by their Korean captions. `english`: the English captions; all stamps of that English
    caption are relevant."""
    rows = rows_of(path)
    english = _grouped((row["name_en"], [place]) for place, row in enumerate(rows))
    return _by_text("stamps", rows, [JudgedQuery("english", *each) for each in english.items()])


def _by_text(name: str, rows: Sequence[Mapping[str, Any]], queries: Iterable[JudgedQuery]) -> DataSet:
    documents = [Document(row["text"], {"text": row["text"]}) for row in rows]
    return DataSet(name, ("text",), documents, list(queries))


def _synonyms(rows: Sequence[Mapping[str, Any]], field: str) -> list[JudgedQuery]:
    """What people said that an item is also called, `SYNONYMS` of them drawn at random; none that is some
    item's own text. All items that bear it are relevant."""
    texts = {row["text"] for row in rows}
    borne = _grouped((term, [place]) for place, row in enumerate(rows) for term in row[field])
    terms = sorted(term for term in borne if term not in texts)
    drawn = sorted(random.Random(SEED).sample(terms, min(SYNONYMS, len(terms))))
    return [JudgedQuery("synonyms", term, borne[term]) for term in drawn]


def _grouped(pairs: Iterable[tuple[str, Sequence[int]]]) -> dict[str, frozenset[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for text, places in pairs:
        if text.strip():
            found[text].update(places)
    return {text: frozenset(places) for text, places in found.items()}
