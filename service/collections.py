"""The collections that are served: built in, or read from a TOML file. `source` tables are the feeder's."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args

from index_store.types import CollectionSpec, Metric
from item_rules.ids import IdKind
from item_rules.lifetime import Lifetime, utc_offset_of
from service.confidence.calibration import Calibration, read_calibration
from service.errors import BadConfiguration
from service.settings import Settings
from service.words.synonyms import Synonyms, read_synonyms

T = TypeVar("T")

PRODUCTION_TEXT_MODEL = (
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2@e8f8c211226b894fcb81acc59f3b34ba3efd5f42"
)
BUILTIN_IMAGE_MODEL = "builtin:efficientnet-lite0-views"
CLIP_MODEL = "timm/vit_base_patch32_clip_224.openai@a6f597a30f7b82c51704746581f9a4e41421e878"
"""What open_clip loads for `ViT-B-32`/`openai` (docs/decisions/0014)."""
PLACEHOLDER_MODEL = "builtin:placeholder"
NO_MODEL = "none"
"""A collection that is written and searched by ready vectors only."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_RESERVED_FIELDS = frozenset(
    (
        "distance",
        "score",
        "confidence",
        "rank",
        "metadata",
        "vector",
        "text",
        "image",
        "image_url",
        "active",
        "source_version",
    )
)
SearchMode: TypeAlias = Literal["dense", "lexical", "hybrid"]
"""By vectors, by words, by both."""
SEARCH_MODES: tuple[SearchMode, ...] = get_args(SearchMode)
_ALLOWED: Mapping[str, tuple[str, ...]] = {
    "id_type": ("int64", "string"),
    "modality": ("text", "image"),
    "metric": ("l2", "cosine", "ip"),
    "mode": SEARCH_MODES,
}
DIM_MAX = 4096
LEXICAL_FIELDS_MAX = 16


@dataclass(frozen=True, slots=True)
class Gates:
    """Limits that a report must keep for a promotion without `force`. Shares of 0 to 1, but for
    zero_results_max, which counts queries; `_min` of 0 and `_max` of 1 let everything pass.

    overlap_at_10_min: of the first ten answers of before, how many stay. known_item_loss_max: items that
    their own content no longer finds. ndcg_loss_max: of nDCG@10, where judgements are given.
    zero_results_max: queries that found something and would find nothing."""

    overlap_at_10_min: float = 0.0
    known_item_loss_max: float = 0.05
    ndcg_loss_max: float = 0.02
    zero_results_max: int = 0


@dataclass(frozen=True, slots=True)
class Collection:
    """One named set of vectors, as configured. model: a reference as docs/SETTINGS.md lists them.
    keep_content: None leaves it to the modality. lexical: keys of the metadata whose words can be searched;
    mode: of searches by text that name none. synonyms: what typed words mean, for searches by words.
    confidence: how likely hits are, fitted to this collection; None: as its model comes with it.
    good_match_min: of confidence; an answer whose hits have less says so. active_from, active_until:
    keys of the metadata that say when an item is shown; utc_offset: of times there that do not say theirs."""

    name: str
    id_field: str = "id"
    id_type: IdKind = "int64"
    modality: Literal["text", "image"] = "text"
    dim: int = 384
    metric: Metric = "l2"
    model: str = ""
    text_template: str = ""
    keep_content: bool | None = None
    default: bool = False
    gates: Gates = Gates()
    lexical: tuple[str, ...] = ()
    mode: SearchMode = "dense"
    synonyms: Synonyms | None = None
    confidence: Calibration | None = None
    good_match_min: float = 0.5
    active_from: str = ""
    active_until: str = ""
    utc_offset: str = "Z"

    @property
    def lifetime(self) -> Lifetime | None:
        """When its items are shown; None for always."""
        if not self.active_from and not self.active_until:
            return None
        return Lifetime(self.active_from, self.active_until, utc_offset_of(self.utc_offset) or 0.0)

    @property
    def keeps_content(self) -> bool:
        """Whether texts, or the bytes of pictures, stay with their items. A picture's address always does."""
        return self.modality == "text" if self.keep_content is None else self.keep_content

    @property
    def spec(self) -> CollectionSpec:
        """The part of it that the index knows."""
        return CollectionSpec(self.name, self.id_type, self.dim, self.metric, self.lexical, self.lifetime)


