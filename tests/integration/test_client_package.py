"""What a backend installs: built, installed into a bare environment, and its README's examples run there."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from benchmarks.processes import free_port
from tests.integration.service_process import ROOT, ServiceProcess
from tests.tidy.source import PRODUCT_ROOMS, tracked_paths
from tests.tidy.tables import code_blocks

EXAMPLES = [block for block in code_blocks((ROOT / "vector_client/README.md").read_text("utf-8"))
            if block.language == "python"]  # fmt: skip
NOT_OF_A_CLIENT = ("numpy", "faiss", "fastapi", "torch", "uvicorn", "onnxruntime")
OPTIONAL = {
    "torch", "torchvision", "sentence_transformers", "transformers", "open_clip", "hnswlib",
    "pymysqlreplication", "aiohttp", "yarl", "asyncpg", "sqlalchemy", "asyncmy", "aiomysql", "opentelemetry",
    "starlette", "llvmlite",
}  # fmt: skip
"""Imported where an extra is used only, or the base of a library that is asked for (fastapi, numba)."""
NAMED_OTHERWISE = {"PIL": "pillow", "faiss": "faiss-cpu", "multipart": "python-multipart"}


def copied(folder: Path, *begins: str) -> Path:
    """Return a copy of what git holds (of the rooms named), so that building leaves nothing behind here."""
    for path in tracked_paths():
        if not begins or path.startswith(begins):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, folder / path)
    return folder


def run(*command: str | Path, cwd: Path, environ: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=240,
        env={**os.environ, **(environ or {})},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def bare_environment(folder: Path, base: str = sys.executable) -> Path:
    """Return the python of a new environment without any package, not even pip."""
    run(base, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    return folder / "bin" / "python"


def oldest_python() -> str:
    """Return a python 3.10, the oldest that the client says it runs on."""
    found = [shutil.which("python3.10"), *map(str, Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10"))]
    for each in filter(None, found):
        code = "import sys; print(sys.version_info[:2] == (3, 10))"
        done = subprocess.run([each, "-c", code], capture_output=True, text=True, check=False)
        if done.stdout.strip() == "True":
            return each
    pytest.skip("python3.10 is missing: whether the client runs on it was not tried")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client's wheel and sdist, as `make client` builds them."""
    folder = tmp_path_factory.mktemp("client")
    source = copied(folder, "vector_client/") / "vector_client"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source, cwd=folder)
    return folder / "dist"


