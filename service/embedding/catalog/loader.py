"""Model references to loaded embedders. Opens local, verified files only; never downloads."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, overload

from service.embedding.catalog.builtin import BuiltinModel
from service.embedding.catalog.reference_vectors import AT_START, check_samples, read_samples
from service.embedding.catalog.references import (
    COMMAND,
    NoModel,
    directory_and_hint,
    export_command,
    exported_directory,
    parse_reference,
)
from service.embedding.manifest import BadModelDirectory, Manifest, read_manifest, verify
from service.embedding.port import Embedder, ImageEmbedder, Modality, TextEmbedder
from service.embedding.runtime_names import (
    ONNX_CLIP,
    ONNX_IMAGE,
    ONNX_TEXT,
    ONNX_VIEWS,
    OPEN_CLIP,
    SENTENCE_TRANSFORMERS,
)
from service.embedding.runtimes.colour_descriptor import DESCRIPTOR_DIM
from service.embedding.runtimes.onnx_image import OnnxImageEmbedder
from service.embedding.runtimes.onnx_text import OnnxTextEmbedder
from service.embedding.runtimes.onnx_views import OnnxViewsEmbedder
from service.embedding.runtimes.placeholder import (
    DESCRIPTOR,
    HASHED,
    PLACEHOLDER,
    descriptor,
    hashed_ngrams,
    info_without_model,
    placeholder_images,
    placeholder_texts,
)
from service.errors import ModelUnavailable

TORCH_RUNTIMES = frozenset((SENTENCE_TRANSFORMERS, OPEN_CLIP))
TORCH_INSTALL = "pip install -c constraints.txt '.[torch]'"


def version_of(ref: str, models_dir: Path, *, modality: Modality, dim: int) -> str:
    """Return the embedding_version that `ref` gives, without loading weights. Raises ModelUnavailable.

    A built-in model has its version even before it is built: a collection can take vectors under it.
    """
    reference = parse_reference(ref)
    if isinstance(reference, NoModel):
        return info_without_model(reference.name, modality, dim).embedding_version
    directory, hint = directory_and_hint(ref, models_dir)
    if isinstance(reference, BuiltinModel) and not directory.exists():
        return reference.embedding_version
    exported = exported_directory(directory)
    try:
        return read_manifest(directory if directory.is_dir() else exported).embedding_version
    except BadModelDirectory as exc:
        raise ModelUnavailable(str(exc), hint) from exc


@overload
def load_embedder(
    ref: str, modality: Literal["text"], *, models_dir: Path, dim: int, threads: int, runtime: str = "auto"
) -> TextEmbedder: ...


@overload
def load_embedder(
    ref: str, modality: Literal["image"], *, models_dir: Path, dim: int, threads: int, runtime: str = "auto"
) -> ImageEmbedder: ...


@overload
def load_embedder(
    ref: str, modality: Modality, *, models_dir: Path, dim: int, threads: int, runtime: str = "auto"
) -> Embedder[Any]: ...


def load_embedder(
    ref: str, modality: Modality, *, models_dir: Path, dim: int, threads: int, runtime: str = "auto"
) -> Embedder[Any]:
    """Return the model that `ref` names, loaded, as it reads `modality`.

    A CLIP reference gives one of its towers: that of texts lies in the space of its pictures. threads: of one
    forward pass. runtime: auto takes the exported form where there is one, onnx nothing else, torch the
    source. Raises ModelUnavailable.
    """
    reference = parse_reference(ref)
    if isinstance(reference, NoModel):
        return _without_model(ref, reference.name, modality, dim)
    directory, manifest, hint = _verified(ref, models_dir, dim, runtime)
    with _translate_error(ref, hint):
        embedder = open_embedder(ref, modality, directory, manifest, threads)
        samples = read_samples(directory)
        if samples is not None:
            check_samples(samples, modality, embedder, AT_START)
        return embedder


def dim_of(ref: str, models_dir: Path) -> int | None:
    """Return how many numbers the vectors of `ref` have, without loading weights; None for a model that gives
    any, or whose files are not here. Raises ModelUnavailable for what can't be a reference."""
    reference = parse_reference(ref)
    if isinstance(reference, NoModel):
        return DESCRIPTOR_DIM if reference.name == DESCRIPTOR else None
    if isinstance(reference, BuiltinModel):
        return reference.dim
    try:
        return read_manifest(directory_and_hint(ref, models_dir)[0]).dim
    except BadModelDirectory:
        return None


def open_embedder(
    ref: str, modality: Modality, directory: Path, manifest: Manifest, threads: int
) -> Embedder[Any]:
    """Open a directory that is known to be whole, by the runtime that its manifest names.

    Raises ModelUnavailable, and whatever the runtime raises.
    """
    opener = _OPENERS.get((manifest.runtime, modality))
    if opener is None:
        raise _wrong_kind(ref, _READS_NONE[modality])
    if manifest.runtime in TORCH_RUNTIMES and importlib.util.find_spec("torch") is None:
        raise ModelUnavailable(f"{ref} runs in torch, which is not installed.", TORCH_INSTALL)
    return opener(directory, manifest, threads=threads)


