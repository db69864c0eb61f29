"""Model references to loaded embedders. Opens local, verified files only; never downloads."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.embedding.catalog.builtin import BuiltinModel
from service.embedding.catalog.reference_vectors import AT_START, check_images, check_texts, read_samples
from service.embedding.catalog.references import (
    COMMAND,
    NoModel,
    directory_and_mend,
    export_command,
    exported_directory,
    parse_reference,
)
from service.embedding.manifest import BadModelDirectory, Manifest, read_manifest, verify
from service.embedding.port import ImageEmbedder, Modality, TextEmbedder
from service.embedding.runtime_names import ONNX_CLIP, ONNX_IMAGE, ONNX_TEXT, OPEN_CLIP, SENTENCE_TRANSFORMERS
from service.embedding.runtimes.colour_descriptor import DESCRIPTOR_DIM
from service.embedding.runtimes.onnx_image import OnnxImageEmbedder
from service.embedding.runtimes.onnx_text import OnnxTextEmbedder
from service.embedding.runtimes.placeholder import (
    DESCRIPTOR,
    HASHED,
    PLACEHOLDER,
    Descriptor,
    HashedNgrams,
    PlaceholderImages,
    PlaceholderTexts,
    info_without_model,
)
from service.errors import ModelUnavailable

TORCH_INSTALL = "pip install -c constraints.txt '.[torch]'"


def version_of(ref: str, models_dir: Path, *, modality: Modality, dim: int) -> str:
    """Return the embedding_version that `ref` gives, without loading weights. Raises ModelUnavailable.

    A built-in model has its version even before it is built: a collection can take vectors under it.
    """
    reference = parse_reference(ref)
    if isinstance(reference, NoModel):
        return info_without_model(reference.name, modality, dim).embedding_version
    directory, mend = directory_and_mend(ref, models_dir)
    if isinstance(reference, BuiltinModel) and not directory.exists():
        return reference.embedding_version
    exported = exported_directory(directory)
    try:
        return read_manifest(directory if directory.is_dir() else exported).embedding_version
    except BadModelDirectory as exc:
        raise ModelUnavailable(str(exc), mend) from exc


def load_text_embedder(
    ref: str, *, models_dir: Path, dim: int, threads: int, runtime: str = "auto"
) -> TextEmbedder:
    """Return the text model that `ref` names, loaded. threads: of one forward pass.

    A CLIP reference gives its text tower, in the space of its pictures. runtime: auto takes the exported form
    where there is one, onnx nothing else, torch the source. Raises ModelUnavailable.
    """
    reference = parse_reference(ref)
    if isinstance(reference, NoModel):
        return _text_without_model(ref, reference.name, dim)
    directory, manifest, mend = _verified(ref, models_dir, dim, runtime)
    with _translated(ref, mend):
        embedder = open_text(ref, directory, manifest, threads)
        samples = read_samples(directory)
        if samples is not None:
            check_texts(samples, embedder, AT_START)
        return embedder


def load_image_embedder(
    ref: str, *, models_dir: Path, dim: int, threads: int, runtime: str = "auto"
) -> ImageEmbedder:
    """Return the picture model that `ref` names, loaded, as load_text_embedder does."""
    reference = parse_reference(ref)
    if isinstance(reference, NoModel):
        return _images_without_model(ref, reference.name, dim)
    directory, manifest, mend = _verified(ref, models_dir, dim, runtime)
    with _translated(ref, mend):
        embedder = open_images(ref, directory, manifest, threads)
        samples = read_samples(directory)
        if samples is not None:
            check_images(samples, embedder, AT_START)
        return embedder


def open_text(ref: str, directory: Path, manifest: Manifest, threads: int) -> TextEmbedder:
    """Open a directory that is known to be whole, by the runtime that its manifest names."""
    if manifest.runtime == ONNX_TEXT:
        return OnnxTextEmbedder(directory, manifest, threads=threads)
    if manifest.runtime == ONNX_CLIP:
        from service.embedding.runtimes.onnx_clip import (
            OnnxClipTexts,  # its text cleaning takes a moment to import
        )

        return OnnxClipTexts(directory, manifest, threads=threads)
    # torch takes seconds to import and is an extra: only those who chose it pay
    if manifest.runtime == SENTENCE_TRANSFORMERS:
        _require_torch(ref)
        from service.embedding.runtimes.torch_text import SentenceTransformerEmbedder

        return SentenceTransformerEmbedder(directory, manifest, threads=threads)
    if manifest.runtime == OPEN_CLIP:
        _require_torch(ref)
        from service.embedding.runtimes.torch_clip import ClipTexts

        return ClipTexts(directory, manifest, threads=threads)
    raise _wrong_kind(ref, "reads no text")


def open_images(ref: str, directory: Path, manifest: Manifest, threads: int) -> ImageEmbedder:
    """As open_text."""
    if manifest.runtime in (ONNX_IMAGE, ONNX_CLIP):
        return OnnxImageEmbedder(directory, manifest, threads=threads)
    if manifest.runtime == OPEN_CLIP:
        _require_torch(ref)
        from service.embedding.runtimes.torch_clip import ClipImages

        return ClipImages(directory, manifest, threads=threads)
    raise _wrong_kind(ref, "reads no pictures")


def _require_torch(ref: str) -> None:
    if importlib.util.find_spec("torch") is None:
        raise ModelUnavailable(f"{ref} runs in torch, which is not installed.", TORCH_INSTALL)


def _wrong_kind(ref: str, what: str) -> ModelUnavailable:
    return ModelUnavailable(f"{ref} {what}.", f"{COMMAND} list")


@contextmanager
def _translated(ref: str, mend: str) -> Iterator[None]:
    """Turn whatever opening a model raises into ModelUnavailable."""
    try:
        yield
    except ModelUnavailable:
        raise
    except BadModelDirectory as exc:
        raise ModelUnavailable(str(exc), mend) from exc
    except Exception as exc:  # tokenizers, onnxruntime and torch share no error class: translated here, once
        raise ModelUnavailable(f"{ref} can't be opened: {type(exc).__name__}: {exc}.", mend) from exc


def _text_without_model(ref: str, name: str, dim: int) -> TextEmbedder:
    if name == HASHED:
        return HashedNgrams(dim)
    if name == PLACEHOLDER:
        return PlaceholderTexts(dim)
    raise _wrong_kind(ref, "reads no text")


def _images_without_model(ref: str, name: str, dim: int) -> ImageEmbedder:
    if name == PLACEHOLDER:
        return PlaceholderImages(dim)
    if name == DESCRIPTOR and dim == DESCRIPTOR_DIM:
        return Descriptor()
    if name == DESCRIPTOR:
        raise _wrong_kind(ref, f"gives {DESCRIPTOR_DIM} values, the collection has dim {dim}")
    raise _wrong_kind(ref, "reads no pictures")


def _verified(ref: str, models_dir: Path, dim: int, runtime: str) -> tuple[Path, Manifest, str]:
    source, mend = directory_and_mend(ref, models_dir)
    exported = exported_directory(source)
    directory = source
    if exported.is_dir() and runtime != "torch":
        directory, mend = exported, export_command(ref, models_dir)
    if not directory.is_dir():
        raise ModelUnavailable(f"The files of {ref} are not in {directory}.", mend)
    try:
        manifest = verify(directory)
        if directory == exported and source.is_dir():
            _require_alike(manifest, read_manifest(source), exported)
    except BadModelDirectory as exc:
        raise ModelUnavailable(str(exc), mend) from exc
    if runtime == "onnx" and manifest.runtime in (SENTENCE_TRANSFORMERS, OPEN_CLIP):
        raise ModelUnavailable(f"{ref} has no ONNX form yet.", export_command(ref, models_dir))
    if runtime == "torch" and manifest.runtime not in (SENTENCE_TRANSFORMERS, OPEN_CLIP):
        raise ModelUnavailable(f"{ref} has no form that runs by torch.", f"{COMMAND} list")
    if manifest.dim != dim:
        raise _wrong_kind(ref, f"gives {manifest.dim} values, the collection has dim {dim}")
    return directory, manifest, mend


def _require_alike(exported: Manifest, source: Manifest, where: Path) -> None:
    if exported.embedding_version != source.embedding_version:
        raise BadModelDirectory(f"{where} was exported from another model than the one beside it.")
