"""Imports go down only, never in a circle, and wiring alone names implementations."""

from __future__ import annotations

from functools import cache

import pytest

from tests.tidy import imports
from tests.tidy.source import PRODUCT_ROOMS, ROOMS, SourceFile, python_files, read

FILES = python_files()
PLAN = imports.read_plan(read("docs/ARCHITECTURE.md"))

SMALL_PLAN = imports.read_plan(
    """
<!-- rooms: -->
| room | imports |
| --- | --- |
| `service` | `index_store` |
| `index_store` | |

<!-- parts of service: -->
| part | holds | may import |
| --- | --- | --- |
| `wiring` | | `http`, `errors` |
| `http` | | `errors` |
| `errors` | | |

<!-- parts of service.http: -->
| part | holds | may import |
| --- | --- | --- |
| `app` | | `words` |
| `words` | | |

<!-- implementations: -->
| implementations | named only in |
| --- | --- |
| `index_store.engine` | `service.wiring` |
"""
)


@cache
def every_import() -> list[imports.Import]:
    """Parsed when a test asks for it: every test process collects this file."""
    return imports.imports_of(FILES)


def small(*files: tuple[str, str]) -> list[imports.Import]:
    return imports.imports_of(SourceFile(path, text) for path, text in files)


def report(findings: list[imports.Finding]) -> str:
    return "\n" + "\n".join(map(str, findings))


def test_rooms_import_only_what_the_table_allows() -> None:
    findings = list(imports.wrong_rooms(every_import(), PLAN))
    assert not findings, report(findings)


def test_parts_import_only_what_their_rows_allow() -> None:
    findings = list(imports.not_allowed(every_import(), PLAN))
    assert not findings, report(findings)


def test_rows_look_down_only() -> None:
    assert list(imports.rows_that_look_up(PLAN)) == []


def test_every_part_has_a_row() -> None:
    findings = list(imports.without_row(FILES, PLAN))
    assert not findings, report(findings)


def test_every_row_names_parts_that_exist() -> None:
    modules = {file.module for file in FILES}
    named = {f"{package}.{name}" for package, parts in PLAN.parts.items() for p in parts for name in p.names}
    assert named - modules == set()


def test_no_import_circle() -> None:
    assert imports.circles(every_import()) == []


def test_wiring_alone_names_implementations() -> None:
    findings = list(imports.named_outside_wiring(every_import(), PLAN))
    assert not findings, report(findings)


def test_folders_are_small() -> None:
    findings = list(imports.full_folders(FILES))
    assert not findings, report(findings)


def test_product_files_serve_the_product() -> None:
    findings = list(imports.reached_by_tests_only(FILES, every_import()))
    assert not findings, report(findings)


def test_no_file_only_forwards() -> None:
    findings = list(imports.forwarding_files(FILES))
    assert not findings, report(findings)


def test_the_tables_are_whole() -> None:
    assert set(PLAN.rooms) == set(ROOMS)
    assert set(PLAN.parts) >= set(PRODUCT_ROOMS)
    assert PLAN.implementations
    assert len(every_import()) > 20


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
    assert list(imports.not_allowed(small(*files), SMALL_PLAN))


def test_an_import_down_passes() -> None:
    files = [("service/http/app.py", "from service.http.words import W\n"), ("service/http/words.py", "")]
    assert not list(imports.not_allowed(small(*files), SMALL_PLAN))


@pytest.mark.parametrize("path", ["service/new.py", "service/http/new.py", "service/new/a.py", "feeder/a.py"])
def test_a_part_without_row_is_found(path: str) -> None:
    assert list(imports.without_row([SourceFile(path, "")], SMALL_PLAN))


def test_a_row_that_looks_up_is_found() -> None:
    plan = imports.read_plan(
        """
<!-- rooms: -->
| room | imports |
| --- | --- |
| `service` | |

<!-- parts of service: -->
| part | holds | may import |
| --- | --- | --- |
| `wiring` | | `wiring` |
| `errors` | | `wiring` |

<!-- implementations: -->
| implementations | named only in |
| --- | --- |
| `service.a` | `service.wiring` |
"""
    )
    assert len(list(imports.rows_that_look_up(plan))) == 2


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


def test_a_full_folder_is_found() -> None:
    files = [SourceFile(f"service/a{n}.py", "") for n in range(imports.FOLDER_FILES_MAX + 1)]
    assert len(list(imports.full_folders(files))) == 1
    assert not list(imports.full_folders(files[1:]))


def test_a_file_that_only_tests_import_is_found() -> None:
    files = [
        SourceFile("service/a.py", ""),
        SourceFile("service/b.py", "import service.c\n"),
        SourceFile("service/c.py", ""),
        SourceFile("benchmarks/bench_b.py", "import service.b\n"),
        SourceFile("tests/test_a.py", "import service.a\n"),
    ]
    found = imports.reached_by_tests_only(files, imports.imports_of(files))
    assert [finding.path for finding in found] == ["service/a.py"]


@pytest.mark.parametrize(
    ("body", "is_found"),
    [
        ("    first()\n    return second(1)\n", True),
        ('    """Says what it does."""\n    return first()\n', True),
        ("    value = first()\n    return value + 1\n", False),
        ("    return len(first())\n", False),
    ],
)
def test_a_file_that_only_forwards_is_found(body: str, is_found: bool) -> None:
    text = f"from service.b import first, second\n\n\ndef f() -> int:\n{body}"
    assert bool(list(imports.forwarding_files([SourceFile("service/a.py", text)]))) == is_found
