"""The space probe: are the stored vectors really those of the model that will answer queries?

A sample of source rows is embedded again by the service and compared with what is stored. Equal dimensions
prove nothing: another model, another export of the same model, or placeholder noise of an old process all
fit the column. Without this proof an import is given no embedding_version.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from feeder.changes import ItemRow, VectorPage
from feeder.errors import ImportRefused
from feeder.read.image_fetch import PictureRefused
from feeder.read.text_template import rendered
from feeder.sink.writer import service_errors
from feeder.table_mapping import Modality
from feeder.telemetry.reporting import by_reason
from vector_client.errors import BadRequest
from vector_client.http import VectorClient
from vector_client.types import Id

log = logging.getLogger(__name__)

TEXTS_A_CALL = 100
TEXT_CHARACTERS_MAX = 1000
NOISE_COSINE_MAX = 0.25
"""Two unrelated random directions of 384 dimensions lie within 0.25 of cosine 0 (five deviations)."""
COMPARED_MIN = 20
NAMES_SHOWN = 5
CONTENTS_MAX = 2_000
"""Embedded for one sample at most, unless the first id alone has more."""
LINE_SECONDS = 5.0
REASONS_SHOWN = 10

Pictures = Callable[[str], bytes]
"""Address of a picture to its bytes. Raises PictureRefused."""


@dataclass(frozen=True, slots=True)
class ProbeRules:
    """median_min: what the middle of the sample must reach. noise_percent_max: how much of it may lie near
    cosine 0."""

    median_min: float
    noise_percent_max: float


@dataclass(frozen=True, slots=True)
class SpaceProof:
    """What the probe saw. version: the space of the service's own vectors. reason: why it is no proof, None
    when it is one. most: the sampled id with the most rows of content, and how many, if that is over one."""

    version: str
    compared: int
    median: float
    lowest: float
    noise: int
    noise_ids: Sequence[Id]
    reason: str | None
    most: tuple[Id, int] | None = None

    def __str__(self) -> str:
        return (
            f"{self.compared} rows embedded again: median cosine {self.median:.5f}, lowest {self.lowest:.5f},"
            f" {self.noise} near 0" + self._widest()
        )

    def _widest(self) -> str:
        return f"; id {self.most[0]} has the most rows of content, {self.most[1]:,}" if self.most else ""


class SpaceProbe:
    """Compares stored vectors of one collection with fresh ones."""

    def __init__(
        self,
        client: VectorClient,
        collection: str,
        modality: Modality,
        template: str,
        rules: ProbeRules,
        clock: Callable[[], float] = time.monotonic,
        embedding_version: str | None = None,
    ) -> None:
        """embedding_version: by which of the collection's models; None: by the one that serves."""
        self._asked = {} if embedding_version is None else {"embedding_version": embedding_version}
        self._client = client
        self._collection = collection
        self._modality = modality
        self._template = template
        self._rules = rules
        self._clock = clock

    def prove(
        self, sample: VectorPage, content: Mapping[Id, Sequence[ItemRow]], pictures: Pictures
    ) -> SpaceProof:
        """Return the verdict on a sample. An id with several rows of content counts by the best of them. Each
        content is embedded once, and CONTENTS_MAX in all: ids of many rows are left out before others."""
        chosen, most = self._chosen(sample.ids, content)
        wanted = list(dict.fromkeys(text for texts in chosen.values() for text in texts))
        with service_errors():
            fresh, version = (
                self._embedded_texts(wanted)
                if self._modality == "text"
                else self._embedded_pictures(wanted, pictures)
            )
        cosines = _best_cosines(sample, chosen, fresh)
        return replace(self._judged(sample, cosines, version), most=most)

    def _chosen(
        self, ids: Sequence[Id], content: Mapping[Id, Sequence[ItemRow]]
    ) -> tuple[dict[Id, list[str]], tuple[Id, int] | None]:
        """Return the contents that each id is compared by, and the id with the most rows if over one."""
        contents = {item_id: self._contents(content.get(item_id, ())) for item_id in dict.fromkeys(ids)}
        chosen: dict[Id, list[str]] = {}
        left = CONTENTS_MAX
        for item_id, texts in sorted(contents.items(), key=lambda pair: len(pair[1])):
            if texts and (len(texts) <= left or not chosen):
                chosen[item_id] = texts
                left -= len(texts)
        rows = {item_id: len(content.get(item_id, ())) for item_id in contents}
        widest = max(rows, key=rows.__getitem__, default=None)
        return chosen, None if widest is None or rows[widest] <= 1 else (widest, rows[widest])

    def _contents(self, rows: Sequence[ItemRow]) -> list[str]:
        if self._modality == "image":
            return sorted({row.content.get("image_url", "") for row in rows} - {""})
        texts = dict.fromkeys(rendered(self._template, row.content) for row in rows)
        return [text for text in texts if text and _can_be_embedded(text)]

    def _embedded_texts(self, texts: Sequence[str]) -> tuple[dict[str, Sequence[float]], str]:
        fresh: dict[str, Sequence[float]] = {}
        version = ""
        for start in self._with_progress_lines(range(0, len(texts), TEXTS_A_CALL), len(texts)):
            some = texts[start : start + TEXTS_A_CALL]
            answer = self._client.embed_batch(some, self._collection, role="document", **self._asked)
            fresh.update(zip(some, answer.vectors, strict=True))
            version = answer.version
        return fresh, version

    def _embedded_pictures(
        self, addresses: Sequence[str], pictures: Pictures
    ) -> tuple[dict[str, Sequence[float]], str]:
        fresh: dict[str, Sequence[float]] = {}
        refused: dict[str, str] = {}
        version = ""
        for position in self._with_progress_lines(range(len(addresses)), len(addresses)):
            try:
                picture = pictures(addresses[position])
            except PictureRefused as exc:
                refused[addresses[position]] = str(exc)
                continue
            try:
                answer = self._client.embed_image(picture, self._collection, **self._asked)
            except BadRequest:
                continue  # not a picture the service takes: it proves nothing either way
            fresh[addresses[position]] = answer.vectors[0]
            version = answer.version
        for why, which in by_reason(refused)[:REASONS_SHOWN]:
            about = {"why": why, "count": len(which), "first": which[0]}
            log.warning("picture_refused", extra={"collection": self._collection, **about})
        return fresh, version

    def _with_progress_lines(self, positions: range, total: int) -> Iterator[int]:
        """Yield the positions, and log the progress every few seconds."""
        about = {"collection": self._collection, "contents": total}
        log.info("space_probe_began", extra=about)
        shown_at = self._clock()
        for position in positions:
            yield position
            if self._clock() - shown_at >= LINE_SECONDS:
                shown_at = self._clock()
                log.info(
                    "space_probe_went_on", extra={**about, "done": min(position + positions.step, total)}
                )

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


