"""The audit log: files shared by processes, turned over within bounds; a disk that takes nothing."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service.http.audit import RequestAudit, Work
from service.http.auth import Role
from service.observing.audit_log import AuditFiles, AuditLog
from service.observing.request_log import RequestLine
from tests.waiting import until

NOW = datetime(2026, 11, 28, 9, tzinfo=UTC)
WRITER = """
import sys
from pathlib import Path
from service.observing.audit_log import AuditFiles
files = AuditFiles(Path(sys.argv[1]), bytes_max=4000, files=1000)
for number in range(200):
    files.add_lines(b'{"by":"%s","n":%d}\\n' % (sys.argv[2].encode(), number))
"""


def lines_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in directory.iterdir() for line in path.read_text().splitlines()]


def test_two_processes_lose_and_mix_no_line_while_files_are_turned_over(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in ("one", "two")
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    found = {(line["by"], line["n"]) for line in lines_of(tmp_path)}
    assert found == {(name, number) for name in ("one", "two") for number in range(200)}
    assert len(lines_of(tmp_path)) == 400
    assert len(list(tmp_path.iterdir())) > 2
    assert all(path.stat().st_size <= 4000 for path in tmp_path.iterdir())


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_only_so_many_files_are_kept_and_read_newest_first(tmp_path: Path, kept: int) -> None:
    files = AuditFiles(tmp_path, bytes_max=1000, files=kept)
    for number in range(400):
        files.add_lines(b'{"n":%d,"filler":"%s"}\n' % (number, b"x" * 70))
    assert len(list(tmp_path.iterdir())) == kept
    numbers = [entry["n"] for entry in files.last_entries(1000)]
    assert numbers == list(range(399, 399 - len(numbers), -1)) and len(numbers) >= 9 * (kept - 1) + 1
    assert [entry["n"] for entry in files.last_entries(3)] == [399, 398, 397]


def test_a_file_larger_than_a_block_is_read_from_its_end(tmp_path: Path) -> None:
    files = AuditFiles(tmp_path, bytes_max=10 << 20, files=2)
    files.add_lines(b"".join(b'{"n":%d,"filler":"%s"}\n' % (n, b"x" * (n % 300)) for n in range(2000)))
    assert [entry["n"] for entry in files.last_entries(1500)] == list(range(1999, 499, -1))
    assert len(files.last_entries(5000)) == 2000


def test_half_a_line_of_a_crash_spoils_no_other(tmp_path: Path) -> None:
    files = AuditFiles(tmp_path, bytes_max=1000, files=2)
    files.add_lines(b'{"n":1}\n')
    with (tmp_path / "audit.jsonl").open("ab") as file:
        file.write(b'{"n":2,"ha')
    files.add_lines(b'{"n":3}\n')
    assert [entry["n"] for entry in files.last_entries(10)] == [3, 1]


class FullDisk(AuditFiles):
    """Takes nothing while `is_full`."""

    is_full = False

    def add_lines(self, lines: bytes) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().add_lines(lines)


@pytest.mark.long
def test_what_a_full_disk_does_not_take_waits_and_the_gap_is_told(tmp_path: Path) -> None:
    lost: list[int] = []
    files = FullDisk(tmp_path, bytes_max=100_000, files=2)
    audit = AuditLog(files, lambda: lost.append(1), lambda: NOW, lines_max=5)
    audit.record({"n": 0})
    assert [entry["n"] for entry in audit.newest_entries(9)] == [0] and audit.state == "ok"
    files.is_full = True
    audit.record({"n": 1})
    until(lambda: audit.state == "failing")
    assert audit.fault == "No space left on device"
    for number in range(2, 9):
        audit.record({"n": number})
    files.is_full = False
    until(lambda: audit.state == "ok")
    found = [(entry.get("n"), entry.get("lost")) for entry in reversed(audit.newest_entries(20))]
    kept = [n for n, _ in found if n is not None]
    assert kept == sorted(set(kept)) and (kept[0], kept[-1]) == (0, 8)
    assert audit.lost == len(lost) == 9 - len(kept) > 0
    assert sum(count or 0 for _, count in found) == audit.lost
    assert all(entry["time"] == "2026-11-28T09:00:00.000+00:00" for entry in audit.newest_entries(20))
    audit.close()


def test_a_stop_on_a_full_disk_does_not_wait(tmp_path: Path) -> None:
    files = FullDisk(tmp_path, bytes_max=100_000, files=2)
    files.is_full = True
    audit = AuditLog(files, lambda: None, lambda: NOW)
    audit.record({"n": 1})
    until(lambda: audit.state == "failing")
    audit.close()
    assert audit.lost == 0 and not list(tmp_path.iterdir())


def test_without_files_nothing_is_kept() -> None:
    audit = AuditLog(None, lambda: None, lambda: NOW)
    audit.record({"n": 1})
    assert (audit.state, audit.is_off, audit.newest_entries(5)) == ("off", True, [])
    audit.close()


def test_refused_callers_push_out_no_record(tmp_path: Path) -> None:
    now = [0.0]
    log = AuditLog(AuditFiles(tmp_path, bytes_max=1 << 20, files=2), lambda: None, lambda: NOW)
    audit = RequestAudit(log, lambda: now[0])

    def ask(status: int, role: Role = Role.WRITE, method: str = "POST") -> None:
        caller = "" if status == 403 else "key feeder"
        line = RequestLine(b"id", method, "/v1/delete", status, 0.1, "10.0.0.7", "", "")
        audit.record_request(line, caller, role, Work("recipes"))

    for _ in range(100):
        ask(403)
    ask(200)
    ask(200, Role.SEARCH)
    ask(200, method="GET")
    now[0] = 61.0
    ask(403)
    found = log.newest_entries(1000)
    assert [entry["status"] for entry in found] == [403, 200, *[403] * 60]
    assert [entry.get("unrecorded_refusals") for entry in found[:3]] == [None, 40, None]
    assert [entry["key"] for entry in found[:2]] == [None, "feeder"]
    log.close()
