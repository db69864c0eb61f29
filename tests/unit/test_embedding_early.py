"""Models are opened from `begin` on, and what serves them is imported meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.embedding.catalog.preload import EarlyModels
from service.errors import ModelUnavailable


def test_a_begun_model_is_opened_once_and_belongs_to_who_asks_first(tmp_path: Path) -> None:
    models = EarlyModels(tmp_path, threads=1, runtime="auto")
    models.begin_loading([("text", "builtin:hashed-ngrams", 384), ("image", "builtin:descriptor", 512)] * 2)
    first = models.load("text", "builtin:hashed-ngrams", 384)
    assert models.load("text", "builtin:hashed-ngrams", 384) is not first
    assert first.info.dim == 384
    assert models.load("image", "builtin:descriptor", 512).info.dim == 512


def test_a_model_that_nobody_began_is_opened_when_it_is_asked_for(tmp_path: Path) -> None:
    models = EarlyModels(tmp_path, threads=1, runtime="auto")
    assert models.load("text", "builtin:hashed-ngrams", 64).info.dim == 64


def test_a_missing_model_is_told_to_who_asks_for_it_and_spoils_no_other(tmp_path: Path) -> None:
    models = EarlyModels(tmp_path, threads=1, runtime="auto")
    models.begin_loading(
        [("text", "builtin:multilingual-e5-small", 384), ("text", "builtin:hashed-ngrams", 384)]
    )
    with pytest.raises(ModelUnavailable, match="multilingual-e5-small"):
        models.load("text", "builtin:multilingual-e5-small", 384)
    assert models.load("text", "builtin:hashed-ngrams", 384).info.dim == 384


@pytest.mark.long
def test_the_program_begins_models_before_it_imports_what_serves_them() -> None:
    late = ("fastapi", "faiss", "numba", "service.wiring", "service.embedding.catalog.cli")
    found = "import sys, service.__main__; print([name for name in sys.argv[1:] if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", found, *late], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