def _can_be_embedded(text: str) -> bool:
    """One text that the service refuses must not spoil the others of its call."""
    return len(text) <= TEXT_CHARACTERS_MAX and "\0" not in text


def require(proof: SpaceProof, collection: str) -> None:
    """Raise ImportRefused when the probe found no proof."""
    if proof.reason is not None:
        raise ImportRefused(
            f"space probe of {collection!r}: {proof.reason}. Seen: {proof}. Nothing was written.",
            hint="Embed the rows again from their content, or, if you know what made these vectors,"
            " say so with --embedding-version NAME --trust-vectors.",
        )


def _best_cosines(
    sample: VectorPage, chosen: Mapping[Id, Sequence[str]], fresh: Mapping[str, Sequence[float]]
) -> npt.NDArray[np.float64]:
    """Return for each stored row the best cosine to a fresh vector of its id; NaN without one, and for a
    stored vector that has no direction (the import skips it)."""
    best = np.full(len(sample.ids), np.nan)
    units: dict[Id, npt.NDArray[np.float64]] = {}
    for item_id, contents in chosen.items():
        vectors = [fresh[content] for content in contents if content in fresh]
        if vectors:
            units[item_id] = _unit(np.array(vectors, dtype=np.float64))
    for position, item_id in enumerate(sample.ids):
        if item_id in units:
            cosines = units[item_id] @ _unit(sample.vectors[position].astype(np.float64))
            best[position] = np.fmax.reduce(cosines)
    return best


def _unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        found: npt.NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return found
