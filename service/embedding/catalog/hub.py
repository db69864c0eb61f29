"""Fetching a model from a hub: once, by a person, at one revision, allow-listed files only."""

from __future__ import annotations

import fnmatch
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.utils import disable_progress_bars

from service.embedding.catalog.inspect_directory import OPEN_CLIP_CONFIG, Wishes, describe_directory
from service.embedding.catalog.references import HubModel
from service.embedding.convert.wheels import DownloadFailed
from service.embedding.manifest import Manifest, publish

TIMEOUT_S = 10
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SMALL = ("*.json", "*.txt", "1_Pooling/config.json", "2_Normalize/*", "2_Dense/config.json", "*.model")
_ONNX = "onnx/model.onnx"


def fetch(
    repository: str, revision: str, models_dir: Path, wishes: Wishes,
    say: Callable[[str], None], endpoint: str | None = None,
) -> tuple[HubModel, Manifest]:  # fmt: skip
    """Put the model into MODELS_DIR and return its pinned reference and manifest.

    revision: 40 hex digits, or a branch or tag that is resolved to them first. Raises DownloadFailed (no hub,
    no such model), BadModelDirectory (a kind that is not opened here).
    """
    commit, files = _look_up(repository, revision, endpoint)
    model = HubModel(repository, commit)
    wanted = allowed(files, prefer_torch=wishes.prefer_torch)
    if not wanted:
        raise DownloadFailed(f"{repository} has no safetensors and no {_ONNX}; pickles are not fetched.")
    say(f"{repository}: revision {commit}, {len(wanted)} files")
    models_dir.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".fetch.", dir=models_dir))
    try:
        for name in wanted:
            say(f"{repository}: {name}")
            _download(repository, commit, name, work, endpoint)
        shutil.rmtree(work / ".cache", ignore_errors=True)  # the hub client's own notes
        manifest = describe_directory(
            work, name=repository, revision=commit, weights=f"{repository}@{commit}", wishes=wishes
        )
        publish(work, model.directory(models_dir), manifest)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return model, manifest


def allowed(files: list[str], *, prefer_torch: bool) -> list[str]:
    """Return which of a repository's files are fetched: small text files and one form of the weights."""
    small = [f for f in files if any(fnmatch.fnmatchcase(f, p) for p in _SMALL) and f.count("/") < 2]
    small = [f for f in small if not f.startswith(("onnx/", "openvino/"))]
    if OPEN_CLIP_CONFIG in files:
        weights = [f for f in files if f == "open_clip_model.safetensors"]
    elif _ONNX in files and not prefer_torch:
        weights = [f for f in files if f in (_ONNX, f"{_ONNX}_data")]
    else:
        weights = [f for f in files if f.endswith(".safetensors") and f.count("/") < 2]
    return sorted([*small, *weights]) if weights else []


def _look_up(repository: str, revision: str, endpoint: str | None) -> tuple[str, list[str]]:
    try:
        info = huggingface_hub.HfApi(endpoint=endpoint).model_info(
            repository, revision=revision, timeout=TIMEOUT_S
        )
    except Exception as exc:  # the client's own errors, its HTTP library's and the socket's
        raise _failed(repository, exc) from exc
    commit = str(info.sha)
    if not _COMMIT.fullmatch(commit) or (_COMMIT.fullmatch(revision) and commit != revision):
        raise DownloadFailed(f"The hub names revision {commit!r} for {repository}@{revision}.")
    return commit, [str(sibling.rfilename) for sibling in info.siblings or []]


def _download(repository: str, commit: str, name: str, into: Path, endpoint: str | None) -> None:
    if not sys.stderr.isatty():
        disable_progress_bars()
    options: dict[str, Any] = {"endpoint": endpoint, "local_dir": into, "etag_timeout": TIMEOUT_S}
    try:
        huggingface_hub.hf_hub_download(repository, name, revision=commit, **options)
    except Exception as exc:  # as above
        raise _failed(repository, exc) from exc


def _failed(repository: str, exc: Exception) -> DownloadFailed:
    said = (str(exc).strip().splitlines() or [""])[0]
    return DownloadFailed(
        f"{repository} could not be fetched: no hub can be reached, or it has no such model or revision "
        f"({type(exc).__name__}: {said}).",
        hint="check the name and the revision; --endpoint ADDRESS asks another hub",
    )
