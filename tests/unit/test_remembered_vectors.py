"""What the benchmark of quality rests on: vectors remembered from run to run, pictures at one scale."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from benchmarks.picture_changes import at_one_scale_jpeg
from benchmarks.remembered_vectors import RememberingEmbedder
from service.embedding.runtimes.placeholder import FunctionEmbedder, info_without_model

CONTENTS: dict[str, list[Any]] = {
    "text": ["국", "밥", "국수"],
    "image": [np.full((4, side, 3), side, np.uint8) for side in (4, 5, 6)],
}


def counting(asked: list[Any]) -> Callable[[Any], npt.NDArray[np.float32]]:
    def vector_of(content: Any) -> npt.NDArray[np.float32]:
        asked.append(content)
        return np.eye(8, dtype=np.float32)[len(content) % 8 if isinstance(content, str) else content.shape[1]]

    return vector_of


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_content_is_embedded_once_over_two_runs(tmp_path: Path, modality: Any) -> None:
    asked: list[Any] = []
    one, two, three = CONTENTS[modality]
    info = info_without_model("placeholder", modality, 8)
    first = RememberingEmbedder(FunctionEmbedder(info, counting(asked)), tmp_path)
    before = first.embed([one, two, one], "query").vectors
    assert len(asked) == 2 and (before[0] == before[2]).all()
    first.embed([one], "document")
    assert len(asked) == 3, "a role has vectors of its own"
    first.close()
    again = RememberingEmbedder(FunctionEmbedder(info, counting(asked)), tmp_path)
    assert (again.embed([two, one], "query").vectors == before[[1, 0]]).all() and len(asked) == 3
    again.embed([three], "query")
    assert len(asked) == 4
    again.close()


def test_whatever_scale_a_thing_is_shown_at_it_comes_out_alike() -> None:
    found = []
    for side in (40, 150):
        picture = Image.new("RGB", (200, 200), (255, 255, 255))
        picture.paste((200, 20, 20), (10, 30, 10 + side, 30 + side))
        pixels = np.asarray(Image.open(io.BytesIO(at_one_scale_jpeg(picture))).convert("L"))
        rows, columns = (np.flatnonzero((pixels < 200).any(axis=axis)) for axis in (1, 0))
        found.append((rows[0], rows[-1], columns[0], columns[-1]))
    assert np.abs(np.subtract(*found)).max() <= 2 and abs(int(found[0][1] - found[0][0]) - 179) <= 2
    white = Image.new("RGB", (30, 20), (255, 255, 255))
    assert Image.open(io.BytesIO(at_one_scale_jpeg(white))).size == (224, 224)
