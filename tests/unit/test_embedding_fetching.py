"""Fetching from a hub: an honest small hub on 127.0.0.1, and no hub at all."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from service.embedding.catalog.cli import main as models
from service.embedding.catalog.hub import allowed
from service.embedding.catalog.loader import load_embedder
from service.embedding.manifest import verify
from tests.fixtures.models import write_tiny_onnx_text
from tests.waiting import STOP_LOOK_S

REPOSITORY = "org/tiny-model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves one repository at one commit, the way the hub client asks for it."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files = files
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{REPOSITORY}"):
            if path.rpartition("/")[2] not in ("main", COMMIT):
                return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": name} for name in self.server.files]
            body = json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode()
            return self._send(200, body, {"Content-Type": "application/json"})
        name = path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/")
        if name not in self.server.files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        if self.command == "GET":
            self.server.asked.append(name)
        data = self.server.files[name]
        tag = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return self._send(200, data, tag)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    source = write_tiny_onnx_text(tmp_path / "source")
    files = {p.relative_to(source).as_posix(): p.read_bytes() for p in source.rglob("*") if p.is_file()}
    files |= {"pytorch_model.bin": b"pickle", "README.md": b"read me", "modeling.py": b"raise SystemExit"}
    server = Hub(files)
    thread = threading.Thread(target=server.serve_forever, args=(STOP_LOOK_S,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("asked", [f"{REPOSITORY}@{COMMIT}", f"{REPOSITORY}@main", REPOSITORY])
def test_fetches_verifies_and_names_the_pinned_reference(
    hub: Hub, tmp_path: Path, asked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "models"
    assert models(["fetch", asked, "--endpoint", hub.address], home) == 0
    assert f"model = {REPOSITORY}@{COMMIT}" in capsys.readouterr().out
    directory = home / f"org--tiny-model@{COMMIT[:12]}"
    manifest = verify(directory)
    assert manifest.revision == COMMIT
    assert sorted(hub.asked) == sorted(manifest.files)
    assert not {"pytorch_model.bin", "modeling.py", "README.md"} & set(hub.asked)
    assert [p.name for p in home.iterdir()] == [directory.name], "a temporary directory was left"
    embedder = load_embedder(f"{REPOSITORY}@{COMMIT}", "text", models_dir=home, dim=8, threads=1)
    assert embedder.info.revision == COMMIT


def test_an_unknown_revision_is_one_clear_line(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert models(["fetch", f"{REPOSITORY}@{'f' * 40}", "--endpoint", hub.address], tmp_path / "m") == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_repository_of_pickles_is_refused(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del hub.files["onnx/model.onnx"]
    assert models(["fetch", REPOSITORY, "--endpoint", hub.address], tmp_path / "m") == 1
    assert "pickles are not fetched" in capsys.readouterr().err
    assert hub.asked == []


def test_without_a_hub_it_fails_soon_and_clearly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:  # bound but not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        start = time.monotonic()
        assert models(["fetch", f"{REPOSITORY}@{COMMIT}", "--endpoint", address], tmp_path / "m") == 1
    assert time.monotonic() - start < 20
    said = capsys.readouterr().err
    assert "no hub can be reached" in said
    assert said.count("\n") == 1


def test_only_one_form_of_the_weights_is_fetched() -> None:
    both = [
        "config.json", "tokenizer.json", "model.safetensors", "onnx/model.onnx", "onnx/model_O3.onnx",
        "openvino/openvino_model.bin", "pytorch_model.bin", "1_Pooling/config.json", "modules.json",
    ]  # fmt: skip
    small = ["1_Pooling/config.json", "config.json", "modules.json", "tokenizer.json"]
    assert allowed(both, prefer_torch=False) == sorted([*small, "onnx/model.onnx"])
    assert allowed(both, prefer_torch=True) == sorted([*small, "model.safetensors"])
    clip = ["open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin",
            "vocab.json", "model.safetensors", "merges.txt"]  # fmt: skip
    assert allowed(clip, prefer_torch=False) == [
        "merges.txt", "open_clip_config.json", "open_clip_model.safetensors", "vocab.json",
    ]  # fmt: skip
    assert allowed(["pytorch_model.bin", "config.json"], prefer_torch=True) == []
