"""The space probe: are the stored vectors really those of the model that will answer queries?

A sample of source rows is embedded again by the service and compared with what is stored. Equal dimensions
prove nothing: another model, another export of the same model, or placeholder noise of an old process all
fit the column. Without this proof an import is given no embedding_version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from feeder.changes import ItemRow, VectorPage, Vectors
from feeder.errors import ImportRefused
from feeder.read.text_template import rendered
from feeder.sink.writer import service_errors
from feeder.table_mapping import Modality
from vector_client.errors import BadRequest
from vector_client.http import VectorClient
from vector_client.types import Id

TEXTS_A_CALL = 100
TEXT_CHARACTERS_MAX = 1000
NOISE_COSINE_MAX = 0.25
"""Two unrelated random directions of 384 dimensions lie within 0.25 of cosine 0 (five deviations)."""
COMPARED_MIN = 20
NAMES_SHOWN = 5

Pictures = Callable[[str], bytes | None]
"""Address of a picture to its bytes; None when it cannot be had."""


@dataclass(frozen=True, slots=True)
class ProbeRules:
    """median_min: what the middle of the sample must reach. noise_percent_max: how much of it may lie near
    cosine 0."""

    median_min: float
    noise_percent_max: float


@dataclass(frozen=True, slots=True)
class SpaceProof:
    """What the probe saw. version: the space of the service's own vectors. reason: why it is no proof, None
    when it is one."""

    version: str
    compared: int
    median: float
    lowest: float
    noise: int
    noise_ids: Sequence[Id]
    reason: str | None

    def __str__(self) -> str:
        return (
            f"{self.compared} rows embedded again: median cosine {self.median:.5f}, lowest {self.lowest:.5f},"
            f" {self.noise} near 0"
        )


class SpaceProbe:
    """Compares stored vectors of one collection with fresh ones."""

    def __init__(
        self, client: VectorClient, collection: str, modality: Modality, template: str, rules: ProbeRules
    ) -> None:
        self._client = client
        self._collection = collection
        self._modality = modality
        self._template = template
        self._rules = rules

    def prove(
        self, sample: VectorPage, content: Mapping[Id, Sequence[ItemRow]], pictures: Pictures
    ) -> SpaceProof:
        """Return the verdict on a sample. An id with several rows of content counts by the best of them."""
        with service_errors():
            if self._modality == "text":
                places, fresh, version = self._embedded_texts(sample.ids, content)
            else:
                places, fresh, version = self._embedded_pictures(sample.ids, content, pictures)
        cosines = _best_cosines(sample.vectors, places, fresh)
        return self._judged(sample, cosines, version)

    def _embedded_texts(
        self, ids: Sequence[Id], content: Mapping[Id, Sequence[ItemRow]]
    ) -> tuple[list[int], Vectors, str]:
        pairs = [
            (place, text)
            for place, item_id in enumerate(ids)
            for row in content.get(item_id, ())
            if (text := rendered(self._template, row.content)) and len(text) <= TEXT_CHARACTERS_MAX
        ]
        vectors: list[Sequence[float]] = []
        version = ""
        for start in range(0, len(pairs), TEXTS_A_CALL):
            texts = [text for _, text in pairs[start : start + TEXTS_A_CALL]]
            answer = self._client.embed_batch(texts, self._collection, role="document")
            vectors += answer.vectors
            version = answer.version
        return [place for place, _ in pairs], np.array(vectors, dtype=np.float32), version

    def _embedded_pictures(
        self, ids: Sequence[Id], content: Mapping[Id, Sequence[ItemRow]], pictures: Pictures
    ) -> tuple[list[int], Vectors, str]:
        places: list[int] = []
        vectors: list[Sequence[float]] = []
        version = ""
        for place, item_id in enumerate(ids):
            addresses = {row.content.get("image_url", "") for row in content.get(item_id, ())} - {""}
            for address in sorted(addresses):
                picture = pictures(address)
                if picture is None:
                    continue
                try:
                    answer = self._client.embed_image(picture, self._collection)
                except BadRequest:
                    continue  # not a picture the service takes: it proves nothing either way
                places.append(place)
                vectors += answer.vectors
                version = answer.version
        return places, np.array(vectors, dtype=np.float32), version

    def _judged(self, sample: VectorPage, cosines: npt.NDArray[np.float64], version: str) -> SpaceProof:
        compared = cosines[np.isfinite(cosines)]
        needed = max(1, min(COMPARED_MIN, len(cosines)))
        if len(compared) < needed:
            hint = "is source.items.content right?"
            if self._modality == "image":
                hint = "can the pictures be reached (FEEDER_IMAGE_HOSTS)?"
            reason = (
                f"only {len(compared)} of {len(cosines)} sampled rows could be embedded again,"
                f" {needed} are needed: {hint}"
            )
            return SpaceProof(version, len(compared), 0.0, 0.0, 0, [], reason)
        noisy = np.flatnonzero(np.abs(cosines) < NOISE_COSINE_MAX)
        proof = SpaceProof(
            version,
            len(compared),
            float(np.median(compared)),
            float(compared.min()),
            len(noisy),
            [sample.ids[int(row)] for row in noisy],
            None,
        )
        return replace(proof, reason=self._reason(proof))

    def _reason(self, proof: SpaceProof) -> str | None:
        rules = self._rules
        if proof.noise * 100 > rules.noise_percent_max * proof.compared:
            shown = ", ".join(map(str, proof.noise_ids[:NAMES_SHOWN]))
            shown += ", ..." if proof.noise > NAMES_SHOWN else ""
            return (
                f"{proof.noise} of {proof.compared} rows lie near cosine 0 to their own content, as"
                f" placeholder noise does (ids {shown}); at most"
                f" {rules.noise_percent_max:g} % may"
            )
        if proof.median < rules.median_min:
            return (
                f"the median cosine is {proof.median:.5f}, below {rules.median_min:g}: the vectors are of"
                " another model, another export of it, or were made of other text than the template says"
            )
        return None


def require(proof: SpaceProof, collection: str) -> None:
    """Raise ImportRefused when the probe found no proof."""
    if proof.reason is not None:
        raise ImportRefused(
            f"space probe of {collection!r}: {proof.reason}. Seen: {proof}. Nothing was written."
            " Embed the rows again from their content, or, if you know what made these vectors,"
            " say so with --embedding-version NAME --trust-vectors"
        )


def _best_cosines(stored: Vectors, places: Sequence[int], fresh: Vectors) -> npt.NDArray[np.float64]:
    """Return for each stored row the best cosine to a fresh vector of it; NaN without one, and for a stored
    vector that has no direction (the import sets it aside on its own)."""
    best = np.full(len(stored), np.nan)
    if len(places):
        left = stored[places].astype(np.float64)
        right = fresh.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
            np.fmax.at(best, places, np.einsum("ij,ij->i", left, right) / lengths)
    return best
