"""Building a model ends in a proof against what torch answered with the same weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from service.embedding.catalog.build import prove, reference_samples
from service.embedding.catalog.builtin import BUILTIN
from service.embedding.catalog.reference_vectors import AT_START, SAMPLES, write_samples
from service.embedding.manifest import BadModelDirectory, verify
from tests.fixtures.models import built_models

pytestmark = pytest.mark.slow  # `make test` runs these; a check before each commit must be quick


@pytest.mark.parametrize("name", BUILTIN)
def test_a_built_model_agrees_with_torch(name: str, tmp_path: Path) -> None:
    source = BUILTIN[name].directory(built_models())
    manifest = verify(source)
    work = tmp_path / "work"
    work.mkdir()
    for file in manifest.files:
        (work / file).hardlink_to(source / file) if file != SAMPLES else None
    write_samples(work, reference_samples(name))
    assert prove(work, manifest) >= 0.9999
    content = json.loads((work / SAMPLES).read_text("utf-8"))
    for key in ("text_vectors", "picture_vectors"):
        for vector in content[key][:1]:
            vector.reverse()
    (work / SAMPLES).write_text(json.dumps(content), "utf-8")
    with pytest.raises(BadModelDirectory, match="sample 0 agrees to"):
        prove(work, manifest)
    shutil.rmtree(work)


@pytest.mark.parametrize("name", BUILTIN)
def test_there_are_enough_samples_to_ask_some_at_each_start(name: str) -> None:
    samples = reference_samples(name)
    assert len(samples.texts) + len(samples.pictures) > AT_START
    assert samples.cosine_min >= 0.9999
