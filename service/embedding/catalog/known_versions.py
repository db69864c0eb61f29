"""Which embedding_versions the models of this machine give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from service.embedding.catalog.builtin import BUILTIN
from service.embedding.catalog.references import EXPORTED, INT8, directory_and_hint
from service.embedding.manifest import MANIFEST, BadModelDirectory, Manifest, read_manifest
from service.embedding.port import Modality
from service.embedding.runtime_names import ONNX_CLIP, OPEN_CLIP
from service.embedding.runtimes.placeholder import DESCRIPTOR, HASHED, PLACEHOLDER, info_without_model
from service.errors import ModelUnavailable

_WITHOUT_FILES: dict[Modality, tuple[str, ...]] = {
    "text": (HASHED, PLACEHOLDER),
    "image": (DESCRIPTOR, PLACEHOLDER),
}


def versions_here(models_dir: Path, modality: Modality, dim: int) -> Iterator[tuple[str, str]]:
    """Yield (model reference, embedding_version without a text template) of each model that reads `modality`
    and gives `dim` values: the built-in ones, built or not, and every whole directory below `models_dir`."""
    for model in BUILTIN.values():
        if (model.modality, model.dim) == (modality, dim):
            yield f"builtin:{model.name}", model.embedding_version
    for name in _WITHOUT_FILES[modality]:
        yield f"builtin:{name}", info_without_model(name, modality, dim).embedding_version
    for path in sorted(models_dir.glob(f"*/{MANIFEST}")):
        try:
            manifest = read_manifest(path.parent)
        except BadModelDirectory:
            continue
        reads_both = manifest.runtime in (ONNX_CLIP, OPEN_CLIP)
        if manifest.dim == dim and (reads_both or manifest.modality == modality):
            yield _reference(path.parent, manifest, models_dir), manifest.embedding_version


def _reference(directory: Path, manifest: Manifest, models_dir: Path) -> str:
    """The name under which a setting would have meant this directory: by repository and revision, else by its
    path."""
    named = f"{manifest.name}@{manifest.revision}"
    stem = directory.with_name(directory.name.removesuffix(EXPORTED))
    for reference in (named, named + INT8):
        try:
            if directory_and_hint(reference, models_dir)[0] == stem:
                return reference
        except (ModelUnavailable, AssertionError):
            continue
    return str(stem if stem.is_dir() else directory.resolve())
