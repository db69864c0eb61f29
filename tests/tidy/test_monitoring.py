"""Alert rules and dashboard name only what is exposed; every alert has its section and its test."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from service.observing.metrics import REFUSAL_REASONS
from tests.metrics_document import documented
from tests.prometheus_programs import PROMTOOL, needs_prometheus
from tests.tidy.source import ROOT, python_files, read

RULES = "deploy/prometheus/alerts.yml"
RULE_TESTS = "deploy/prometheus/alerts_test.yml"
DASHBOARD = "deploy/grafana/uhok.json"
COMPOSE = "docker-compose.yml"
SCRAPED = {"up"}
"""What Prometheus itself adds."""


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(read(RULES))["groups"] for rule in group["rules"]]


def exposed() -> set[str]:
    """Every series name, histograms with what they are made of."""
    names = set(SCRAPED)
    for program in ("service", "feeder"):
        for name, row in documented(program).items():
            ends = ("_bucket", "_sum", "_count") if row.kind == "histogram" else ("",)
            names.update(name + end for end in ends)
    return names


def names_in(expression: str) -> set[str]:
    """The series that an expression reads."""
    without_texts = re.sub(r'"[^"]*"', '""', expression)
    without_labels = re.sub(r"\b(by|without|on|ignoring|group_left)\s*\([^)]*\)|\{[^}]*\}", "", without_texts)
    return set(re.findall(r"\b(?:uhok|feeder|process)_\w+|\bup\b", without_labels))


def labels_in(expression: str) -> Iterator[tuple[str, set[str]]]:
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", expression):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) - {"job", "instance", "le"}


def labels_of(name: str) -> set[str]:
    rows = documented("service") | documented("feeder")
    row = rows.get(name) or rows.get(re.sub(r"_(bucket|sum|count)$", "", name))
    return set(row.labels) if row else set()


def anchors(document: str) -> set[str]:
    """The anchors that a reader's browser is led to."""
    heads = re.findall(r"^#+ (.+)$", read(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_names_in_an_expression_are_found() -> None:
    found = names_in('sum by (reason) (rate(uhok_refusals_total{reason="up"}[5m])) / on () up > feeder_equal')
    assert found == {"uhok_refusals_total", "up", "feeder_equal"}
    assert dict(labels_in('a{b="c",d!~"e"}')) == {"a": {"b", "d"}}


def test_alerts_read_only_what_is_exposed() -> None:
    known = exposed()
    for rule in alerts():
        found = names_in(rule["expr"])
        assert found and found <= known, (rule["alert"], found - known)
        for name, labels in labels_in(rule["expr"]):
            assert labels <= labels_of(name), (rule["alert"], name, labels)


def test_every_alert_has_a_section_that_says_what_to_do() -> None:
    text = read("docs/OPERATIONS.md")
    for rule in alerts():
        document, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert anchor == rule["alert"].lower() and anchor in anchors(document), rule["alert"]
        section = text.partition(f"\n### {rule['alert']}\n")[2].partition("\n### ")[0]
        parts = re.findall(r"^(Means|Look at|Do): ", section, re.MULTILINE)
        assert parts == ["Means", "Look at", "Do"], rule["alert"]
    sections = re.findall(r"^### ((?:Uhok|Feeder)\w+)$", text, re.MULTILINE)
    assert sorted(sections) == sorted(rule["alert"] for rule in alerts())


def test_every_alert_has_a_test_over_exposed_series() -> None:
    known = exposed()
    tests = yaml.safe_load(read(RULE_TESTS))["tests"]
    assert sorted(each["name"] for each in tests) == sorted(rule["alert"] for rule in alerts())
    for each in tests:
        for series in each["input_series"]:
            name = series["series"].partition("{")[0]
            assert name in known, (each["name"], name)
        fired = [one for one in each["alert_rule_test"] if one["exp_alerts"]]
        assert fired and all(one["alertname"] == each["name"] for one in each["alert_rule_test"])


@pytest.mark.long
@needs_prometheus
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", RULES),
        ("check", "config", "--syntax-only", "deploy/prometheus/prometheus.yml"),
        ("test", "rules", RULE_TESTS),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_observe_profile_scrapes_service_and_feeder_and_shows_nothing_outside() -> None:
    services = yaml.safe_load(read(COMPOSE))["services"]
    observing = {name for name, service in services.items() if "observe" in service.get("profiles", ())}
    assert observing == {"prometheus"}
    config = yaml.safe_load(read("deploy/prometheus/prometheus.yml"))
    targets = {
        job["job_name"]: target
        for job in config["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    }
    assert targets["uhok"] == f"uhok-ml-inference:{services['uhok-ml-inference']['environment']['PORT']}"
    feeder = services["feeder"]["environment"]
    assert targets["uhok-feeder"] == f"feeder:{feeder['FEEDER_METRICS_PORT']}"
    assert feeder["FEEDER_METRICS_HOST"] == "0.0.0.0" and "ports" not in services["feeder"]
    assert all(port.startswith("127.0.0.1:") for port in services["prometheus"]["ports"])
    (scraped,) = [job for job in config["scrape_configs"] if job["job_name"] == "uhok"]
    (secret,) = services["prometheus"]["secrets"]
    assert scraped["authorization"]["credentials_file"] == f"/run/secrets/{secret}"


def test_each_reason_of_a_refusal_counts_from_nothing_and_is_listed() -> None:
    """An increase from no series is none to Prometheus."""
    source = "".join(read(file.path) for file in python_files() if file.path.startswith("service/"))
    given = set(re.findall(r'\b(?:reason|busy)="([a-z-]+)"', source))
    assert given and given <= set(REFUSAL_REASONS)
    assert all(f"`{reason}`" in read("docs/METRICS.md") for reason in REFUSAL_REASONS)


def test_panels_read_only_what_is_exposed() -> None:
    board = json.loads(read(DASHBOARD))
    known = exposed()
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert len({panel["title"] for panel in panels}) == len(panels) > 10
    for panel in panels:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            found = names_in(target["expr"])
            assert found and found <= known, (panel["title"], found - known)
            for name, labels in labels_in(target["expr"]):
                assert labels <= labels_of(name), (panel["title"], name, labels)
