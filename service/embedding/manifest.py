"""A model directory and its manifest: what the model is, and the hash of every file it is made of.

A directory serves only if each file in manifest.json is there with its size and sha256, nothing else lies
beside them, and none of it is a pickle. It is written beside its final place and renamed, so a directory
with a manifest is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from service.embedding.port import Modality, ModelInfo
from service.errors import ModelError

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})
_READ_BYTES = 1 << 20

Parts: TypeAlias = dict[str, Any]
"""Everything that shapes a vector, as JSON: the embedding_version is computed from these and nothing else."""


class BadModelDirectory(ModelError):
    """A model directory can't be trusted. The message names the directory and the file."""


@dataclass(frozen=True, slots=True)
class FileMark:
    """What one file must be."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """runtime: which loader opens the directory. label: the readable head of the embedding_version.
    interface: how the file is called (names, layout), which shapes no vector."""

    name: str
    revision: str
    runtime: str
    modality: str
    dim: int
    label: str
    parts: Parts
    interface: Parts
    files: Mapping[str, FileMark]

    @property
    def embedding_version(self) -> str:
        """The version of the model's vectors: its label and the fingerprint of all that shapes them."""
        return version_string(self.label, self.parts)


def info_of(
    manifest: Manifest, modality: Modality, runtime: str, tokens_max: int | None = None, passes_max: int = 1
) -> ModelInfo:
    """Return what the model of `manifest` is, run by `runtime`. modality: a CLIP has a tower for each."""
    return ModelInfo(
        name=manifest.name,
        embedding_version=manifest.embedding_version,
        dim=manifest.dim,
        modality=modality,
        revision=manifest.revision,
        runtime=runtime,
        tokens_max=tokens_max,
        is_placeholder=False,
        passes_max=passes_max,
    )


def version_string(label: str, parts: Parts) -> str:
    """Return label + 12 hex digits over `parts`: equal strings mean comparable vectors."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return f"{label}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def mark(path: Path) -> FileMark:
    """Return size and sha256 of the file at `path`."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_READ_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileMark(digest.hexdigest(), size)


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest in `directory`, files unchecked. Raises BadModelDirectory."""
    path = directory / MANIFEST
    try:
        raw = json.loads(path.read_text("utf-8"))
        if raw.pop("format_version") != FORMAT_VERSION:
            raise ValueError("unknown format_version")
        raw["files"] = {str(n): FileMark(**m) for n, m in raw["files"].items()}
        written = raw.pop("embedding_version")
        manifest = Manifest(**raw)
    except FileNotFoundError as exc:
        raise BadModelDirectory(f"{directory} has no {MANIFEST}.") from exc
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
        raise BadModelDirectory(f"{path} can't be read: {exc}.") from exc
    if written != manifest.embedding_version:
        raise BadModelDirectory(f"{path} was altered: its embedding_version does not follow from its parts.")
    return manifest


def verify(directory: Path) -> Manifest:
    """Return the manifest of `directory` after checking every file. Raises BadModelDirectory."""
    manifest = read_manifest(directory)
    for name, expected in manifest.files.items():
        path = directory / name
        if _is_pickle(path) or not path.resolve().is_relative_to(directory.resolve()):
            raise BadModelDirectory(f"{path} is a pickle or lies outside; it is not opened.")
        if not path.is_file():
            raise BadModelDirectory(f"{path} is missing.")
        if path.stat().st_size != expected.bytes or mark(path) != expected:
            raise BadModelDirectory(f"{path} was altered: its size or sha256 is not the manifest's.")
    known = {*manifest.files, MANIFEST}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.relative_to(directory).as_posix() not in known:
            kind = "a pickle" if _is_pickle(path) else "not in the manifest"
            raise BadModelDirectory(f"{path} is {kind}.", hint=f"remove {path}")
    return manifest


def _is_pickle(path: Path) -> bool:
    return path.suffix.lower() in PICKLE_SUFFIXES


def publish(work: Path, final: Path, manifest: Manifest) -> None:
    """Make the directory `work` appear as `final`, whole: manifest last, fsync, rename.

    Everybody may read it: the service seldom runs as the user who fetched its models.
    """
    write_manifest(work, manifest)
    for path in [work, *work.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        if path.is_file():
            _fsync(path)
    former = work.with_name(work.name + ".former")
    if final.exists():  # the same name and revision, built again
        final.replace(former)
    work.replace(final)
    _fsync(final.parent)
    shutil.rmtree(former, ignore_errors=True)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write manifest.json into `directory`."""
    body = asdict(manifest)
    body["format_version"] = FORMAT_VERSION
    body["embedding_version"] = manifest.embedding_version
    text = json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False)
    (directory / MANIFEST).write_text(text + "\n", "utf-8")


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def marks_of(directory: Path) -> dict[str, FileMark]:
    """Return the marks of every file below `directory` but the manifest."""
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {p.relative_to(directory).as_posix(): mark(p) for p in files}
