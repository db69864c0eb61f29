"""Units, manifests and templates in deploy/, each read by the tool that knows its form; they fit Settings."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings
from tests.tidy.source import ROOT, read

UNITS = ("uhok.service", "uhok-feeder.service")
MANIFEST, TEMPLATE = "deploy/kubernetes/uhok.yaml", "deploy/aws/alb.yaml"
GRAFANA = "deploy/grafana/compose.yml"
KUBERNETES = ("1.30", "1.37")
"""The oldest version that is tried, and the newest whose schemas the linter has."""
EXPOSURE_MAX = "40"
"""Of 100, as `systemd-analyze security` counts what a unit may do."""
PYTHON = "/opt/uhok/.venv/bin/python"
SYSTEMD = shutil.which("systemd-analyze")

needs_systemd = pytest.mark.skipif(
    SYSTEMD is None and os.environ.get("CI") != "true",
    reason="no systemd-analyze: bash tests/setup_systemd.sh",
)


def linted(*command: str) -> subprocess.CompletedProcess[str]:
    """The outcome of a linter of this environment."""
    path = Path(sys.executable).parent / command[0]
    return subprocess.run([path, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)


def default(name: str) -> Any:
    """A setting's default."""
    return next(field.default for field in fields(Settings) if field.name == name)


def unit_for_here(folder: Path, name: str, text: str | None = None) -> Path:
    """The unit, with a program that is here: systemd-analyze looks for it."""
    path = folder / name
    path.write_text((text or read(f"deploy/systemd/{name}")).replace(PYTHON, sys.executable))
    return path


