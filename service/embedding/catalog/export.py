"""`models export`: a model that runs by torch into the form that serves without it, and 8-bit forms.

The result lies beside its source, agrees with it on every stored sample to cosine .9999, and so has the same
embedding_version. An 8-bit form has a version of its own.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from service.embedding.catalog.builtin import MODEL_FILE
from service.embedding.catalog.loader import TORCH_INSTALL, load_embedder, open_embedder
from service.embedding.catalog.reference_vectors import ask, check_samples, write_samples
from service.embedding.catalog.references import COMMAND, INT8, directory_and_hint, exported_directory
from service.embedding.convert.int8_graph import write_int8
from service.embedding.manifest import BadModelDirectory, Manifest, marks_of, publish, verify
from service.embedding.port import Embedder, ImageEmbedder, Modality, TextEmbedder
from service.embedding.preprocess import Preprocess
from service.embedding.runtime_names import ONNX_CLIP, ONNX_TEXT, OPEN_CLIP, SENTENCE_TRANSFORMERS

COSINE_MIN = 0.9999
INT8_COSINE_MIN = 0.999  # other processors have other integer kernels
IMAGE_FILE, TEXT_FILE, TOKENIZER_FILE = "image.onnx", "text.onnx", "tokenizer.json"
Say = Callable[[str], None]


def export(ref: str, models_dir: Path, say: Say) -> tuple[Manifest, Path]:
    """Make another form of what `ref` names and return its manifest and directory.

    A reference that ends in +int8 gives the 8-bit form, any other the ONNX form of a torch model. Raises
    BadModelDirectory (nothing to convert, or the result disagrees), ModelUnavailable.
    """
    if ref.endswith(INT8):
        return _export_int8(ref, models_dir, say)
    source, _ = directory_and_hint(ref, models_dir)
    manifest = verify(source)
    if manifest.runtime not in (SENTENCE_TRANSFORMERS, OPEN_CLIP):
        raise BadModelDirectory(f"{ref} serves without torch as it is ({manifest.runtime}).")
    if importlib.util.find_spec("torch") is None:
        raise BadModelDirectory(f"{ref} is exported by torch, which is not installed.", hint=TORCH_INSTALL)
    target = exported_directory(source)
    convert = _sentences if manifest.runtime == SENTENCE_TRANSFORMERS else _clip
    work = Path(tempfile.mkdtemp(prefix=".export.", dir=source.parent))
    try:
        exported = convert(source, manifest, work, say)
        exported = replace(exported, files=marks_of(work))
        publish(work, target, exported)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return exported, target


def _sentences(source: Path, manifest: Manifest, work: Path, say: Say) -> Manifest:
    from service.embedding.convert.torch_export import write_sentences
    from service.embedding.runtimes.torch_text import SentenceTransformerEmbedder

    if not (source / TOKENIZER_FILE).is_file():
        raise BadModelDirectory(f"{source / TOKENIZER_FILE} is missing: its tokenizer can't be served.")
    say(f"{manifest.name}: loading the reference")
    reference = SentenceTransformerEmbedder(source, manifest, threads=1, device="cpu")
    say(f"{manifest.name}: writing {MODEL_FILE}")
    write_sentences(reference.model, work / MODEL_FILE)
    shutil.copyfile(source / TOKENIZER_FILE, work / TOKENIZER_FILE)
    pad = reference.model.tokenizer.pad_token_id
    exported = replace(
        manifest,
        runtime=ONNX_TEXT,
        interface={
            "model_file": MODEL_FILE,
            "inputs": ["input_ids", "attention_mask"],
            "output": "vectors",
            "pad_id": pad if pad is not None else 0,
        },
    )
    _prove(work, exported, reference, None, say)
    return exported


def _clip(source: Path, manifest: Manifest, work: Path, say: Say) -> Manifest:
    from service.embedding.convert.torch_export import clip_tokenizer, write_image_tower, write_text_tower
    from service.embedding.runtimes.torch_clip import ClipImages, ClipTexts

    say(f"{manifest.name}: loading the reference")
    images = ClipImages(source, manifest, threads=1)
    texts = ClipTexts(source, manifest, threads=1)
    say(f"{manifest.name}: writing {IMAGE_FILE} and {TEXT_FILE}")
    side = Preprocess.from_parts(manifest.parts["preprocess"]).side
    write_image_tower(images.model, side, work / IMAGE_FILE)
    write_text_tower(texts.model, work / TEXT_FILE)
    clip_tokenizer(texts.tokenizer).save(str(work / TOKENIZER_FILE), pretty=False)
    exported = replace(
        manifest,
        runtime=ONNX_CLIP,
        interface={
            "model_file": IMAGE_FILE,
            "text_file": TEXT_FILE,
            "tokens_max": int(texts.model.context_length),
        },
    )
    _prove(work, exported, texts, images, say)
    return exported


def _prove(
    work: Path, manifest: Manifest, texts: TextEmbedder | None, images: ImageEmbedder | None, say: Say,
    cosine_min: float = COSINE_MIN,
) -> None:  # fmt: skip
    """Store what the reference answers, and hold the new form to it before anybody sees it."""
    samples = ask(texts, images, cosine_min)
    write_samples(work, samples)
    lowest = 1.0
    manifest = replace(manifest, files={})
    answered: tuple[tuple[Modality, Embedder[Any] | None], ...] = (("text", texts), ("image", images))
    for modality, reference in answered:
        if reference is not None:
            made = open_embedder(manifest.name, modality, work, manifest, 1)
            lowest = min(lowest, check_samples(samples, modality, made))
    say(f"{manifest.name}: agrees with its reference to cosine {lowest:.6f}")


def _export_int8(ref: str, models_dir: Path, say: Say) -> tuple[Manifest, Path]:
    base_ref = ref.removesuffix(INT8)
    target, _ = directory_and_hint(ref, models_dir)
    plain, _ = directory_and_hint(base_ref, models_dir)
    source = exported_directory(plain) if exported_directory(plain).is_dir() else plain
    manifest = verify(source)
    if manifest.runtime not in (ONNX_TEXT, ONNX_CLIP):
        raise BadModelDirectory(
            f"{base_ref} has no form that can be made 8-bit.", hint=f"{COMMAND} export {base_ref}"
        )
    dim = manifest.dim
    texts = load_embedder(base_ref, "text", models_dir=models_dir, dim=dim, threads=1)
    images = None
    if manifest.runtime == ONNX_CLIP:
        images = load_embedder(base_ref, "image", models_dir=models_dir, dim=dim, threads=1)
    work = Path(tempfile.mkdtemp(prefix=".export.", dir=target.parent))
    try:
        interface = dict(manifest.interface)
        total = 0
        for key in [k for k in ("model_file", "text_file") if k in interface]:
            interface[key] = Path(interface[key]).name
            count = write_int8(source / manifest.interface[key], work / interface[key])
            total += count
            say(f"{manifest.name}: {interface[key]} has {count} matrices in 8 bits")
        if not total:
            raise BadModelDirectory(f"{base_ref} has no matrix that is worth 8 bits.")
        shutil.copyfile(source / TOKENIZER_FILE, work / TOKENIZER_FILE)
        parts = {**manifest.parts, "precision": "int8-blocks-32"}
        label = f"{manifest.label.removesuffix('-fp32')}-int8"
        made = replace(manifest, parts=parts, label=label, interface=interface)
        _prove(work, made, texts, images, say, INT8_COSINE_MIN)
        made = replace(made, files=marks_of(work))
        publish(work, target, made)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return made, target
