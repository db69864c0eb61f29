"""Names over the whole product, and proof that each rule about them can fail."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import pytest

from tests.tidy import names
from tests.tidy.source import Finding, SourceFile, python_files, read

FILES = python_files()
VOCABULARY = names.read_vocabulary(read("docs/GLOSSARY.md"), read("tests/tidy/plain_words.txt"))

GLOSSARY = """
<!-- terms of data: -->
| term | means | known from |
| --- | --- | --- |
| segment, SQ8 code | sealed rows | Lucene |

<!-- avoided: -->
| write | for |
| --- | --- |
| `repair` | mend, mends |
"""


@cache
def classes() -> list[names.ClassName]:
    return names.classes_of(FILES)


def report(findings: Iterable[Finding]) -> str:
    return "\n" + "\n".join(map(str, findings))


def small(path: str, text: str) -> list[names.ClassName]:
    return names.classes_of([SourceFile(path, text)])


def test_a_class_name_stands_once_in_a_tower() -> None:
    found = names.repeated_class_names(classes())
    places = [
        Finding(c.path, c.line, f"class {name} twice") for (_, name), group in found.items() for c in group
    ]
    assert not places, report(places)


def test_a_method_name_is_shared_only_through_a_port() -> None:
    places = [
        Finding(c.path, c.lines[name], f"{c.name}.{name}: the name of another class's method, and no port")
        for (_, name), groups in sorted(names.unrelated_methods(classes()).items())
        for group in groups
        for c in group
    ]
    assert not places, report(places)


def test_names_are_made_of_known_words() -> None:
    findings = list(names.strange_words(FILES, VOCABULARY))
    assert not findings, report(findings)


def test_one_word_for_one_thing() -> None:
    found = names.avoided_words(FILES, VOCABULARY)
    places = [finding for group in found.values() for finding in group]
    assert not places, report(places)


def test_the_plain_words_are_in_order_and_in_use() -> None:
    lines = [line for line in read("tests/tidy/plain_words.txt").splitlines() if not line.startswith("#")]
    assert lines == sorted(set(lines))
    assert not set(lines) & VOCABULARY.avoided.keys()
    assert not names.unused_words(FILES, lines), "no name holds these any more: remove them"


def test_a_plain_word_without_a_name_is_found() -> None:
    files = [SourceFile("service/a.py", "class RowKeys: ...\n")]
    assert names.unused_words(files, ["a", "row", "key", "gadget"]) == {"gadget"}


def test_a_class_name_that_stands_twice_is_found() -> None:
    classes = [*small("service/a.py", "class A: ...\n"), *small("service/b.py", "class A: ...\n")]
    assert list(names.repeated_class_names(classes)) == [("service", "A")]
    other_tower = small("feeder/b.py", "class A: ...\n")
    assert not names.repeated_class_names([classes[0], *other_tower])


PORT = "from typing import Protocol\nclass P(Protocol):\n    def take(self): ...\n    def size(self): ...\n"


@pytest.mark.parametrize(
    "text",
    [
        "class A:\n    def take(self): ...\nclass B:\n    def take(self): ...\n",
        "class A:\n    def take(self): ...\nclass B:\n    async def take(self): ...\n",
        PORT
        + "class A:\n    def take(self): ...\n    def size(self): ...\nclass B:\n    def take(self): ...\n",
        "import enum as e\nclass A(e.Enum):\n    def take(self): ...\n"
        "class B(e.Enum):\n    def take(self): ...\n",
    ],
)
def test_a_method_name_without_a_port_is_found(text: str) -> None:
    assert list(names.unrelated_methods(small("service/a.py", text))) == [("service", "take")]


@pytest.mark.parametrize(
    "text",
    [
        "class A:\n    def close(self): ...\nclass B:\n    def close(self): ...\n",
        "class A:\n    def _take(self): ...\nclass B:\n    def _take(self): ...\n",
        "class A:\n    @property\n    def take(self): ...\nclass B:\n    def take(self): ...\n",
        "class A:\n    @classmethod\n    def take(cls): ...\nclass B:\n    def take(self): ...\n",
        "class A:\n    def take(self): ...\nclass B(A):\n    def take(self): ...\n",
        "class A:\n    def take(self): ...\nclass AsyncA:\n    async def take(self): ...\n",
        "import logging\nclass A(logging.Formatter):\n    def format(self): ...\n"
        "class B(logging.Formatter):\n    def format(self): ...\n",
        PORT + "class A:\n    def take(self): ...\n    @property\n    def size(self): ...\n",
        PORT + "class A:\n    def __init__(self):\n        self.size = 1\n    def take(self): ...\n",
        PORT + "class A:\n    def size(self): ...\nclass B(A):\n    def take(self): ...\n",
    ],
)
def test_kin_and_words_of_every_lifecycle_pass(text: str) -> None:
    assert not names.unrelated_methods(small("service/a.py", text))


@pytest.mark.parametrize(
    ("path", "text", "is_strange"),
    [
        ("service/segment.py", "", False),
        ("service/segments.py", "class Sq8Codes: ...\n", False),
        ("service/row.py", "class _Row: ...\n", False),
        ("service/gadget.py", "", True),
        ("service/row.py", "class SegmentGadget: ...\n", True),
        ("tests/gadget.py", "class Gadget: ...\n", False),
    ],
)
def test_a_strange_word_is_found(path: str, text: str, is_strange: bool) -> None:
    vocabulary = names.read_vocabulary(GLOSSARY, "# gadget\nrow\n")
    assert bool(list(names.strange_words([SourceFile(path, text)], vocabulary))) == is_strange


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("class Mend: ...\n", "mend"),
        ("def _mends(): ...\n", "mends"),
        ("class A:\n    async def mend_all(self): ...\n", "mend"),
    ],
)
def test_an_avoided_word_is_found(text: str, word: str) -> None:
    vocabulary = names.read_vocabulary(GLOSSARY, "")
    assert list(names.avoided_words([SourceFile("service/a.py", text)], vocabulary)) == [("service", word)]
    assert not names.avoided_words([SourceFile("service/a.py", "def repair(): ...\n")], vocabulary)