def _no_generations(_: str) -> Mapping[str, int]:
    return {}


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every served collection, in the order of configuration. generation_dims: of the vectors of a
    collection's generations, by embedding_version, the current one first (`DimSource`)."""

    collections: tuple[Collection, ...]
    generation_dims: Callable[[str], Mapping[str, int]] = field(default=_no_generations, compare=False)
    default: Collection = field(init=False)
    """The collection of requests that name none."""

    def __post_init__(self) -> None:
        default = next((each for each in self.collections if each.default), self.collections[0])
        object.__setattr__(self, "default", default)  # once: every search asks for it

    def get(self, name: str) -> Collection | None:
        """Return the collection of that name, None when there is none."""
        return next((each for each in self.collections if each.name == name), None)

    def dim(self, collection: Collection) -> int:
        """Return how many numbers the vectors of the current generation have."""
        return next(iter(self.generation_dims(collection.name).values()), collection.dim)

    def dims_of(self, collection: Collection, embedding_version: str | None) -> Sequence[int]:
        """Return how many numbers a vector of that version may have, as far as is known here; without a
        version, one of any generation. Nothing where only the index can tell."""
        known = self.generation_dims(collection.name)
        if not known:
            return (collection.dim,)
        if embedding_version is None:
            return tuple(known.values())
        return (known[embedding_version],) if embedding_version in known else ()

    def default_of(self, modality: str) -> Collection | None:
        """The one a request without `collection` goes to, by what it brings."""
        first = None
        for each in self.collections:  # a plain loop: every search asks
            if each.modality == modality:
                if each.default:
                    return each
                first = first or each
        return first

    @property
    def is_hybrid_possible(self) -> bool:
        """Whether texts of any collection can be searched by words and a model's vectors at once."""
        return any(each.lexical and each.modality == "text" for each in self.collections)

    def by_id_field(self, field: str) -> Collection | None:
        """Return the first collection whose items are named by `field`, None when there is none."""
        return next((each for each in self.collections if each.id_field == field), None)


def read_collections(settings: Settings) -> Catalogue:
    """Raises BadConfiguration with every mistake of the file."""
    builtin = _builtin(settings)
    if settings.collections_file is None:
        return Catalogue(builtin)
    tables = _read_tables(settings)
    known = {each.name: each for each in builtin}
    mistakes: list[str] = []
    collections: list[Collection] = []
    for name, table in tables.items():
        base = known.get(name, Collection(name))
        found = _mistakes_of(name, table)
        synonyms, unreadable = _synonyms_of(table, settings)
        confidence, uncalibrated = _read_named(table.get("confidence"), read_calibration, settings)
        found += unreadable + uncalibrated
        mistakes.extend(f"{settings.collections_file}: collection {name!r}: {each}" for each in found)
        if not found:
            given = {key: value for key, value in table.items() if key not in ("source", "gates")}
            given["gates"] = replace(base.gates, **table.get("gates", {}))
            given["synonyms"] = synonyms
            given["confidence"] = confidence
            given["lexical"] = tuple(table.get("lexical", base.lexical))
            collections.append(_with_model(replace(base, **given), settings))
    mistakes.extend(f"{settings.collections_file}: {each}" for each in _clashes(collections))
    if mistakes:
        raise BadConfiguration(mistakes)
    return Catalogue(tuple(collections))


def _builtin(settings: Settings) -> tuple[Collection, ...]:
    recipes = Collection(
        name="recipes",
        id_field="recipe_id",
        id_type="int64",
        modality="text",
        dim=384,
        metric="l2",
        model=settings.text_model or PRODUCTION_TEXT_MODEL,
        text_template="{title}: {description}. 재료: {ingredients}",
    )
    products = Collection(
        name="products",
        id_field="product_id",
        id_type="string",
        modality="image",
        dim=settings.embed_dim,
        metric="l2",
        model=_image_model(settings),
    )
    return recipes, products


def _image_model(settings: Settings) -> str:
    if settings.enable_clip is not None:
        return CLIP_MODEL if settings.enable_clip else PLACEHOLDER_MODEL
    return settings.image_model or BUILTIN_IMAGE_MODEL


def _with_model(collection: Collection, settings: Settings) -> Collection:
    """A model that the file leaves open is the settings' choice for the modality."""
    if collection.model:
        return collection
    chosen = _image_model(settings) if collection.modality == "image" else settings.text_model
    return replace(collection, model=chosen or PRODUCTION_TEXT_MODEL)


def _read_tables(settings: Settings) -> dict[str, dict[str, Any]]:
    file = settings.collections_file
    assert file is not None
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadConfiguration([f"COLLECTIONS_FILE {file} can't be read: {exc.strerror}"]) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise BadConfiguration([f"COLLECTIONS_FILE {file} is not TOML: {exc}"]) from exc
    mistakes = [f"{file}: {_unknown(key, ['collections'])}" for key in document if key != "collections"]
    tables = document.get("collections", {})
    if (
        not isinstance(tables, dict)
        or not tables
        or not all(isinstance(each, dict) for each in tables.values())
    ):
        mistakes.append(f"{file}: needs at least one [collections.NAME] table")
    if mistakes:
        raise BadConfiguration(mistakes)
    return cast("dict[str, dict[str, Any]]", tables)