def verified(*units: Path) -> subprocess.CompletedProcess[str]:
    assert SYSTEMD is not None
    command = [SYSTEMD, "verify", "--man=no", *map(str, units)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_systemd
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    found = verified(*(unit_for_here(tmp_path, name) for name in UNITS))
    assert (found.returncode, found.stderr) == (0, "")


@needs_systemd
def test_a_misspelt_line_of_a_unit_is_found(tmp_path: Path) -> None:
    text = read(f"deploy/systemd/{UNITS[0]}").replace("TimeoutStopSec=40", "TimeoutStopSecs=40")
    assert "TimeoutStopSecs" in verified(unit_for_here(tmp_path, UNITS[0], text)).stderr


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_a_unit_may_do_little(tmp_path: Path, name: str) -> None:
    assert SYSTEMD is not None
    options = ["security", "--offline=yes", f"--threshold={EXPOSURE_MAX}"]
    found = subprocess.run(
        [SYSTEMD, *options, unit_for_here(tmp_path, name)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_starts_what_make_serve_starts_and_gives_it_time_to_stop(name: str) -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(read(f"deploy/systemd/{name}"))
    service = unit["Service"]
    program = {"uhok.service": "service", "uhok-feeder.service": "feeder sync"}[name]
    assert service["ExecStart"] == f"{PYTHON} -m {program}"
    assert (service.get("KillMode") == "mixed") == (program == "service"), "its parent tells its workers"
    assert int(service["TimeoutStopSec"]) >= default("drain_s") + 10
    assert "MemoryDenyWriteExecute" not in service, "numba writes machine code"


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_the_manifest(version: str) -> None:
    found = linted("kubernetes-validate", "--strict", "-k", version, MANIFEST)
    assert found.returncode == 0, found.stderr + found.stdout


def test_a_misspelt_field_of_a_manifest_is_found(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(read(MANIFEST).replace("periodSeconds", "periodSecond"))
    assert linted("kubernetes-validate", "--strict", str(tmp_path / "x.yaml")).returncode != 0


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = (each for each in yaml.safe_load_all(read(MANIFEST)) if each["kind"] == kind)
    manifest: dict[str, Any] = found
    return manifest


def test_the_pod_is_the_container_of_the_compose_file() -> None:
    compose = yaml.safe_load(read("docker-compose.yml"))["services"]["uhok-ml-inference"]
    pod = of_kind("StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {volume.split(":")[1] for volume in compose["volumes"]} | {"/tmp"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert f"USER {pod['securityContext']['runAsUser']}\n" in read("Dockerfile")
    assert container["resources"]["limits"]["memory"].lower().startswith("4g")
    assert compose["mem_limit"].endswith(":-4g}")
    assert pod["enableServiceLinks"] is False, "names like ..._PORT would reach the settings"


def test_a_pod_has_time_to_drain_and_is_not_restarted_for_a_slow_start() -> None:
    spec = of_kind("StatefulSet")["spec"]
    assert spec["replicas"] == 1, "one DATA_DIR belongs to one process tree"
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    before_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= before_s + default("drain_s") + 10
    paths = {
        name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")
    }
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}


def test_the_manifests_settings_are_settings() -> None:
    names = {name.upper() for name in (field.name for field in fields(Settings))}
    assert set(of_kind("ConfigMap")["data"]) <= names


@pytest.mark.long
def test_cloudformation_takes_the_load_balancer_and_no_misspelt_property(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(read(TEMPLATE).replace("HealthCheckPath", "HealthPath"))
    found = linted("cfn-lint", "--format", "parseable", TEMPLATE, str(wrong)).stdout.splitlines()
    assert [line.partition(":")[0] for line in found] == [str(wrong)], found
    assert "HealthPath" in found[0]


class _Template(yaml.SafeLoader):
    """YAML with CloudFormation's `!Ref` and `!Sub`, whose values are taken as they stand."""


_Template.add_multi_constructor("!", lambda loader, _tag, node: loader.construct_scalar(node))


def attributes(resource: dict[str, Any], name: str) -> dict[str, str]:
    return {each["Key"]: each["Value"] for each in resource["Properties"][name]}


@pytest.mark.long
def test_the_load_balancer_fits_our_settings_and_routes() -> None:
    found = yaml.load(read(TEMPLATE), _Template)["Resources"]
    idle_s = int(attributes(found["LoadBalancer"], "LoadBalancerAttributes")["idle_timeout.timeout_seconds"])
    assert idle_s < default("keep_alive_s"), "the balancer must be first to end an idle connection"
    targets = found["TargetGroup"]
    drain = attributes(targets, "TargetGroupAttributes")["deregistration_delay.timeout_seconds"]
    assert int(drain) > default("search_deadline_ms") / 1000
    openapi = yaml.safe_load(read("openapi.yaml"))["paths"]
    assert "200" in openapi[targets["Properties"]["HealthCheckPath"]]["get"]["responses"]
    (condition,) = found["SearchRule"]["Properties"]["Conditions"]
    patterns = [re.escape(each).replace(r"\*", ".*") for each in condition["PathPatternConfig"]["Values"]]
    passed = {path for path in openapi if any(re.fullmatch(each, path) for each in patterns)}
    methods = {path: [each for each in openapi[path].values() if "x-role" in each] for path in passed}
    roles = {path: {each["x-role"] for each in found} for path, found in methods.items()}
    assert {"/v1/search", "/v1/embed", "/search_similar"} <= passed
    assert not any({"write", "admin"} & role for role in roles.values()), roles


def test_grafana_is_as_hardened_as_the_rest_and_finds_its_files() -> None:
    (grafana,) = yaml.safe_load(read(GRAFANA))["services"].values()
    observed = yaml.safe_load(read("docker-compose.yml"))["services"]["prometheus"]
    for name in ("read_only", "cap_drop", "security_opt", "pids_limit", "tmpfs", "profiles"):
        assert grafana[name] == observed[name], name
    assert grafana["mem_limit"] and all(port.startswith("127.0.0.1:") for port in grafana["ports"])
    assert grafana["image"].startswith("${GRAFANA_IMAGE:?"), "an image is named by digest, or not at all"
    mounts = dict(each.split(":")[:2] for each in grafana["volumes"] if each.startswith("./"))
    assert all((ROOT / source).exists() for source in mounts)
    (source,) = yaml.safe_load(read("deploy/grafana/provisioning/datasources/prometheus.yml"))["datasources"]
    assert source["type"] == "prometheus" and source["isDefault"]
    assert source["url"] == "http://$PROMETHEUS_ADDRESS"
    assert grafana["environment"]["PROMETHEUS_ADDRESS"] == "prometheus:9090"
    (provider,) = yaml.safe_load(read("deploy/grafana/provisioning/dashboards/uhok.yml"))["providers"]
    assert provider["options"]["path"] == str(Path(mounts["./deploy/grafana/uhok.json"]).parent)


def names_of_environ(text: str) -> Iterator[str]:
    return (match[1] for match in re.finditer(r"\b([A-Z][A-Z_]+)=", text))


def test_the_units_set_settings_that_exist() -> None:
    known = {
        f"`{name}`"
        for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", read("docs/SETTINGS.md") + read("docs/FEEDER.md"))
    }
    for name in UNITS:
        lines = [
            each for each in read(f"deploy/systemd/{name}").splitlines() if each.startswith("Environment=")
        ]
        for setting in names_of_environ(" ".join(each.removeprefix("Environment=") for each in lines)):
            assert f"`{setting}`" in known | {"`NUMBA_CACHE_DIR`"}, setting
