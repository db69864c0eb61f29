"""What a model reference in a collection's configuration points at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, TypeAlias

from service.embedding.catalog.builtin import BUILTIN, BuiltinModel
from service.embedding.runtimes.placeholder import DESCRIPTOR, HASHED, PLACEHOLDER
from service.errors import ModelUnavailable

_HUB = re.compile(r"(?P<id>[\w.-]+(?:/[\w.-]+)?)@(?P<revision>[0-9a-f]{40})")
_PREFIX = "builtin:"
OPEN_CLIP_REPOSITORIES: Mapping[str, str] = MappingProxyType(
    {"open_clip:ViT-B-32/openai": "timm/vit_base_patch32_clip_224.openai"}
)
"""open_clip's names for a model and its weights -> where open_clip itself finds them."""
COMMAND = "python -m service models"
EXPORTED = "+onnx"
INT8 = "+int8"
"""Ends of directory names: another form of the model beside it. INT8 also ends a reference."""


@dataclass(frozen=True, slots=True)
class NoModel:
    """One of the embedders that need no files."""

    name: str


@dataclass(frozen=True, slots=True)
class HubModel:
    """A hub repository at one revision; the files live in MODELS_DIR once fetched."""

    repository: str
    revision: str

    def directory(self, models_dir: Path) -> Path:
        """Return where its files are, or will be, below `models_dir`."""
        return models_dir / f"{self.repository.replace('/', '--')}@{self.revision[:12]}"


@dataclass(frozen=True, slots=True)
class NamedClip:
    """An open_clip model by its name: whichever one revision of its repository was fetched."""

    name: str
    repository: str

    def directory(self, models_dir: Path) -> Path:
        """Return the fetched directory, or where it would lie. Raises ModelUnavailable for several."""
        stem = self.repository.replace("/", "--")
        found = sorted({p.with_name(p.name.partition("+")[0]) for p in models_dir.glob(f"{stem}@*")})
        if len(found) > 1:
            revisions = ", ".join(path.name.rpartition("@")[2] for path in found)
            raise ModelUnavailable(
                f"{self.name} is here in several revisions ({revisions}); "
                f"name one: {self.repository}@<40 hex digits>.",
                f"{COMMAND} list",
            )
        return found[0] if found else models_dir / stem


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A directory that somebody else prepared."""

    path: Path


class StoredModel(Protocol):
    """A model whose directory follows from its reference."""

    def directory(self, models_dir: Path) -> Path:
        """Return where its files are, or will be, below `models_dir`."""


FileModel: TypeAlias = BuiltinModel | HubModel | NamedClip | LocalModel


@dataclass(frozen=True, slots=True)
class Int8Model:
    """Another model made out of `base`: faster, smaller, and with vectors of its own."""

    base: FileModel

    def directory(self, models_dir: Path) -> Path:
        """Return where its 8-bit form is, or will be, below `models_dir`."""
        return _beside(_directory(self.base, models_dir), INT8)


Reference: TypeAlias = NoModel | FileModel | Int8Model


def parse_reference(ref: str) -> Reference:
    """Return what `ref` names. Raises ModelUnavailable for what can't be a reference."""
    if ref.endswith(INT8):
        base = parse_reference(ref.removesuffix(INT8))
        if not isinstance(base, NoModel | Int8Model):
            return Int8Model(base)
    if ref.startswith(_PREFIX):
        name = ref.removeprefix(_PREFIX)
        if name in BUILTIN:
            return BUILTIN[name]
        if name in (HASHED, DESCRIPTOR, PLACEHOLDER):
            return NoModel(name)
        known = ", ".join([*BUILTIN, HASHED, DESCRIPTOR, PLACEHOLDER])
        raise ModelUnavailable(f"There is no built-in model {name!r}; there are {known}.", f"{COMMAND} list")
    found = _HUB.fullmatch(ref)
    if found:
        return HubModel(found["id"], found["revision"])
    if ref in OPEN_CLIP_REPOSITORIES:
        return NamedClip(ref, OPEN_CLIP_REPOSITORIES[ref])
    if ref.startswith((".", "/", "~")) or (ref and Path(ref).is_dir()):
        return LocalModel(Path(ref).expanduser())
    raise ModelUnavailable(
        f"{ref!r} names no model: expected builtin:<name>, <hub id>@<40 hex digits>, or a directory.",
        f"{COMMAND} list",
    )


def directory_and_hint(ref: str, models_dir: Path) -> tuple[Path, str]:
    """Return where the files of `ref` are and the command that brings them. Not for NoModel references."""
    reference = parse_reference(ref)
    at = f"--models-dir {models_dir} " if str(models_dir) != ".models" else ""
    if isinstance(reference, NoModel):
        raise AssertionError("an embedder without a model has no directory")
    if isinstance(reference, Int8Model):
        return reference.directory(models_dir), f"{COMMAND} {at}export {ref}"
    directory = _directory(reference, models_dir)
    if isinstance(reference, BuiltinModel):
        return directory, f"{COMMAND} {at}build {reference.name}"
    if isinstance(reference, LocalModel):
        return directory, f"{COMMAND} {at}adopt {reference.path}"
    return directory, f"{COMMAND} {at}fetch {ref}"


def exported_directory(directory: Path) -> Path:
    """Return where the serving form of a model that runs by torch lies."""
    return _beside(directory, EXPORTED)


def export_command(ref: str, models_dir: Path) -> str:
    """Return the command that writes the exported form of `ref`."""
    at = f"--models-dir {models_dir} " if str(models_dir) != ".models" else ""
    return f"{COMMAND} {at}export {ref}"


def _directory(reference: LocalModel | StoredModel, models_dir: Path) -> Path:
    if isinstance(reference, LocalModel):
        return reference.path
    return reference.directory(models_dir)


def _beside(directory: Path, ending: str) -> Path:
    if directory.name in ("", ".."):
        directory = directory.resolve()
    return directory.with_name(directory.name + ending)
