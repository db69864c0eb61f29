"""The project's files as the house rules see them."""

from __future__ import annotations

import ast
import subprocess
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT_ROOMS = (
    "item_rules",
    "image_fetch",
    "log_lines",
    "index_store",
    "service",
    "feeder",
    "vector_client",
)
ROOMS = (*PRODUCT_ROOMS, "benchmarks", "tests")


@dataclass(frozen=True)
class Finding:
    """One place that breaks a rule. line is 1-based; 0 means the file as a whole."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


@dataclass(frozen=True)
class SourceFile:
    """One Python file. path is relative to the root, with forward slashes."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=self.path)

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Every node of the tree, walked once for all rules."""
        return tuple(ast.walk(self.tree))

    @property
    def room(self) -> str:
        return self.path.split("/", 1)[0]

    @property
    def module(self) -> str:
        """The dotted name; a package is named by its folder."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def is_product(self) -> bool:
        return self.room in PRODUCT_ROOMS

    @property
    def is_program(self) -> bool:
        """Whether this file is what `python -m` starts: it may read the environment and print."""
        return self.path.endswith("/__main__.py")

    @cached_property
    def imported_names(self) -> dict[str, str]:
        """Local name -> dotted name it stands for, wherever in the file it was imported."""
        names: dict[str, str] = {}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name.split(".", 1)[0]
                    names[alias.asname or first] = alias.name if alias.asname else first
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                for alias in node.names:
                    names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        return names

    def dotted(self, node: ast.expr) -> str:
        """The full name of `a.b.c` with the import behind `a` put in; '' for anything else."""
        if isinstance(node, ast.Name):
            return self.imported_names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            owner = self.dotted(node.value)
            return f"{owner}.{node.attr}" if owner else ""
        return ""

    def is_from_import(self, node: ast.expr) -> bool:
        """Whether `a` of `a.b.c` is an imported name, not a variable that happens to be called so."""
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id in self.imported_names


def tracked_paths() -> list[str]:
    """Every file of the project that git holds or would take, sorted."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    paths = listed.stdout.decode().split("\0")
    return sorted(path for path in paths if path and (ROOT / path).is_file())


@cache
def python_files() -> tuple[SourceFile, ...]:
    """The same objects for every caller: each file is parsed once."""
    paths = (path for path in tracked_paths() if path.endswith(".py") and path.split("/", 1)[0] in ROOMS)
    return tuple(SourceFile(path, read(path)) for path in paths)


def read(path: str) -> str:
    return (ROOT / path).read_text("utf-8")
