"""Who imports whom, and what docs/ARCHITECTURE.md allows."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tests.tidy.source import PRODUCT_ROOMS, ROOMS, Finding, SourceFile
from tests.tidy.tables import names_in, table_after


@dataclass(frozen=True)
class Import:
    """One import of one of our modules, deferred and TYPE_CHECKING ones too."""

    path: str
    line: int
    importer: str
    imported: str


@dataclass(frozen=True)
class Plan:
    """What docs/ARCHITECTURE.md says.

    rooms: room -> rooms it may import. floors: full module prefix -> (height, name); 0 is the lowest.
    implementations: (prefixes of implementations, prefixes of modules that may name them).
    """

    rooms: Mapping[str, frozenset[str]]
    floors: Mapping[str, tuple[int, str]]
    implementations: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]


def read_plan(text: str) -> Plan:
    rooms = {names_in(r[0])[0]: frozenset(names_in(r[1])) for r in table_after(text, "rooms:")}
    floors: dict[str, tuple[int, str]] = {}
    for height, (room, floor, modules) in enumerate(reversed(table_after(text, "floors:"))):
        for module in names_in(modules):
            floors[f"{names_in(room)[0]}.{module}"] = (height, floor)
    implementations = tuple(
        (tuple(names_in(r[0])), tuple(names_in(r[1]))) for r in table_after(text, "implementations:")
    )
    return Plan(rooms, floors, implementations)


def imports_of(files: Iterable[SourceFile]) -> list[Import]:
    """Every import between our modules. `from room.package import name` counts as the module `name` where
    there is one, else as the package."""
    files = list(files)
    modules = {file.module for file in files}
    return [found for file in files for found in _imports_in(file, modules)]


def _imports_in(file: SourceFile, modules: set[str]) -> Iterator[Import]:
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = _absolute(file, node)
            names = [
                f"{package}.{alias.name}" if f"{package}.{alias.name}" in modules else package
                for alias in node.names
            ]
        else:
            continue
        for name in names:
            if name.split(".", 1)[0] in ROOMS:
                yield Import(file.path, node.lineno, file.module, name)


def _absolute(file: SourceFile, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    parts = file.module.split(".")
    is_package = file.path.endswith("/__init__.py")
    kept = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*kept, *([node.module] if node.module else [])])


def begins(module: str, prefixes: Iterable[str]) -> str:
    """The longest of `prefixes` that names `module` or a package around it; '' for none."""
    fitting = [p for p in prefixes if module == p or module.startswith(p + ".")]
    return max(fitting, key=len, default="")


def wrong_rooms(imports: Iterable[Import], plan: Plan) -> Iterator[Finding]:
    for found in imports:
        here, there = found.importer.split(".", 1)[0], found.imported.split(".", 1)[0]
        if here != there and there not in plan.rooms[here]:
            yield Finding(found.path, found.line, f"{here} may not import {there}")


def upward(imports: Iterable[Import], plan: Plan) -> Iterator[Finding]:
    for found in imports:
        room = found.importer.split(".", 1)[0]
        if room not in PRODUCT_ROOMS or found.imported.split(".", 1)[0] != room:
            continue
        here, there = (begins(name, plan.floors) for name in (found.importer, found.imported))
        if here and there and plan.floors[there][0] > plan.floors[here][0]:
            yield Finding(
                found.path,
                found.line,
                f"{found.importer} ({plan.floors[here][1]}) imports up: {found.imported} "
                f"({plan.floors[there][1]}); move the shared type down",
            )


def without_floor(files: Iterable[SourceFile], plan: Plan) -> Iterator[Finding]:
    for file in files:
        if file.is_product and "." in file.module and not begins(file.module, plan.floors):
            yield Finding(file.path, 0, f"{file.module} has no floor in docs/ARCHITECTURE.md")


def named_outside_wiring(imports: Iterable[Import], plan: Plan) -> Iterator[Finding]:
    for found in imports:
        if found.importer.split(".", 1)[0] not in PRODUCT_ROOMS or found.imported.endswith(".port"):
            continue
        for behind, allowed in plan.implementations:
            if begins(found.imported, behind) and not begins(found.importer, allowed):
                yield Finding(
                    found.path, found.line, f"names {found.imported}, an implementation: use its port"
                )


def circles(imports: Iterable[Import]) -> list[list[str]]:
    """Every strongly connected set of two or more modules, and every module that imports itself."""
    graph: dict[str, set[str]] = {}
    for found in imports:
        graph.setdefault(found.importer, set()).add(found.imported)
        graph.setdefault(found.imported, set())
    reach = {start: _reachable(graph, start) for start in graph}
    found_sets: dict[str, list[str]] = {}
    for module in sorted(graph):
        if module in reach[module]:
            members = sorted(other for other in reach[module] if module in reach[other])
            found_sets.setdefault(members[0], members)
    return list(found_sets.values())


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting.extend(graph[module])
    return seen
