"""`python -m index_store`: what each command says and leaves behind."""

from __future__ import annotations

import fcntl
import json
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from index_store.__main__ import main
from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.check import check
from index_store.maintenance.policy import MaintenanceLimits
from index_store.maintenance.worker import MAINTENANCE_LOCK, Maintenance
from index_store.types import CollectionSpec, ItemWrite, WriteBatch
from tests.sealing import SEED, assert_same, base_of, filled, opened, snapshots_of
from tests.waiting import until

pytestmark = pytest.mark.slow  # `make test` runs these; a check before each commit must be quick

ROOT = Path(__file__).resolve().parents[2]


def test_check_stats_rebuild_backup_restore(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = filled(tmp_path / "data")
    assert main(["check", str(tmp_path / "nothing")]) == 2
    assert main(["rebuild", str(tmp_path / "data")]) == 0
    assert main(["check", str(tmp_path / "data")]) == 0
    capsys.readouterr()
    assert main(["stats", str(tmp_path / "data")]) == 0
    numbers = json.loads(capsys.readouterr().out)["numbers"]["current"]
    assert (numbers["items"], numbers["seq"]) == (300, 300)
    assert numbers["snapshot"]["seq"] == 300 and numbers["snapshot"]["segments"] == [300]
    assert main(["backup", str(tmp_path / "data"), str(tmp_path / "copy")]) == 0
    assert main(["restore", str(tmp_path / "copy"), str(tmp_path / "data")]) == 1
    assert main(["restore", str(tmp_path / "copy"), str(tmp_path / "again")]) == 0
    index = opened(tmp_path / "again")
    assert_same(index, reference, "names", 1)
    index.close()
    store = tmp_path / "again" / "collections" / "names" / "g000001" / "store.sqlite"
    store.write_bytes(store.read_bytes()[:20_000])
    assert main(["check", str(tmp_path / "again")]) == 1


@pytest.mark.parametrize("command", ["check", "stats", "maintain", "rebuild", "backup", "restore", "repoint"])
def test_the_address_of_a_database_is_refused_and_not_repeated(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "postgresql://shop:hunter2@db/vectors", "more"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "looks after a data directory" in told and "hunter2" not in told


def test_maintain_seals_and_stops_when_asked_or_alone(tmp_path: Path) -> None:
    filled(tmp_path, rows=5000)
    command = [sys.executable, "-m", "index_store", "maintain", str(tmp_path)]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    index = opened(tmp_path)
    until(lambda: base_of(index) != "")
    child.send_signal(signal.SIGTERM)
    _, lines = child.communicate(timeout=60)
    assert child.returncode == 0
    assert "snapshot_published" in [json.loads(line)["event"] for line in lines.splitlines()]
    assert len(snapshots_of(tmp_path)) == 1
    index.close()
    orphan = subprocess.run([*command, "--parent", "1"], cwd=ROOT, timeout=60, check=False)
    assert orphan.returncode == 0  # its parent is another: it ends at once
    assert check(tmp_path) == []


def test_maintain_leaves_a_graph_that_it_builds(tmp_path: Path) -> None:
    """FAISS takes 52,000 rows in one call of some ten seconds; the next process sweeps what is left."""
    spec = CollectionSpec("things", "int64", 64, "l2")
    index = EmbeddedIndex(tmp_path, [spec])
    index.open()
    index.advance("things", "begin", "v1")
    data = np.random.default_rng(SEED).standard_normal((52_000, 64)).astype(np.float32)
    for start in range(0, len(data), 4000):
        items = [ItemWrite(start + n, vector) for n, vector in enumerate(data[start : start + 4000])]
        index.write("things", WriteBatch(items, (), "v1"))
    index.close()
    segments = tmp_path / "collections" / "things" / "g000001" / "segments"

    def is_building() -> bool:
        return any(path.stat().st_size == data.nbytes for path in segments.glob("*.tmp-*/vectors.f32"))

    command = [sys.executable, "-m", "index_store", "maintain", str(tmp_path)]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    until(is_building)
    threading.Event().wait(2.0)
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 0
    # It did not wait for the call's end: what it had begun is there as it was, and no segment is.
    assert list(segments.glob("*.tmp-*")) and not [
        path for path in segments.iterdir() if "tmp-" not in path.name
    ]
    assert Maintenance(tmp_path, limits=MaintenanceLimits(seal_rows=10**9)).run_once()
    assert list(segments.iterdir()) == []


def test_a_backup_is_checked_where_it_lies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path / "data")
    backup = tmp_path / "copy"
    assert main(["backup", str(tmp_path / "data"), str(backup)]) == 0
    before = {path.name: path.read_bytes() for path in backup.iterdir()}
    for path in (*backup.iterdir(), backup):
        path.chmod(0o555 if path.is_dir() else 0o444)
    capsys.readouterr()
    assert main(["check", str(backup)]) == 0
    assert capsys.readouterr().out == "sound\n"
    backup.chmod(0o755)
    assert {path.name: path.read_bytes() for path in backup.iterdir()} == before
    for name in before:
        damaged = bytearray(before[name])
        damaged[len(damaged) // 2] ^= 1
        (backup / name).chmod(0o644)
        (backup / name).write_bytes(damaged)
        assert main(["check", str(backup)]) == 1, name
        assert name in capsys.readouterr().out
        (backup / name).write_bytes(before[name])
    (backup / "more").touch()
    assert main(["check", str(backup)]) == 1


def test_a_backup_of_a_damaged_store_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Checksums of files hold, a row in them does not."""
    filled(tmp_path / "data")
    store = tmp_path / "data" / "collections" / "names" / "g000001" / "store.sqlite"
    connection = sqlite3.connect(store)
    connection.execute("UPDATE item SET crc=crc+1 WHERE seq=7")
    connection.commit()
    connection.close()
    assert main(["backup", str(tmp_path / "data"), str(tmp_path / "copy")]) == 0
    capsys.readouterr()
    assert main(["check", str(tmp_path / "copy")]) == 1
    told = capsys.readouterr().out
    assert "names.g000001.sqlite" in told and "fails its checksum" in told
    assert {path.suffix for path in (tmp_path / "copy").iterdir()} == {".json", ".sqlite"}


def is_held(lock: Path) -> bool:
    """Whether another process holds it."""
    if not lock.exists():
        return False
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_rebuild_asks_who_maintains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path)
    command = [sys.executable, "-m", "index_store", "maintain", str(tmp_path)]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    try:
        until(lambda: is_held(tmp_path / MAINTENANCE_LOCK))
        before = [path.name for path in snapshots_of(tmp_path)]
        capsys.readouterr()
        assert main(["rebuild", str(tmp_path)]) == 0
        told = capsys.readouterr()
        assert told.out == "rebuilt\n" and "asked the process that maintains" in told.err
        after = [path.name for path in snapshots_of(tmp_path)]
        assert after and after != before
        assert child.poll() is None, "it goes on maintaining"
    finally:
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=60)
    assert not (tmp_path / "rebuild.request").exists()
    assert check(tmp_path) == []


def test_rebuild_does_the_work_itself_when_who_maintained_has_gone(tmp_path: Path) -> None:
    filled(tmp_path)
    holder = Maintenance(tmp_path)
    asking = threading.Thread(target=main, args=(["rebuild", str(tmp_path)],))
    with holder._elected() as is_elected:
        assert is_elected()
        asking.start()
        until(lambda: (tmp_path / "rebuild.request").exists())
    asking.join(60)
    assert not asking.is_alive() and len(snapshots_of(tmp_path)) == 1
    assert not (tmp_path / "rebuild.request").exists()


def test_rebuild_tells_what_went_wrong_and_does_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tmp_path)
    for name in ("generations.json", "generations.backup.json"):
        (tmp_path / "collections" / "names" / name).unlink()
    assert main(["rebuild", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "names/generations.json" in told.err and told.out == "1 problems\n"
    assert len(snapshots_of(tmp_path, "numbers")) == 1


def test_what_commands_write_is_for_owner_and_group(tmp_path: Path) -> None:
    filled(tmp_path / "data")
    for command in (["backup", "data", "copy"], ["restore", "copy", "again"], ["rebuild", "again"]):
        paths = [str(tmp_path / name) for name in command[1:]]
        line = [
            "sh",
            "-c",
            'umask 000; exec "$@"',
            "sh",
            sys.executable,
            "-m",
            "index_store",
            command[0],
            *paths,
        ]
        subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
    for path in [*(tmp_path / "copy").rglob("*"), *(tmp_path / "again").rglob("*")]:
        assert path.stat().st_mode & 0o027 == 0, path