def _open_clip_texts(directory: Path, manifest: Manifest, *, threads: int) -> TextEmbedder:
    from service.embedding.runtimes.onnx_clip import OnnxClipTexts  # its text cleaning is slow to import

    return OnnxClipTexts(directory, manifest, threads=threads)


# torch takes seconds to import and is an extra: only those who chose it pay
def _open_torch_texts(directory: Path, manifest: Manifest, *, threads: int) -> TextEmbedder:
    from service.embedding.runtimes.torch_text import SentenceTransformerEmbedder

    return SentenceTransformerEmbedder(directory, manifest, threads=threads)


def _open_torch_clip_texts(directory: Path, manifest: Manifest, *, threads: int) -> TextEmbedder:
    from service.embedding.runtimes.torch_clip import ClipTexts

    return ClipTexts(directory, manifest, threads=threads)


def _open_torch_clip_images(directory: Path, manifest: Manifest, *, threads: int) -> ImageEmbedder:
    from service.embedding.runtimes.torch_clip import ClipImages

    return ClipImages(directory, manifest, threads=threads)


class _Opener(Protocol):
    def __call__(self, directory: Path, manifest: Manifest, /, *, threads: int) -> Embedder[Any]: ...


_OPENERS: Mapping[tuple[str, Modality], _Opener] = MappingProxyType(
    {
        (ONNX_TEXT, "text"): OnnxTextEmbedder,
        (ONNX_CLIP, "text"): _open_clip_texts,
        (SENTENCE_TRANSFORMERS, "text"): _open_torch_texts,
        (OPEN_CLIP, "text"): _open_torch_clip_texts,
        (ONNX_IMAGE, "image"): OnnxImageEmbedder,
        (ONNX_VIEWS, "image"): OnnxViewsEmbedder,
        (ONNX_CLIP, "image"): OnnxImageEmbedder,
        (OPEN_CLIP, "image"): _open_torch_clip_images,
    }
)
_WITHOUT_MODEL: Mapping[tuple[str, Modality], Callable[[int], Embedder[Any]]] = MappingProxyType(
    {
        (HASHED, "text"): hashed_ngrams,
        (PLACEHOLDER, "text"): placeholder_texts,
        (PLACEHOLDER, "image"): placeholder_images,
        (DESCRIPTOR, "image"): lambda _: descriptor(),
    }
)
_READS_NONE: Mapping[Modality, str] = MappingProxyType(
    {"text": "reads no text", "image": "reads no pictures"}
)


def _wrong_kind(ref: str, what: str) -> ModelUnavailable:
    return ModelUnavailable(f"{ref} {what}.", f"{COMMAND} list")


@contextmanager
def _translate_error(ref: str, hint: str) -> Iterator[None]:
    """Turn whatever opening a model raises into ModelUnavailable."""
    try:
        yield
    except ModelUnavailable:
        raise
    except BadModelDirectory as exc:
        raise ModelUnavailable(str(exc), hint) from exc
    except Exception as exc:  # tokenizers, onnxruntime and torch share no error class: translated here, once
        raise ModelUnavailable(f"{ref} can't be opened: {type(exc).__name__}: {exc}.", hint) from exc


def _without_model(ref: str, name: str, modality: Modality, dim: int) -> Embedder[Any]:
    make = _WITHOUT_MODEL.get((name, modality))
    if make is None:
        raise _wrong_kind(ref, _READS_NONE[modality])
    if name == DESCRIPTOR and dim != DESCRIPTOR_DIM:
        raise _wrong_kind(ref, f"gives {DESCRIPTOR_DIM} values, the collection has dim {dim}")
    return make(dim)


def _verified(ref: str, models_dir: Path, dim: int, runtime: str) -> tuple[Path, Manifest, str]:
    source, hint = directory_and_hint(ref, models_dir)
    exported = exported_directory(source)
    directory = source
    if exported.is_dir() and runtime != "torch":
        directory, hint = exported, export_command(ref, models_dir)
    if not directory.is_dir():
        raise ModelUnavailable(f"The files of {ref} are not in {directory}.", hint)
    try:
        manifest = verify(directory)
        if directory == exported and source.is_dir():
            _require_alike(manifest, read_manifest(source), exported)
    except BadModelDirectory as exc:
        raise ModelUnavailable(str(exc), hint) from exc
    if runtime == "onnx" and manifest.runtime in TORCH_RUNTIMES:
        raise ModelUnavailable(f"{ref} has no ONNX form yet.", export_command(ref, models_dir))
    if runtime == "torch" and manifest.runtime not in TORCH_RUNTIMES:
        raise ModelUnavailable(f"{ref} has no form that runs by torch.", f"{COMMAND} list")
    if manifest.dim != dim:
        raise _wrong_kind(ref, f"gives {manifest.dim} values, the collection has dim {dim}")
    return directory, manifest, hint


def _require_alike(exported: Manifest, source: Manifest, where: Path) -> None:
    if exported.embedding_version != source.embedding_version:
        raise BadModelDirectory(f"{where} was exported from another model than the one beside it.")
