"""Items, vectors and conditions that histories of an index are made of: few, so that they meet often."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st

from index_store.request.ranking import Boost, Decay, GroupBy, Linear, Ranking
from index_store.types import ItemDelete, ItemWrite, TextQuery, Vector

DIM = 4
OTHER_DIM = 6
"""Of some generations that follow."""
IDS = st.integers(0, 14)
VERSIONS = st.none() | st.integers(0, 6)
SHADES = st.sampled_from(["red", "blue", "green"])
TITLES = st.sampled_from(["김치 찌개", "김치", "된장찌개 (두부)", "kimchi stew", "", "두부 김치 두부"])
TEXTS = st.sampled_from(["김치찌개", "kimchi jjigae", "두부", "gu", "없다", "ㅋㅋ!"])
ASKED = st.none() | st.builds(
    TextQuery, TEXTS, st.sampled_from(["lexical", "hybrid"]), st.sampled_from([0.0, 1.0, 9.0])
)

CODES = st.none() | st.integers(-2, 3) | st.booleans() | st.sampled_from([1e12, "2026-01-02", "x", [1, 2]])
BOOSTS = st.builds(
    Boost,
    st.sampled_from([-0.5, 0.25, 1.0]),
    st.one_of(
        st.builds(Linear, st.sampled_from(["size", "nest.size"]), st.just(0.0), st.sampled_from([-2.0, 3.0])),
        st.builds(
            Decay, st.just("size"), st.just(1.5), st.just(1.0), st.sampled_from(["exp", "gauss", "linear"])
        ),
        st.builds(Decay, st.just("size"), st.just("1000d"), st.sampled_from([None, "2020-01-01"])),
        st.just({"shade": {"$in": ["red", "blue"]}}),
    ),
)
RANKINGS = st.none() | st.builds(
    Ranking,
    st.lists(BOOSTS, max_size=3),
    st.none() | st.builds(GroupBy, st.sampled_from(["shade", "size", "nest.size"]), st.integers(1, 2)),
    st.none() | st.sampled_from([0.0, 0.5]),
    st.sampled_from([0.0, 0.0, 0.3, 1.0]),
    st.sampled_from([1, 3, 5, 200]),
    st.just(1.7e9),
)


def vector_of(number: int, dim: int = DIM) -> Vector:
    """One of a few, so that equal vectors under many ids are common; shorter ones are its beginning."""
    found: Vector = np.random.default_rng(number).standard_normal(OTHER_DIM, dtype=np.float32)[:dim]
    return found


CONDITIONS = st.none() | st.builds(
    lambda shade, name: {"shade": {name: shade}}, SHADES, st.sampled_from(["$eq", "$ne"])
)
PATCHES = st.fixed_dictionaries(
    {},
    optional={"shade": st.none() | SHADES, "title": st.none() | TITLES, "size": CODES},
)


def with_merge(item: ItemWrite, patch: dict[str, Any] | None) -> ItemWrite:
    """Merged metadata now and then, in place of whole ones."""
    return item if patch is None else replace(item, metadata=None, merge=patch)


writes = st.builds(
    ItemWrite,
    id=IDS,
    vector=st.none() | st.integers(0, 9).map(partial(vector_of, dim=OTHER_DIM)),
    active=st.none() | st.booleans(),
    metadata=st.none()
    | st.fixed_dictionaries(
        {"shade": SHADES},
        optional={"title": TITLES, "size": CODES, "nest": st.fixed_dictionaries({"size": CODES})},
    ),
    source_version=VERSIONS,
    content_hash=st.none() | st.sampled_from([b"a", b"b"]),
)
items = st.builds(with_merge, writes, st.none() | PATCHES)
deletes = st.builds(ItemDelete, id=IDS, source_version=VERSIONS)
