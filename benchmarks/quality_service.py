"""Data sets in a service of this process: filled, sealed, and asked as a caller would ask, for bench_quality.

Texts and searches go the whole way from the reader of requests on: what a query means, the model, the words,
the index. Only the model's passes are remembered from run to run (`remembered_vectors`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from benchmarks.quality_queries import DataSet
from benchmarks.remembered_vectors import RememberingModels
from index_store.maintenance.worker import Maintenance
from service.app.ingest import Intake, NewItem
from service.embedding.catalog.preload import EarlyModels
from service.embedding.text import normalise_text
from service.http.app import search_limits
from service.http.wire.schemas import SearchIn
from service.http.wire.search import SearchReader
from service.settings import Settings
from service.wiring import Service, build
from service.words.synonyms import BUILTIN

Setting: TypeAlias = Literal["dense", "lexical", "hybrid", "hybrid, words"]
"""How is asked; words: with the words file that comes along."""
SETTINGS: tuple[Setting, ...] = ("dense", "lexical", "hybrid", "hybrid, words")
Answers: TypeAlias = list[list[int]]
"""For each query the places of the documents found, best first."""
_AT_ONCE = 500
_ASKED_AT_ONCE = 16


class FilledService:
    """Data sets on disk, each a collection. Made by `filled_service`."""

    def __init__(self, work: Path, model: str, models_dir: Path, opener: type[EarlyModels]) -> None:
        self._work, self._model, self._opener = work, model, opener
        self._environ = {
            "DATA_DIR": str(work / "data"), "COLLECTIONS_FILE": str(work / "collections.toml"),
            "TEXT_MODEL": model, "IMAGE_MODEL": "builtin:descriptor", "MODELS_DIR": str(models_dir),
            "LOG_LEVEL": "error", "SEARCH_DEADLINE_MS": "120000", "UPSERT_DEADLINE_MS": "3600000",
            "QUEUE_MS_MAX": "60000",
        }  # fmt: skip

    def fill(self, sets: Sequence[DataSet]) -> None:
        """Write all documents, and seal them."""
        asyncio.run(self._fill(sets))
        if Maintenance(self._work / "data").rebuild() is None:
            raise AssertionError("nothing was sealed")

    def answers(self, sets: Sequence[DataSet], settings: Sequence[Setting], k: int) -> dict[
        tuple[str, Setting], Answers
    ]:  # fmt: skip
        """Return what each set's queries find under each setting, by (set, setting)."""
        found: dict[tuple[str, Setting], Answers] = {}
        with_words = [each for each in settings if each in ("dense", "hybrid, words")]
        without = [each for each in settings if each not in with_words]  # dense answers need no words file
        for some, has_words in ((with_words, True), (without, False)):
            if some:
                found |= asyncio.run(self._answers(sets, some, k, has_words))
        return found

    async def _fill(self, sets: Sequence[DataSet]) -> None:
        async with self._opened(sets, has_words=False) as service:
            for one in sets:
                items = [
                    NewItem(place, place, text=normalise_text(each.text), metadata=each.fields)
                    for place, each in enumerate(one.documents)
                ]
                for start in range(0, len(items), _AT_ONCE):
                    some = Intake(one.name, items[start : start + _AT_ONCE])
                    await service.ingester.ingest(some, partial=False)

    async def _answers(
        self, sets: Sequence[DataSet], settings: Sequence[Setting], k: int, has_words: bool
    ) -> dict[tuple[str, Setting], Answers]:
        found = {}
        async with self._opened(sets, has_words) as service:
            for one in sets:
                for setting in settings:
                    found[one.name, setting] = await self._asked(service, one, setting, k)
        return found

    async def _asked(self, service: Service, one: DataSet, setting: Setting, k: int) -> Answers:
        dependencies = service.parts.dependencies
        reader = SearchReader(dependencies.catalogue, search_limits(dependencies.settings))
        mode = setting.removesuffix(", words")
        answers: Answers = []
        for start in range(0, len(one.queries), _ASKED_AT_ONCE):
            bodies = [
                SearchIn(query=each.text, collection=one.name, mode=mode, top_k=k)
                for each in one.queries[start : start + _ASKED_AT_ONCE]
            ]
            results = await asyncio.gather(*(service.parts.searcher.find(reader.parse(b)) for b in bodies))
            answers += [[int(hit.id) for hit in result.hits] for result in results]
        return answers

    @asynccontextmanager
    async def _opened(self, sets: Sequence[DataSet], has_words: bool) -> AsyncIterator[Service]:
        text = "\n".join(_collection(each, self._model, has_words) for each in sets)
        (self._work / "collections.toml").write_text(text, "utf-8")
        settings = Settings.from_environ(self._environ)
        threads, runtime = settings.model_threads, settings.model_runtime
        models = self._opener(settings.models_dir, threads=threads, runtime=runtime)
        service = build(settings, models=models)
        async with contextlib.AsyncExitStack() as closing:
            await closing.enter_async_context(service.lifecycle.opened())
            await service.lifecycle.wait()
            yield service


@contextmanager
def filled_service(
    sets: Sequence[DataSet], model: str, models_dir: Path, opener: type[EarlyModels] = RememberingModels
) -> Iterator[FilledService]:
    """A service that holds the sets, as long as the block lasts. opener: of models; `EarlyModels` remembers
    nothing of runs before. Raises ModelUnavailable."""
    with tempfile.TemporaryDirectory() as work:
        service = FilledService(Path(work), model, models_dir, opener)
        service.fill(sets)
        yield service


def _collection(one: DataSet, model: str, has_words: bool) -> str:
    fields = json.dumps(list(one.lexical))
    lines = [
        f"[collections.{one.name}]",
        f'model = "{model}"',
        'id_type = "int64"',
        'modality = "text"',
        "dim = 384",
    ]
    lines += ['metric = "cosine"', f"lexical = {fields}", *([f'synonyms = "{BUILTIN}"'] if has_words else [])]
    return "\n".join([*lines, ""])