def _mistakes_of(name: str, table: Mapping[str, Any]) -> list[str]:
    mistakes = []
    if not _NAME.fullmatch(name):
        mistakes.append("a name has 1 to 64 of a-z, 0-9, _ and -, and starts with a letter")
    kinds: Mapping[str, type] = {
        "id_field": str,
        "id_type": str,
        "modality": str,
        "dim": int,
        "metric": str,
        "model": str,
        "text_template": str,
        "keep_content": bool,
        "default": bool,
        "source": dict,
        "gates": dict,
        "lexical": list,
        "mode": str,
        "synonyms": str,
        "confidence": str,
        "good_match_min": float,
        "active_from": str,
        "active_until": str,
        "utc_offset": str,
    }
    for key, value in table.items():
        if key not in kinds:
            mistakes.append(_unknown(key, kinds))
        elif type(value) is not kinds[key]:
            mistakes.append(f"{key} must be a {kinds[key].__name__}")
        elif key in _ALLOWED and value not in _ALLOWED[key]:
            mistakes.append(f"{key} must be one of {', '.join(_ALLOWED[key])}, got {value!r}")
    id_field, dim = table.get("id_field", "id"), table.get("dim", 1)
    if isinstance(id_field, str) and (not _FIELD.fullmatch(id_field) or id_field in _RESERVED_FIELDS):
        mistakes.append(f"id_field {id_field!r} is not a usable field name")
    if type(dim) is int and not 1 <= dim <= DIM_MAX:
        mistakes.append(f"dim must be 1 to {DIM_MAX}, got {dim}")
    if type(good := table.get("good_match_min", 0.5)) is float and not 0 <= good <= 1:
        mistakes.append(f"good_match_min must be 0 to 1, got {good}")
    if isinstance(gates := table.get("gates", {}), dict):
        mistakes.extend(_mistakes_of_gates(gates))
    if isinstance(lexical := table.get("lexical", []), list):
        mistakes.extend(_mistakes_of_words(lexical, table.get("mode", "dense")))
    mistakes.extend(_mistakes_of_lifetime(table))
    return mistakes


def _mistakes_of_lifetime(table: Mapping[str, Any]) -> list[str]:
    mistakes = [
        f"{key} must name a key of the metadata"
        for key in ("active_from", "active_until")
        if table.get(key) == ""
    ]
    keys = [table[key] for key in ("active_from", "active_until") if key in table]
    if len(keys) == 2 and keys[0] == keys[1]:
        mistakes.append("active_from and active_until must be two keys")
    offset = table.get("utc_offset", "Z")
    if isinstance(offset, str) and utc_offset_of(offset) is None:
        mistakes.append(f"utc_offset must be like +09:00, got {offset!r}")
    if "utc_offset" in table and not keys:
        mistakes.append("utc_offset needs active_from or active_until: the keys of the metadata it is for")
    return mistakes


def _synonyms_of(table: Mapping[str, Any], settings: Settings) -> tuple[Synonyms | None, list[str]]:
    """The rules that a collection names, and what is wrong with them."""
    if isinstance(table.get("synonyms"), str) and not table.get("lexical"):
        return None, ["synonyms need lexical: the keys of the metadata whose words are searched"]
    return _read_named(table.get("synonyms"), read_synonyms, settings)


def _read_named(
    reference: object, read: Callable[[str, Path | None], T], settings: Settings
) -> tuple[T | None, list[str]]:
    """What the file holds that a collection names, and what is wrong with it; nothing where it names none."""
    if not isinstance(reference, str):
        return None, []
    try:
        return read(reference, settings.collections_file), []
    except BadConfiguration as exc:
        return None, list(exc.mistakes)


def _mistakes_of_words(lexical: Sequence[object], mode: object) -> list[str]:
    mistakes = []
    if len(lexical) > LEXICAL_FIELDS_MAX or not all(isinstance(each, str) and each for each in lexical):
        mistakes.append(f"lexical must hold 1 to {LEXICAL_FIELDS_MAX} keys of the metadata")
    if mode in ("lexical", "hybrid") and not lexical:
        mistakes.append(f"mode {mode!r} needs lexical: the keys of the metadata whose words are searched")
    return mistakes


def _mistakes_of_gates(gates: Mapping[str, object]) -> list[str]:
    known = [each.name for each in fields(Gates)]
    mistakes = [f"gates: {_unknown(key, known)}" for key in gates if key not in known]
    for key in set(known).intersection(gates):
        value = gates[key]
        if key == "zero_results_max":
            if type(value) is not int or value < 0:
                mistakes.append(f"gates: {key} must be a whole number from 0")
        elif type(value) not in (int, float) or not 0 <= cast("float", value) <= 1:
            mistakes.append(f"gates: {key} must be a number from 0 to 1")
    return sorted(mistakes)


def _unknown(key: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    return f"unknown key {key!r}; " + (
        f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
    )


def _clashes(collections: Sequence[Collection]) -> list[str]:
    mistakes = []
    for modality in ("text", "image"):
        if sum(each.default for each in collections if each.modality == modality) > 1:
            mistakes.append(f"only one {modality} collection may be the default")
    return mistakes
