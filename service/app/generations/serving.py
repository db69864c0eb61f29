"""Which model a collection serves by: the one that made its current generation, whatever is configured now.

A changed setting must not end text search. Where the configured model gives another embedding_version than
the current generation has, the collection goes on under the model, text template and dim of that generation,
and the configured ones are a change that is still to come (docs/decisions/0062).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from service.app.encoders import template_suffix
from service.app.generations.origin import Origin
from service.collections import NO_MODEL, Collection
from service.errors import ModelUnavailable

VersionOf: TypeAlias = Callable[[Collection], str]
"""The embedding_version that a collection's model, template and dim give. Raises ModelUnavailable."""


@dataclass(frozen=True, slots=True)
class Current:
    """What is known of a collection's current generation. origin: None where nothing says what made it."""

    embedding_version: str
    dim: int
    origin: Origin | None


@dataclass(frozen=True, slots=True)
class ModelChange:
    """A collection as configured: what it is to be served by once its current generation is made by that.

    embedding_version: what the configured model gives; empty when its files are not here, and `problem` and
    `hint` say so."""

    configured: Collection
    embedding_version: str
    problem: str = ""
    hint: str = ""


def served_as(
    configured: Collection,
    current: Current | None,
    version_of: VersionOf,
    find_origin: Callable[[], Origin | None],
) -> tuple[Collection, ModelChange | None]:
    """Return the collection as it is to be served, and what its configuration asks for, which may be the
    same; None for one without a model.

    find_origin: looks for a model that gives the current version, where the generation does not name its own.
    """
    if configured.model == NO_MODEL:
        return configured, None
    change = _configured_change(configured, version_of)
    if current is None or change.embedding_version == current.embedding_version:
        return configured, change
    origin = current.origin or find_origin()
    if origin is None:  # told by the health probe: nothing here knows what made these vectors
        return configured, change
    served = replace(configured, model=origin.model, text_template=origin.text_template, dim=current.dim)
    return served, change


def _configured_change(configured: Collection, version_of: VersionOf) -> ModelChange:
    try:
        return ModelChange(configured, version_of(configured))
    except ModelUnavailable as exc:
        return ModelChange(configured, "", exc.reason, exc.hint)


def matching_origin(
    version: str, known: Iterable[tuple[str, str]], text_templates: Iterable[str]
) -> Origin | None:
    """Return which model under which of these templates gives `version`, for a generation that was made
    before origins were noted.

    known: the reference of each model that is here, and its version without a template.
    """
    suffixes = {template_suffix(template): template for template in ("", *text_templates)}
    for reference, plain in known:
        suffix = version.removeprefix(plain)
        if version.startswith(plain) and suffix in suffixes:
            return Origin(reference, suffixes[suffix])
    return None
