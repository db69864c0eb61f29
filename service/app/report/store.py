"""Reports as files below DATA_DIR/reports: every worker, and a restart, can give them."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path

import msgspec

from service.app.report.result import FORMAT_VERSION, Report

log = logging.getLogger(__name__)


class ReportStore:
    """One file for each generation that was compared with the current one of its time; the newest report
    takes the place of the one before. Blocking; safe from any thread and process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._decoder = msgspec.json.Decoder(Report)

    def save_report(self, report: Report, generations: Collection[str]) -> None:
        """Put the report on disk; remove those of other generations than `generations`. Raises OSError."""
        directory = self._directory / report.collection
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{report.after.generation}.json"
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(report))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        for other in directory.glob("*.json"):
            if other.stem not in generations:
                other.unlink(missing_ok=True)

    def find_report(self, collection: str, generation: str) -> Report | None:
        """Return the report of that generation, if there is one that can be read."""
        path = self._directory / collection / f"{generation}.json"
        try:
            report = self._decoder.decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as exc:
            log.warning("report_not_read", extra={"path": str(path), "error": str(exc)})
            return None
        return report if report.format_version == FORMAT_VERSION else None
