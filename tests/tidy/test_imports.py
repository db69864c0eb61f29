"""Imports go down only, never in a circle, and wiring alone names implementations."""

from __future__ import annotations

import pytest

from tests.tidy import imports
from tests.tidy.source import ROOMS, SourceFile, python_files, read

FILES = python_files()
IMPORTS = imports.imports_of(FILES)
PLAN = imports.read_plan(read("docs/ARCHITECTURE.md"))

SMALL_PLAN = imports.read_plan(
    """
<!-- rooms: -->
| room | imports |
| --- | --- |
| `service` | `index_store` |
| `index_store` | |

<!-- floors: -->
| room | floor | modules |
| --- | --- | --- |
| `service` | wiring | `wiring` |
| `service` | wire | `http` |
| `service` | words | `errors`, `http.words` |

<!-- implementations: -->
| implementations | named only in |
| --- | --- |
| `index_store.engine` | `service.wiring` |
"""
)


def small(*files: tuple[str, str]) -> list[imports.Import]:
    return imports.imports_of(SourceFile(path, text) for path, text in files)


def report(findings: list[imports.Finding]) -> str:
    return "\n" + "\n".join(map(str, findings))


def test_rooms_import_only_what_the_table_allows() -> None:
    findings = list(imports.wrong_rooms(IMPORTS, PLAN))
    assert not findings, report(findings)


def test_imports_go_down_only() -> None:
    findings = list(imports.upward(IMPORTS, PLAN))
    assert not findings, report(findings)


def test_every_module_has_a_floor() -> None:
    findings = list(imports.without_floor(FILES, PLAN))
    assert not findings, report(findings)


def test_every_floor_names_a_module_that_exists() -> None:
    modules = {file.module for file in FILES}
    assert {prefix for prefix in PLAN.floors if prefix not in modules} == set()


def test_no_import_circle() -> None:
    assert imports.circles(IMPORTS) == []


def test_wiring_alone_names_implementations() -> None:
    findings = list(imports.named_outside_wiring(IMPORTS, PLAN))
    assert not findings, report(findings)


def test_the_tables_are_whole() -> None:
    assert set(PLAN.rooms) == set(ROOMS)
    assert len({floor.split(".", 1)[0] for floor in PLAN.floors}) == 4
    assert PLAN.implementations
    assert len(IMPORTS) > 20


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("index_store/a.py", "import service.errors\n"),
        ("index_store/a.py", "def f():\n    from service import errors\n"),
        ("index_store/a.py", "if TYPE_CHECKING:\n    from service.errors import E\n"),
    ],
)
def test_a_wrong_room_is_found(path: str, text: str) -> None:
    assert list(imports.wrong_rooms(small((path, text), ("service/errors.py", "")), SMALL_PLAN))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("service/http/app.py", "from service import wiring\n"),
        ("service/http/app.py", "from service.wiring import build\n"),
        ("service/http/app.py", "from .. import wiring\n"),
        ("service/http/words.py", "def f():\n    import service.http.app\n"),
    ],
)
def test_an_import_up_is_found(path: str, text: str) -> None:
    others = [("service/wiring.py", ""), ("service/http/app.py", ""), ("service/http/__init__.py", "")]
    files = [*(file for file in others if file[0] != path), (path, text)]
    assert list(imports.upward(small(*files), SMALL_PLAN))


def test_an_import_down_passes() -> None:
    files = [("service/http/app.py", "from service.http.words import W\n"), ("service/http/words.py", "")]
    assert not list(imports.upward(small(*files), SMALL_PLAN))


def test_a_module_without_floor_is_found() -> None:
    assert list(imports.without_floor([SourceFile("service/new.py", "")], SMALL_PLAN))


def test_circles_are_found() -> None:
    files = [
        ("service/a.py", "import service.b\n"),
        ("service/b.py", "def f():\n    from service.c import X\n"),
        ("service/c.py", "if TYPE_CHECKING:\n    import service.a\n"),
    ]
    assert imports.circles(small(*files)) == [["service.a", "service.b", "service.c"]]
    assert imports.circles(small(*files[:2])) == []


def test_an_implementation_named_elsewhere_is_found() -> None:
    engine = ("index_store/engine/index.py", "")
    line = "from index_store.engine.index import EmbeddedIndex\n"
    assert list(imports.named_outside_wiring(small(engine, ("service/http/app.py", line)), SMALL_PLAN))
    assert not list(imports.named_outside_wiring(small(engine, ("service/wiring.py", line)), SMALL_PLAN))
