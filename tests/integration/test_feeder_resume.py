"""An import that is killed, or whose service or database goes away, ends equal to its source."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tests.integration.databases import PostgresServer
from tests.integration.feeding import Shop, as_text, expected_root, feeder_process, insert, run_until
from vector_client.types import Query

KILLS = int(os.environ.get("FEEDER_KILLS", "5"))
PAGE_ROWS = 100


def fill(shop: Shop, rows: int, seed: int) -> dict[int, npt.NDArray[np.float32]]:
    """Unit vectors under random ids, a tenth of the rows under an id that came before; what must be stored
    comes back."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((rows, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    ids = rng.integers(1, 2**62, rows)
    repeats = np.flatnonzero(rng.random(rows) < 0.1)
    ids[repeats] = ids[rng.integers(0, rows, len(repeats))]
    shop.db.execute(
        'CREATE TABLE "RECIPE_VECTOR_TABLE" ("VECTOR_ID" serial PRIMARY KEY, "RECIPE_ID" bigint,'
        ' "VECTOR_NAME" vector(384))'
    )
    pairs = ((int(i), as_text(v)) for i, v in zip(ids, vectors, strict=True))
    insert(shop.db, '"RECIPE_VECTOR_TABLE"', '"RECIPE_ID", "VECTOR_NAME"', pairs)
    shop.maria("CREATE TABLE FCT_RECIPE (RECIPE_ID bigint PRIMARY KEY, COOKING_NAME varchar(200))")
    shop.maria("INSERT INTO FCT_RECIPE VALUES (%s, %s)", [(int(i), "요리") for i in np.unique(ids)])
    return {int(i): v for i, v in zip(ids, vectors, strict=True)}


def pages_done(shop: Shop) -> int:
    cursor = shop.service.client.status()["recipes"].cursors.get("import")
    return json.loads(cursor)["rows"] // PAGE_ROWS if cursor else 0


def test_killed_at_random_pages_it_ends_equal_to_the_source(
    shop: Shop, outcome: Callable[[str], None]
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}, {KILLS} kills")
    dice = random.Random(seed)
    rows = (KILLS + 4) * 4 * PAGE_ROWS
    expected = fill(shop, rows, seed)
    version = shop.service.version("recipes")
    command = ["import", "recipes", "--trust-vectors", "--embedding-version", version]
    environ = shop.environ | {"FEEDER_PAGE_ROWS": str(PAGE_ROWS), "BATCH_SIZE": "30", "FEEDER_RETRIES": "0"}
    reached = 0
    for round_ in range(KILLS):
        target = reached + dice.randrange(1, 4)
        with feeder_process(environ, *command) as feeder:
            run_until(feeder, lambda target=target: pages_done(shop) >= target)  # type: ignore[misc]
            feeder.send_signal(signal.SIGCONT)
            if round_ % 4 == 3:  # the service dies under a running feeder
                shop.service.process.kill()
                _, errors = feeder.communicate(timeout=60)
                assert feeder.returncode == 4, errors
                shop.service.process.start()
            else:
                time.sleep(dice.random() * 0.01)
                feeder.kill()
        done = pages_done(shop)
        assert done >= target, "what the service acknowledged stays"
        reached = done
    last = shop.feed(*command, FEEDER_PAGE_ROWS=str(PAGE_ROWS))
    assert last.code == 0
    assert "resumed behind key" in last.output
    assert last.count("stored") + last.count("duplicates") >= rows
    is_equal = shop.root("recipes") == expected_root(((i, True, v) for i, v in expected.items()), version)
    what = f"import: {KILLS} kills at random pages, {rows} rows, {len(expected)} ids"
    outcome(f"{what}: {'equal' if is_equal else 'UNEQUAL'}, seed {seed}")
    assert is_equal
    once = shop.feed(*command, "--once")
    assert once.code == 0 and "before" in once.output and "stored" not in once.output
    again = shop.feed(*command)
    assert again.code == 0
    assert "resumed" not in again.output, "a finished import begins at the first page again"
    assert shop.root("recipes") == expected_root(((i, True, v) for i, v in expected.items()), version)


def test_a_table_made_anew_is_not_resumed_in_its_middle(shop: Shop) -> None:
    first = fill(shop, 500, seed=21)
    version = shop.service.version("recipes")
    command = ["import", "recipes", "--trust-vectors", "--embedding-version", version]
    environ = shop.environ | {"FEEDER_PAGE_ROWS": str(PAGE_ROWS)}
    with feeder_process(environ, *command) as feeder:
        while pages_done(shop) < 1:
            assert feeder.poll() is None or pages_done(shop) >= 1
        feeder.kill()
    shop.db.execute('DROP TABLE "RECIPE_VECTOR_TABLE"')
    shop.maria("DROP TABLE FCT_RECIPE")
    second = fill(shop, 500, seed=22)
    shop.maria("INSERT IGNORE INTO FCT_RECIPE VALUES (%s, '옛날')", [(i,) for i in first])
    done = shop.feed(*command)
    assert done.code == 0
    assert "resumed" not in done.output
    cursor = json.loads(shop.service.client.status()["recipes"].cursors["import"])
    assert (cursor["rows"], cursor["done"]) == (500, True), "every page of the new table was read"
    probe = next(iter(second))
    found = shop.service.client.search(Query(vector=second[probe].tobytes(), k=1, collection="recipes"))
    assert (found.hits[0].id, found.hits[0].distance) == (probe, 0.0)


def test_a_database_that_stops_answering_is_given_up(shop: Shop, postgres: PostgresServer) -> None:
    """A frozen server keeps its connections open and answers nothing: the half-open link."""
    expected = fill(shop, 3000, seed=23)
    version = shop.service.version("recipes")
    command = ["import", "recipes", "--trust-vectors", "--embedding-version", version]
    environ = shop.environ | {"FEEDER_PAGE_ROWS": "20", "FEEDER_RETRIES": "1", "FEEDER_SOURCE_TIMEOUT_S": "1"}
    with feeder_process(environ, *command) as feeder:
        run_until(feeder, lambda: pages_done(shop) >= 1)
        postgres.send(signal.SIGSTOP)
        feeder.send_signal(signal.SIGCONT)
        began = time.monotonic()
        try:
            _, errors = feeder.communicate(timeout=60)
        finally:
            postgres.send(signal.SIGCONT)
    assert feeder.returncode == 3, errors
    assert time.monotonic() - began < 35
    done = shop.feed(*command)
    assert done.code == 0
    assert "resumed behind key" in done.output
    assert shop.root("recipes") == expected_root(((i, True, v) for i, v in expected.items()), version)
