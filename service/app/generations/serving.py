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
    """A collection as configured, where its current generation was made by something else.

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
    """Return the collection as it is to be served, and the change that its configuration asks for, if any.

    find_origin: looks for a model that gives the current version, where the generation does not name its own.
    """
    if current is None or configured.model == NO_MODEL:
        return configured, None
    version, problem, hint = "", "", ""
    try:
        version = version_of(configured)
    except ModelUnavailable as exc:
        problem, hint = exc.reason, exc.hint
    if version == current.embedding_version:
        return configured, None
    origin = current.origin or find_origin()
    if origin is None:  # told by the health probe: nothing here knows what made these vectors
        return configured, None
    served = replace(configured, model=origin.model, text_template=origin.text_template, dim=current.dim)
    if served == configured:  # the files are gone, or are others now: that is told when they are opened
        return configured, None
    return served, ModelChange(configured, version, problem, hint)


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
