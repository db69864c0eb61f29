"""A product that was deactivated or deleted is never returned: in any order of writes of texts, rebuilds,
fills, promotions, rollbacks and retirements, by two processes on one data directory.

The seed is printed, and `--seed` replays it; `--histories N` tries more. The texts' vectors are made by
stand-ins for models, one a version, each of a dim of its own. Only what was acknowledged is known here:
who was written last as what, and who is hidden.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.check import check
from index_store.types import (
    CollectionSpec,
    Content,
    ItemDelete,
    ItemWrite,
    NewGeneration,
    SearchRequest,
    Vector,
    WriteBatch,
)

SEED = 20_261
NAME = "things"
SPEC = CollectionSpec(NAME, "int64", 4, "l2")
IDS = 8
HISTORIES, STEPS = 4, 120


def dim_of(version: str) -> int:
    return 4 + int(version[1:]) % 3


def embedded(version: str, text: str) -> Vector:
    """What the model of that version makes of a text: equal for equal texts alone."""
    number = int.from_bytes(hashlib.sha256(f"{version} {text}".encode()).digest()[:4], "big")
    found: Vector = np.random.default_rng(number).standard_normal(dim_of(version), dtype=np.float32)
    return found


class Shop:
    """texts: of every id that is not deleted, as acknowledged. hidden: inactive ones of those."""

    def __init__(self, directory: Path, chance: random.Random) -> None:
        self.directory = directory
        self.chance = chance
        self.engines = [self.opened(SPEC.dim), self.opened(SPEC.dim)]
        self.engines[0].advance(NAME, "begin", "v0", NewGeneration(dim_of("v0")))
        self.texts: dict[int, str] = {}
        self.hidden: set[int] = set()
        self.begun = 0
        self.written = 0
        self.write_texts(0, set(range(IDS - 2)), None, lags=False)

    def step(self) -> None:
        """One thing that may happen now."""
        chance, roles = self.chance, self.roles()
        which, item_id = chance.randrange(2), chance.randrange(IDS)
        some = set(chance.sample(range(IDS), chance.randint(1, 3)))
        active, overtaken = chance.choice((None, True, False)), chance.random() < 0.5
        able = [
            lambda: self.write_texts(which, some, active, lags=chance.random() < 0.5),
            lambda: self.say_active(which, item_id, chance.random() < 0.6),
            lambda: self.delete(which, item_id),
            lambda: self.start_again(which),
        ]
        if len(roles) > 1:
            able += 3 * [
                lambda: self.fill(which, chance.randrange(2), chance.randint(1, IDS), is_overtaken=overtaken)
            ]
        if "next" in roles:
            step = chance.choice(("promote", "promote", "promote", "abort"))
            able.append(lambda: self.take_step(which, step, "next"))
        else:
            able.append(lambda: self.begin(which))
        if "former" in roles:
            back = chance.choice(("rollback", "rollback", "rollback", "retire"))
            able.append(lambda: self.take_step(which, back, "former"))
        chance.choice(able)()

    def opened(self, dim: int) -> EmbeddedIndex:
        engine = EmbeddedIndex(self.directory, [replace(SPEC, dim=dim)])
        assert engine.open() == {}
        return engine

    def roles(self, which: int = 0) -> dict[str, str]:
        return {each.role: each.embedding_version for each in self.engines[which].status(NAME).generations}

    def write_texts(self, which: int, ids: set[int], active: bool | None, lags: bool) -> None:
        """lags: this process has not loaded the models of the other generations yet."""
        roles = self.roles(which)
        self.written += 1
        texts = {each: f"상품 {each} 판 {self.written}" for each in ids}
        others: dict[str, list[Vector | None]] = {}
        if not lags:
            for version in set(roles.values()) - {roles["current"]}:
                others[version] = [embedded(version, text) for text in texts.values()]
        items = [
            ItemWrite(
                each,
                embedded(roles["current"], text),
                active,
                content_hash=hashlib.sha256(text.encode()).digest(),
                content=Content("text", text.encode()),
            )
            for each, text in texts.items()
        ]
        batch = WriteBatch(items, (), roles["current"], other_vectors=others, is_for_current=True)
        self.engines[which].write(NAME, batch)
        for each in ids - self.texts.keys():
            self.hidden.discard(each)  # a new one is active unless it says otherwise
        self.texts.update(texts)
        if active is not None:
            self.hidden = self.hidden - ids if active else self.hidden | ids

    def say_active(self, which: int, item_id: int, active: bool) -> None:
        self.engines[which].write(NAME, WriteBatch([ItemWrite(item_id, active=active)]))
        if item_id in self.texts:
            self.hidden = self.hidden - {item_id} if active else self.hidden | {item_id}

    def delete(self, which: int, item_id: int) -> None:
        self.engines[which].write(NAME, WriteBatch(deletes=[ItemDelete(item_id)]))
        self.texts.pop(item_id, None)
        self.hidden.discard(item_id)

    def begin(self, which: int) -> None:
        self.begun += 1
        version = f"v{self.begun}"
        self.engines[which].advance(NAME, "begin", version, NewGeneration(dim_of(version)))

    def fill(self, reader: int, writer: int, limit: int, *, is_overtaken: bool) -> None:
        """As a rebuild does, which others may overtake: between its reading and its writing."""
        for version in self.roles(reader).values():
            waiting = self.engines[reader].awaiting(NAME, version, None, limit)
            if waiting and is_overtaken:
                self.overtake(writer, int(self.chance.choice(waiting).id))
            filled = [
                ItemWrite(
                    each.id,
                    embedded(version, each.content.data.decode()),
                    content_hash=each.content_hash,
                    content=each.content,
                    fills=each.content_hash,
                )
                for each in waiting
                if each.content is not None
            ]
            if filled and version in self.roles(writer).values():
                self.engines[writer].write(NAME, WriteBatch(filled, embedding_version=version))

    def overtake(self, which: int, item_id: int) -> None:
        how = self.chance.choice(("delete", "hide", "write"))
        if how == "delete":
            self.delete(which, item_id)
        elif how == "hide":
            self.say_active(which, item_id, False)
        else:
            self.write_texts(which, {item_id}, None, lags=True)

    def take_step(self, which: int, step: Any, role: str) -> None:
        """Also while items wait for a vector, as a forced promotion may."""
        self.engines[which].advance(NAME, step, self.roles(which)[role])

    def start_again(self, which: int) -> None:
        self.engines[which].close()
        self.engines[which] = self.opened(next(iter(self.engines[1 - which].dims_by_version(NAME).values())))

    def nothing_hidden_is_shown(self) -> None:
        shown = self.texts.keys() - self.hidden
        for engine in self.engines:
            status = engine.status(NAME)
            assert status.problem is None and status.current is not None
            version = status.current.embedding_version
            request = SearchRequest(embedded(version, "?"), 50, with_vectors=True, embedding_version=version)
            (found,) = engine.search(NAME, [request])
            ids = [hit.id for hit in found.hits]
            assert set(ids) <= shown, f"shown though hidden or deleted: {set(ids) - shown}"
            for hit in found.hits:
                assert np.array_equal(hit.vector, embedded(version, self.texts[int(hit.id)])), (
                    "of another text"
                )
            waiting = {each.id for each in engine.awaiting(NAME, version, None, 50)}
            assert shown - set(ids) <= waiting, "neither shown nor waiting for a vector"
            for generation in status.generations:
                assert generation.items == len(self.texts)

    def close(self) -> None:
        """Fill every gap: the generations are equal then."""
        for _ in range(2):
            self.fill(0, 1, IDS, is_overtaken=False)
        for engine in self.engines:
            counts = {(each.live, each.awaiting) for each in engine.status(NAME).generations}
            assert counts == {(len(self.texts.keys() - self.hidden), 0)}, "all generations hold the same"
            engine.close()


def test_what_is_hidden_stays_hidden(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    chosen = pytestconfig.getoption("--seed", default=None) or SEED
    histories = max(HISTORIES, pytestconfig.getoption("--histories", default=60) // 15)
    for number in range(histories):
        print(f"seed {chosen}, history {number}")
        directory = tmp_path / str(number)
        directory.mkdir()
        shop = Shop(directory, random.Random(chosen + number))
        for _ in range(STEPS):
            shop.step()
            shop.nothing_hidden_is_shown()
        shop.close()
        assert check(directory) == []
