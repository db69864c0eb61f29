"""Asking for a rebuild: which model, whether it fits, and the job that does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from index_store.errors import GenerationConflict
from index_store.port import IndexStorage
from index_store.types import CollectionStatus
from service.app.encoders import Encoders, has_same_template, template_suffix
from service.app.generations.serving import ModelChange
from service.app.rebuild.estimate import Estimate, Trial, TryModel, estimate, sample_size
from service.app.rebuild.filler import RebuildIndex
from service.app.rebuild.jobs import Job, JobStore
from service.collections import NO_MODEL, Collection
from service.errors import InvalidInput, JobConflict


@dataclass(frozen=True, slots=True)
class Rebuild:
    """What was asked for, and what it takes. dim: of the vectors that `model` gives."""

    collection: Collection
    model: str
    text_template: str
    dim: int
    embedding_version: str
    estimate: Estimate


class Rebuilds:
    """Blocking; safe from any thread."""

    def __init__(
        self,
        jobs: JobStore,
        index: RebuildIndex,
        encoders: Encoders,
        changes: Callable[[str], ModelChange | None],
        try_model: TryModel,
        storage: IndexStorage,
        *,
        workers: int,
    ) -> None:
        """changes: what the configuration asks for instead of what serves, by collection."""
        self.jobs = jobs
        self._index = index
        self._encoders = encoders
        self._changes = changes
        self._try_model = try_model
        self._storage = storage
        self._workers = workers

    def plan(
        self,
        collection: Collection,
        model: str | None,
        embedding_version: str | None,
        dim: int | None = None,
        text_template: str | None = None,
    ) -> Rebuild:
        """Return what a rebuild would do and take; the model is opened, tried and closed again.

        model: None takes the configured one. embedding_version: what the caller believes that it gives. dim:
        of a model that gives any; None takes the configured one, or with another model the current one.
        text_template: None takes the configured one where no model is named, else the current one. Without a
        model the caller names the embedding_version of vectors that others bring. Raises InvalidInput,
        ModelUnavailable, GenerationConflict.
        """
        change = self._changes(collection.name)
        reference = model or (change.configured.model if change else collection.model)
        if reference == NO_MODEL:
            return self._plan_without_model(collection, embedding_version, dim)
        status = self._index.status(collection.name)
        wanted = dim
        if wanted is None and change is not None and reference == change.configured.model:
            wanted = change.configured.dim
        if wanted is None:
            wanted = status.current.dim if status.current else collection.dim
        template = self._template(collection, change if model is None else None, text_template)
        sample = self._index.content_sample(collection.name, sample_size())
        trial = self._try_model(replace(collection, dim=wanted), reference, sample)
        if dim not in (None, trial.dim):
            raise InvalidInput("dim", f"is {dim}, and {reference} gives vectors of {trial.dim}")
        version = trial.embedding_version + template_suffix(template)
        if embedding_version not in (None, version):
            raise GenerationConflict(f"{reference} gives {version!r}, not {embedding_version!r}")
        _require_possible(status, version)
        assert status.current is not None
        is_alike = has_same_template(status.current.embedding_version, version)
        found = self._estimated(status, trial, takes_contents=is_alike)
        return Rebuild(collection, reference, template, trial.dim, version, found)

    def _plan_without_model(
        self, collection: Collection, embedding_version: str | None, dim: int | None
    ) -> Rebuild:
        if not embedding_version:
            raise InvalidInput(
                "model",
                "must be named, or embedding_version for vectors that others bring: the collection is "
                "configured without one",
            )
        status = self._index.status(collection.name)
        _require_possible(status, embedding_version)
        current_dim = status.current.dim if status.current else collection.dim
        trial = Trial(embedding_version, dim or current_dim, seconds_an_item=None, model_bytes=0)
        found = self._estimated(status, trial, takes_contents=True)
        return Rebuild(collection, NO_MODEL, "", trial.dim, embedding_version, found)

    def _estimated(self, status: CollectionStatus, trial: Trial, *, takes_contents: bool) -> Estimate:
        room, footprints = self._storage.disk_space(), self._index.footprints(status.spec.name)
        return estimate(room, footprints, status, trial, self._workers, takes_contents=takes_contents)

    def _template(self, collection: Collection, change: ModelChange | None, given: str | None) -> str:
        if collection.modality != "text":
            if given:
                raise InvalidInput(
                    "text_template", f"is no part of the picture collection {collection.name!r}"
                )
            return ""
        if given is not None:
            return given
        return (
            change.configured.text_template if change else self._encoders.slot(collection.name).text_template
        )

    def start(self, rebuild: Rebuild) -> Job:
        """Return the job that does it, queued and on disk. Raises JobConflict, OSError."""
        problem = rebuild.estimate.problem
        if problem:
            raise JobConflict(f"The rebuild does not fit: {problem}.")
        name = rebuild.collection.name
        for job in self.jobs.all():
            if job.collection == name and not job.is_over:
                raise JobConflict(f"The job {job.id} rebuilds {name!r} already.")
        return self.jobs.create_job(
            name, rebuild.model, rebuild.text_template, rebuild.embedding_version, rebuild.dim
        )

    def end_job(self, job: Job) -> Job:
        """Ask for the end of `job`; return it as it is at this moment. Raises JobConflict, OSError."""
        if job.is_over:
            raise JobConflict(f"The job {job.id} is {job.state}; a generation is given up by POST /v1/abort.")
        self.jobs.request_end(job.id)
        return self.jobs.find_job(job.id) or job


def _require_possible(status: CollectionStatus, version: str) -> None:
    if status.current is None:
        raise GenerationConflict("the collection is empty: its first write begins its generation")
    for generation in status.generations:
        if generation.embedding_version == version and generation.role != "next":
            helps = (
                "POST /v1/rollback makes it current"
                if generation.role == "former"
                else "nothing would change; name another model"
            )
            raise GenerationConflict(f"{version!r} is the {generation.role} generation already: {helps}")
        if generation.role == "next" and generation.embedding_version != version:
            raise GenerationConflict(
                f"a generation of {generation.embedding_version!r} is being filled: promote or abort it first"
            )
