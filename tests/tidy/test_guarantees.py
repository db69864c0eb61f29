"""docs/GUARANTEES.md names tests that exist, that `make test` runs, and that nothing skips in silence."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.tidy.source import Finding, SourceFile, read, tracked_paths
from tests.tidy.tables import names_in, table_after

PAGE = "docs/GUARANTEES.md"
TABLES = ("guarantees:", "postgresql:", "crashes:")
NODE_ID = re.compile(r"(tests/[\w/]+\.py)::((?:\w+::)?test_\w+)")
SAYS_SO = "is skipped where"
"""What a row says whose test does not run everywhere."""


def may_skip(node: ast.AST) -> bool:
    """Whether a decorator or a mark may keep a test from running."""
    return re.search(r"\bskip|\bxfail|\bneeds_", ast.unparse(node)) is not None


def definition(file: SourceFile, name: str) -> tuple[ast.FunctionDef | None, list[ast.AST]]:
    """The test of that name, and what decides whether it runs: marks of the module, its class and itself."""
    marks: list[ast.AST] = [
        node.value
        for node in file.tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    body: list[ast.stmt] = file.tree.body
    *parents, last = name.split("::")
    for wanted in parents:
        found = next((n for n in body if isinstance(n, ast.ClassDef) and n.name == wanted), None)
        if found is None:
            return None, marks
        marks += found.decorator_list
        body = found.body
    test = next((n for n in body if isinstance(n, ast.FunctionDef) and n.name == last), None)
    return test, [*marks, *test.decorator_list] if test else marks


def broken_promises(rows: list[tuple[str, ...]], texts: dict[str, str]) -> Iterator[Finding]:
    """Rows without a test, with one that is not there, or one that may be skipped without the row saying so.
    texts: each file of tests by its path."""
    for row in rows:
        ids = [name for cell in row for name in names_in(cell) if "::" in name]
        if not ids:
            yield Finding(PAGE, 0, f"{row[0]}: no test holds it")
        for node_id in ids:
            match = NODE_ID.fullmatch(node_id)
            if match is None or match[1] not in texts:
                yield Finding(PAGE, 0, f"{node_id}: there is no such file of tests")
                continue
            test, marks = definition(SourceFile(match[1], texts[match[1]]), match[2])
            if test is None:
                yield Finding(PAGE, 0, f"{node_id}: there is no such test")
            elif SAYS_SO not in row[-1] and any(map(may_skip, marks)):
                yield Finding(PAGE, 0, f"{node_id} may be skipped: the row does not say where ('{SAYS_SO}')")


def test_every_guarantee_has_its_test() -> None:
    paths = [path for path in tracked_paths() if path.startswith("tests/") and path.endswith(".py")]
    texts = {path: read(path) for path in paths}
    for table in TABLES:
        rows = table_after(read(PAGE), table)
        assert len(rows) > 5
        findings = list(broken_promises(rows, texts))
        assert not findings, "\n" + "\n".join(map(str, findings))


def test_make_test_runs_every_test() -> None:
    target = re.search(r"^test:.*?\n\n", read("Makefile"), re.MULTILINE | re.DOTALL)
    assert target is not None
    assert "-m '$(MEASURED)' tests/tidy tests/unit tests/contract\n" in target[0]
    assert "-m 'not ($(MEASURED))'\n" in target[0]  # and all the rest, of every folder
    assert "--ignore" not in target[0] + read("pyproject.toml") and "--deselect" not in target[0]


def test_a_promise_without_a_test_that_runs_is_found() -> None:
    texts = {
        "tests/unit/test_a.py": "def test_one(): ...\n@pytest.mark.skipif(True)\ndef test_two(): ...\n",
        "tests/unit/test_b.py": "pytestmark = needs_a_tool\nclass TestC:\n    def test_three(): ...\n",
    }
    for cell in ("", "`tests/unit/test_x.py::test_one`", "`tests/unit/test_a.py::test_x`"):
        assert list(broken_promises([("it holds", cell, "")], texts))
    for test in ("a.py::test_two", "b.py::TestC::test_three"):
        row = ("it holds", f"`tests/unit/test_{test}`")
        assert list(broken_promises([(*row, "none")], texts))
        assert not list(broken_promises([(*row, "It is skipped where no tool is.")], texts))
    assert not list(broken_promises([("it holds", "`tests/unit/test_a.py::test_one`", "")], texts))
