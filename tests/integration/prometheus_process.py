"""A real Prometheus over what a test serves, with our rules; skipped where none is installed."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.processes import free_port
from tests.integration.service_process import ROOT
from tests.prometheus_programs import PROMETHEUS
from tests.waiting import PATIENCE_S, until

_START_S_MAX = PATIENCE_S


class Prometheus:
    """Scrapes twice a second. Alerts fire at once: how long each waits is tested in alerts_test.yml."""

    def __init__(self, folder: Path, targets: Mapping[str, int], rates_over: str = "5m") -> None:
        """targets: ports by job. rates_over: the time that rules look back where they say `[5m]`; what is
        over is over that much later."""
        self._folder = folder
        self._port = free_port()
        rules = (ROOT / "deploy/prometheus/alerts.yml").read_text("utf-8")
        rules = re.sub(r"\bfor: \w+", "for: 0s", rules).replace("[5m]", f"[{rates_over}]")
        (folder / "alerts.yml").write_text(rules, "utf-8")
        jobs = [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
            for job, port in targets.items()
        ]
        every = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
        config = {"global": every, "rule_files": ["alerts.yml"], "scrape_configs": jobs}
        (folder / "prometheus.yml").write_text(json.dumps(config), "utf-8")  # JSON is YAML

    def start(self) -> Prometheus:
        assert PROMETHEUS is not None
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    PROMETHEUS,
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdout=log,
                stderr=log,
            )
        give_up = time.monotonic() + _START_S_MAX
        while time.monotonic() < give_up:
            assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()
            try:
                self._ask("status/runtimeinfo")
                return self
            except OSError:
                time.sleep(0.1)
        raise AssertionError("Prometheus does not answer")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query. Raises HTTPError for an expression that is none."""
        found: list[dict[str, Any]] = self._ask("query", query=expression)["result"]
        return found

    def firing(self) -> set[tuple[str, str]]:
        """(alert, collection or reason) of all that fire."""
        return {
            (each["labels"]["alertname"], each["labels"].get("collection", each["labels"].get("reason", "")))
            for each in self._ask("alerts")["alerts"]
            if each["state"] == "firing"
        }

    def _ask(self, what: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]


def until_firing(prometheus: Prometheus, alert: str, about: str = "", *, fires: bool = True) -> None:
    """Wait until an alert fires, or does not any more."""
    until(lambda: ((alert, about) in prometheus.firing()) == fires, f"{alert} {about} {fires}")
