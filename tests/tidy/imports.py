"""Who imports whom, and what docs/ARCHITECTURE.md allows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.tidy.source import PRODUCT_ROOMS, ROOMS, Finding, SourceFile
from tests.tidy.tables import names_in, table_after

FOLDER_FILES_MAX = 12
FORWARDING_LINES = 25


@dataclass(frozen=True)
class Import:
    """One import of one of our modules, deferred and TYPE_CHECKING ones too."""

    path: str
    line: int
    importer: str
    imported: str


@dataclass(frozen=True)
class Part:
    """One row of a table: files and folders of one package, and the lower ones they may import."""

    names: frozenset[str]
    may_import: frozenset[str]


@dataclass(frozen=True)
class Plan:
    """What docs/ARCHITECTURE.md says.

    rooms: room -> rooms it may import. parts: package -> its parts, the highest first, each with the parts it
    may import. implementations: (prefixes of implementations, prefixes of modules that may name them).
    """

    rooms: Mapping[str, frozenset[str]]
    parts: Mapping[str, Sequence[Part]]
    implementations: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]


def read_plan(text: str) -> Plan:
    rooms = {names_in(r[0])[0]: frozenset(names_in(r[1])) for r in table_after(text, "rooms:")}
    parts = {
        package: [Part(frozenset(names_in(row[0])), frozenset(names_in(row[2]))) for row in rows]
        for package in re.findall(r"<!-- parts of ([\w.]+):", text)
        for rows in [table_after(text, f"parts of {package}:")]
    }
    implementations = tuple(
        (tuple(names_in(r[0])), tuple(names_in(r[1]))) for r in table_after(text, "implementations:")
    )
    return Plan(rooms, parts, implementations)


def imports_of(files: Iterable[SourceFile]) -> list[Import]:
    """Every import between our modules. `from room.package import name` counts as the module `name` where
    there is one, else as the package."""
    files = list(files)
    modules = {file.module for file in files}
    return [found for file in files for found in _imports_in(file, modules)]


def _imports_in(file: SourceFile, modules: set[str]) -> Iterator[Import]:
    for node in file.nodes:
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


def not_allowed(imports: Iterable[Import], plan: Plan) -> Iterator[Finding]:
    """Imports between two parts of a package that no row of its table allows."""
    for found in imports:
        package = _shared_table(found, plan)
        if not package:
            continue
        here, there = (_part_of(name, package) for name in (found.importer, found.imported))
        if here != there and not any(
            here in part.names and (there in part.may_import or there in part.names)
            for part in plan.parts[package]
        ):
            yield Finding(found.path, found.line, f"{package}: {here} may not import {there}")


def _shared_table(found: Import, plan: Plan) -> str:
    """The innermost package with a table that holds both ends of an import; '' for none."""
    return max(
        (p for p in plan.parts if all(m.startswith(f"{p}.") for m in (found.importer, found.imported))),
        key=len,
        default="",
    )


def _part_of(module: str, package: str) -> str:
    return module.removeprefix(f"{package}.").split(".", 1)[0]


def rows_that_look_up(plan: Plan) -> Iterator[str]:
    """Names in the third column that stand in no lower row."""
    for package, parts in plan.parts.items():
        for height, part in enumerate(parts):
            below = {name for lower in parts[height + 1 :] for name in lower.names}
            for name in sorted(part.may_import - below):
                yield f"{package}: {', '.join(sorted(part.names))} may not import {name}: it is no lower part"


def without_row(files: Iterable[SourceFile], plan: Plan) -> Iterator[Finding]:
    """Parts of a package with a table that have no row in it, and rooms and folders that have no table."""
    for file in files:
        if not file.is_product or "." not in file.module:
            continue
        for package in (p for p in plan.parts if file.module.startswith(f"{p}.")):
            part = _part_of(file.module, package)
            if not any(part in row.names for row in plan.parts[package]):
                yield Finding(file.path, 0, f"{package}.{part} has no row in docs/ARCHITECTURE.md")
        if file.room not in plan.parts:
            yield Finding(file.path, 0, f"{file.room} has no table in docs/ARCHITECTURE.md")


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


def full_folders(files: Iterable[SourceFile]) -> Iterator[Finding]:
    """Product folders of more files than a reader takes in at a glance."""
    held: dict[str, int] = {}
    for file in files:
        if file.is_product and not file.path.endswith("/__init__.py"):
            folder = file.path.rpartition("/")[0]
            held[folder] = held.get(folder, 0) + 1
    for folder, count in held.items():
        if count > FOLDER_FILES_MAX:
            yield Finding(folder, 0, f"{count} files, {FOLDER_FILES_MAX} at most: split by concept")


def reached_by_tests_only(files: Iterable[SourceFile], imports: Iterable[Import]) -> Iterator[Finding]:
    """Product files that no product file and no benchmark imports, and that are no program."""
    reached = {i.imported for i in imports if not i.importer.startswith("tests")}
    for file in files:
        is_candidate = file.is_product and not file.is_program and not file.path.endswith("/__init__.py")
        if is_candidate and file.module not in reached:
            yield Finding(file.path, 0, "only tests import this: move it to tests/, or remove it")


def forwarding_files(files: Iterable[SourceFile]) -> Iterator[Finding]:
    """Short product files whose functions only call one other function: a layer that does nothing."""
    for file in files:
        if not file.is_product or file.is_program or file.text.count("\n") >= FORWARDING_LINES:
            continue
        functions = [n for n in file.tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        others = [n for n in file.tree.body if isinstance(n, ast.ClassDef | ast.Assign | ast.AnnAssign)]
        if functions and not others and all(_only_calls(function, file) for function in functions):
            yield Finding(file.path, 0, "only forwards: call what it calls")


def _only_calls(function: ast.FunctionDef | ast.AsyncFunctionDef, file: SourceFile) -> bool:
    body = [n for n in function.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    values = [n.value if isinstance(n, ast.Return | ast.Expr) else None for n in body]
    return all(isinstance(v, ast.Call) and file.dotted(v.func).split(".", 1)[0] in ROOMS for v in values)