@pytest.fixture(scope="module", params=["this python", "the oldest python"])
def installed(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment that holds the wheel and what it asks for."""
    base = oldest_python() if request.param == "the oldest python" else sys.executable
    python = bare_environment(tmp_path_factory.mktemp("bare") / "venv", base)
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-compile"]
    # Versions in constraints.txt are those of the service, which needs a newer Python.
    constraints = [] if request.param == "the oldest python" else ["-c", str(ROOT / "constraints.txt")]
    run(*pip, *constraints, wheel, cwd=built)
    return python


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    process = ServiceProcess(tmp_path_factory.mktemp("service") / "data").start()
    rows = [{"recipe_id": n, "text": f"요리 {n}"} for n in range(1, 20)]
    request = urllib.request.Request(
        f"http://127.0.0.1:{process.port}/v1/upsert", json.dumps({"items": rows}).encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    urllib.request.urlopen(request, timeout=30).close()
    yield process
    process.stop()


def test_wheel_and_sdist_hold_every_module(built: Path) -> None:
    wanted = {path for path in tracked_paths() if re.fullmatch(r"vector_client/.*(\.py|py\.typed)", path)}
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        assert wanted <= held, wanted - held
        strangers = {
            n for n in held - wanted if ".dist-info/" not in n and not n.endswith(("README.md", ".toml"))
        }
        assert not strangers
    with tarfile.open(sdist) as tar:
        inside = {"vector_client/" + name.partition("/")[2] for name in tar.getnames()}
        assert wanted <= inside, wanted - inside


def test_a_bare_environment_gets_few_packages(installed: Path) -> None:
    names = run(
        installed, "-c",
        "import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))",
        cwd=installed.parent,
    ).split()  # fmt: skip
    assert "uhok-vector-client" in names
    assert not set(names) & set(NOT_OF_A_CLIENT)
    assert len(names) <= 16, names


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_readmes_examples_run(
    installed: Path, service: ServiceProcess, number: int, tmp_path: Path
) -> None:
    assert len(EXAMPLES) >= 5
    script = tmp_path / "example.py"
    script.write_text("\n".join(EXAMPLES[number].lines), "utf-8")
    environ = {"ML_INFERENCE_URL": f"http://127.0.0.1:{service.port}", "ML_TIMEOUT": "30", "PYTHONPATH": ""}
    printed = run(installed, "-W", "error", script, cwd=tmp_path, environ=environ)
    assert printed.strip()


def test_extras_are_asked_for_by_name_and_not_needed(installed: Path, tmp_path: Path) -> None:
    code = """
from vector_client import *
import vector_client
assert "AsyncVectorClient" in dir(vector_client)
try:
    vector_client.PrometheusObserver
except ImportError as exc:
    print(exc)
"""
    printed = run(installed, "-W", "error", "-c", code, cwd=tmp_path)
    assert "pip install 'uhok-vector-client[prometheus]'" in printed


def test_silence_is_one_typed_error_on_every_python(installed: Path, tmp_path: Path) -> None:
    """Python 3.10 has two classes of TimeoutError."""
    code = """
import asyncio, socket
from vector_client import AsyncVectorClient, Backend, Limits, Query, Recommenders
from vector_client.errors import TimedOut

async def main(url):
    async with AsyncVectorClient.to(url, limits=Limits(deadline_s=0.3)) as client:
        try:
            await client.search(Query("a"))
        except TimedOut as exc:
            print(exc)
    async def rows(session, statement):
        return [(1, 0.1)]
    environ = {"ML_MODE": "remote_store", "ML_FALLBACK_MODE": "db", "ML_TIMEOUT": "0.5"}
    environ["ML_INFERENCE_URL"] = url
    async with Recommenders.from_env(Backend(encode=lambda _: [1.0], rows=rows), environ) as held:
        print(await held.searcher.find_similar_ids(None, "a", 1))

with socket.create_server(("127.0.0.1", 0)) as listener:
    asyncio.run(main(f"http://127.0.0.1:{listener.getsockname()[1]}"))
"""
    printed = run(installed, "-W", "error", "-c", code, cwd=tmp_path)
    assert "no answer from" in printed and "[(1, 0.1)]" in printed


def test_the_blocking_client_loads_no_event_loop_library(installed: Path, tmp_path: Path) -> None:
    code = "import sys, vector_client; vector_client.VectorClient; print('aiohttp' in sys.modules)"
    assert run(installed, "-c", code, cwd=tmp_path).strip() == "False"


@pytest.fixture(scope="module")
def service_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service's own distribution, as `pip install .` builds it."""
    folder = tmp_path_factory.mktemp("service_wheel")
    source = copied(folder / "source")
    run(
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--wheel",
        "--outdir",
        folder / "dist",
        source,
        cwd=folder,
    )
    shutil.rmtree(source)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def test_the_installed_service_runs_from_any_folder(service_wheel: Path, tmp_path: Path) -> None:
    """Its own packages from the wheel; the libraries from this environment, to save their download."""
    python = bare_environment(tmp_path / "venv")
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        service_wheel,
        cwd=tmp_path,
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    environ = {
        "PYTHONPATH": os.pathsep.join(libraries), "DATA_DIR": str(tmp_path / "data"), "HOST": "127.0.0.1",
        "PORT": str(free_port()), "TEXT_MODEL": "builtin:hashed-ngrams", "IMAGE_MODEL": "builtin:descriptor",
        "PATH": os.environ["PATH"],
    }  # fmt: skip
    code = "import service, feeder; print(service.__file__, feeder.__file__)"
    where = run(python, "-c", code, cwd=elsewhere, environ=environ)
    assert where.count(str(tmp_path / "venv")) == 2
    process = ServiceProcess(tmp_path / "data", environ, port=int(environ["PORT"]))
    process.process = subprocess.Popen(
        [str(python), "-m", "service", "--demo"], cwd=elsewhere, env=environ, stdout=subprocess.DEVNULL,
        stderr=process.log.open("wb"), start_new_session=True,
    )  # fmt: skip
    try:
        process.wait_until_ready(120)
        base = f"http://127.0.0.1:{environ['PORT']}"
        with urllib.request.urlopen(f"{base}/openapi.yaml", timeout=30) as answer:
            assert answer.read() == (ROOT / "openapi.yaml").read_bytes()
        assert "sync" in run(python, "-m", "feeder", "--help", cwd=elsewhere, environ=environ)
    finally:
        process.stop()


def test_the_installed_service_holds_every_file_of_its_rooms(service_wheel: Path) -> None:
    with zipfile.ZipFile(service_wheel) as archive:
        held = set(archive.namelist())
    rooms = tuple(f"{room}/" for room in PRODUCT_ROOMS)
    of_the_client = {"vector_client/README.md", "vector_client/pyproject.toml"}
    wanted = {path for path in tracked_paths() if path.startswith(rooms)} - of_the_client
    assert wanted <= held, wanted - held
    assert "service/openapi.yaml" in held
    assert not {name.split("/")[0] for name in held} & {"tests", "benchmarks", "examples", "docs"}


def test_every_library_that_is_imported_is_asked_for() -> None:
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    asked = {re.split(r"[\s\[;=<>~!]", line, maxsplit=1)[0].lower().replace("-", "_") for line in lines}
    imported: set[str] = set()
    for path in tracked_paths():
        if path.endswith(".py") and path.split("/")[0] in PRODUCT_ROOMS:
            for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    imported.add((node.module or "").split(".")[0])
    foreign = {NAMED_OTHERWISE.get(name, name).replace("-", "_") for name in imported - OPTIONAL}
    foreign -= {*sys.stdlib_module_names, *PRODUCT_ROOMS, "setuptools"}
    assert foreign <= asked, f"imported but not a dependency: {sorted(foreign - asked)}"
