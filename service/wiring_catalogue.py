"""Which collections are served, each by the model that made its current generation.

Read before anything is opened and imported without the index engine, so that the right models load first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from index_store.port import IndexStorage
from service.app.encoders import template_suffix
from service.app.generations.origin import Origin, read_origin
from service.app.generations.serving import Current, ModelChange, matching_origin, served_as
from service.collections import Catalogue, Collection
from service.embedding.catalog.known_versions import versions_here
from service.embedding.catalog.loader import version_of
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class ServingCatalogue:
    """catalogue: as it is served. changes: of each collection with a model, what the configuration asks for;
    where that serves already, a promotion may still change it."""

    catalogue: Catalogue
    changes: Mapping[str, ModelChange]


def serving_catalogue(settings: Settings, storage: IndexStorage, configured: Catalogue) -> ServingCatalogue:
    """Return `configured` with model, text template and dim of each current generation. Reads the
    storage and model manifests; changes nothing."""
    collections: list[Collection] = []
    changes: dict[str, ModelChange] = {}
    for each in configured.collections:
        served, change = _served(settings, storage, each)
        collections.append(served)
        if change is not None:
            changes[each.name] = change
    return ServingCatalogue(Catalogue(tuple(collections)), changes)


def _served(
    settings: Settings, storage: IndexStorage, configured: Collection
) -> tuple[Collection, ModelChange | None]:
    found = storage.current_identity(configured.name)

    def version(collection: Collection) -> str:
        return model_version(settings.models_dir, collection)

    if found is None:
        return served_as(configured, None, version, lambda: None)
    current = Current(found.embedding_version, found.dim, read_origin(found.origin))

    def find_origin() -> Origin | None:
        known = versions_here(settings.models_dir, configured.modality, found.dim)
        templates = [configured.text_template] if configured.modality == "text" else []
        return matching_origin(found.embedding_version, known, templates)

    return served_as(configured, current, version, find_origin)


def model_version(models_dir: Path, collection: Collection) -> str:
    """Return the embedding_version that the collection's model, template and dim give, without loading
    weights. Raises ModelUnavailable."""
    plain = version_of(collection.model, models_dir, modality=collection.modality, dim=collection.dim)
    return plain + template_suffix(collection.text_template if collection.modality == "text" else "")
