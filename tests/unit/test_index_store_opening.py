"""Each collection is opened by itself: what is wrong with one is told of that one, and the others serve."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.errors import StoreDamaged, StoreUnavailable
from index_store.maintenance.check import check
from index_store.storage.schema import STORE_FILE
from index_store.types import CollectionSpec, SearchRequest
from tests.sealing import SPECS, base_of, filled, opened, sealed, vectors

NUMBERS, NAMES = SPECS


def found(index: EmbeddedIndex, collection: str) -> int:
    return len(index.search(collection, [SearchRequest(vectors(1)[0], 500)])[0].hits)


def store_of(data_dir: Path, collection: str) -> Path:
    return data_dir / "collections" / collection / "g000001" / STORE_FILE


def test_a_damaged_store_leaves_the_others_served_and_is_opened_once_whole(
    tmp_path: Path,
) -> None:
    filled(tmp_path)
    store = store_of(tmp_path, "numbers")
    sound = store.read_bytes()
    store.write_bytes(b"x" * 5000)
    index = EmbeddedIndex(tmp_path, SPECS)
    failures = index.open()
    assert list(failures) == ["numbers"] and isinstance(failures["numbers"], StoreDamaged)
    for _ in range(2):
        with pytest.raises(StoreDamaged, match=str(store)) as caught:
            index.search("numbers", [SearchRequest(vectors(1)[0], 5)])
        assert caught.value.hint == f"python -m index_store check {tmp_path}"
    with pytest.raises(StoreDamaged):
        index.status("numbers")
    assert found(index, "names") == 300
    store.write_bytes(sound)
    assert index.open() == {}
    assert found(index, "numbers") == 300
    index.close()
    assert check(tmp_path) == []


@pytest.mark.parametrize(
    ("changed", "setting"),
    [
        (replace(NUMBERS, dim=NUMBERS.dim + 1), "dim"),
        (replace(NUMBERS, metric="ip"), "metric"),
        (replace(NUMBERS, id_kind="string"), "id_type"),
    ],
)
def test_another_shape_is_refused_by_name_and_harms_nothing(
    tmp_path: Path, changed: CollectionSpec, setting: str
) -> None:
    filled(tmp_path)
    before = sorted(path.name for path in (tmp_path / "collections" / "numbers").iterdir())
    index = EmbeddedIndex(tmp_path, [changed, NAMES])
    failures = index.open()
    assert list(failures) == ["numbers"] and isinstance(failures["numbers"], StoreUnavailable)
    assert str(store_of(tmp_path, "numbers")) in str(failures["numbers"])
    assert failures["numbers"].hint.startswith(f"set {setting} of collection 'numbers' back to ")
    with pytest.raises(StoreUnavailable, match=setting):
        index.status("numbers")
    assert found(index, "names") == 300
    index.close()
    assert sorted(path.name for path in (tmp_path / "collections" / "numbers").iterdir()) == before
    index = opened(tmp_path)
    assert found(index, "numbers") == 300
    index.close()


def test_a_directory_that_vanishes_is_no_empty_collection(tmp_path: Path) -> None:
    filled(tmp_path)
    index = opened(tmp_path)
    away = tmp_path / "away"
    (tmp_path / "collections").rename(away)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="is gone"):
            found(index, "numbers")
    away.rename(tmp_path / "collections")
    assert found(index, "numbers") == 300
    index.close()


def run_child(code: str, *arguments: object) -> str:
    """A process of its own: the limit on open files is one of the whole process."""
    head = """
        import resource, sys
        from pathlib import Path
        from tests.unit.test_index_store_opening import *
        data = Path(sys.argv[1])
        def limit(soft):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    """
    program = textwrap.dedent(head) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_too_few_files_keep_one_collection_closed_until_there_are_more(tmp_path: Path) -> None:
    filled(tmp_path)
    sealed(tmp_path)
    run_child(
        """
        import os
        used = len(os.listdir("/proc/self/fd"))
        limit(used + 30)
        index = EmbeddedIndex(data, SPECS)
        failures = index.open()
        assert list(failures) == ["names"], failures
        assert isinstance(failures["names"], StoreUnavailable), failures
        assert "ulimit -n" in failures["names"].hint
        assert found(index, "numbers") == 300
        spare = [open(os.devnull) for _ in range(8)]  # there is room left for connections
        limit(1024)
        assert index.open() == {}
        assert found(index, "names") == 300
        index.close()
        """,
        tmp_path,
    )
    assert check(tmp_path) == []


@pytest.mark.long
def test_no_file_left_is_no_damage(tmp_path: Path) -> None:
    filled(tmp_path)
    sealed(tmp_path)
    directory = store_of(tmp_path, "numbers").parent
    run_child(
        """
        import os
        from index_store.catalog.snapshots import open_newest, registered_snapshots
        from index_store.storage.schema import connect_sqlite
        owner, entries = registered_snapshots(data, connect_sqlite)
        limit(len(os.listdir("/proc/self/fd")) - 1)
        assert open_newest(data, owner, entries, {}) is None
        limit(1024)
        assert open_newest(data, owner, entries, {}) is not None
        """,
        directory,
    )
    assert not list(directory.rglob("*.bad-*"))
    index = opened(tmp_path)
    assert base_of(index) != ""
    index.close()


def test_the_generation_that_serves_is_never_set_aside_for_its_shape(tmp_path: Path) -> None:
    filled(tmp_path)
    store = store_of(tmp_path, "numbers")
    shutil.copy(store, tmp_path / "copy")
    index = EmbeddedIndex(tmp_path, [replace(NUMBERS, dim=3)])
    index.open()
    index.close()
    assert store.read_bytes() == (tmp_path / "copy").read_bytes()
