"""`python -m index_store`: what each command says and leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from index_store.__main__ import main
from index_store.embedded.check import check
from tests.sealing import assert_same, base_of, filled, opened, snapshots_of, until

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


def test_maintain_seals_and_stops_when_asked_or_alone(tmp_path: Path) -> None:
    filled(tmp_path, rows=5000)
    command = [sys.executable, "-m", "index_store", "maintain", str(tmp_path)]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    index = opened(tmp_path)
    until(lambda: base_of(index) != "", 60)
    child.send_signal(signal.SIGTERM)
    _, lines = child.communicate(timeout=60)
    assert child.returncode == 0
    assert "snapshot_published" in [json.loads(line)["event"] for line in lines.splitlines()]
    assert len(snapshots_of(tmp_path)) == 1
    index.close()
    orphan = subprocess.run([*command, "--parent", "1"], cwd=ROOT, timeout=60, check=False)
    assert orphan.returncode == 0  # its parent is another: it ends at once
    assert check(tmp_path) == []
