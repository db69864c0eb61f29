"""Names: a class name once a tower, a method name once a port, and words that docs/GLOSSARY.md knows.

A tower is a room of the product: its reader searches for a name and should find one thing.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from tests.tidy.source import ROOMS, Finding, SourceFile
from tests.tidy.tables import table_after

LIFECYCLE = {"open", "close", "start", "stop", "run"}
"""Verbs that whatever has a beginning and an end may carry."""


@dataclass(frozen=True)
class ClassName:
    """One class.

    bases: dotted names. methods: what is called on an instance, private and special methods left out.
    members: whatever an instance has by this class itself, fields and properties included.
    """

    path: str
    line: int
    name: str
    bases: tuple[str, ...]
    methods: frozenset[str]
    members: frozenset[str]
    lines: Mapping[str, int]

    @property
    def room(self) -> str:
        """The tower that the class stands in."""
        return self.path.split("/", 1)[0]

    @cached_property
    def is_port(self) -> bool:
        """Whether it is a Protocol itself, not an implementation of one."""
        return "typing.Protocol" in self.bases


def classes_of(files: Iterable[SourceFile]) -> list[ClassName]:
    """Every class of the product, inner ones too."""
    return [
        _class_name(file, node)
        for file in files
        if file.is_product
        for node in file.nodes
        if isinstance(node, ast.ClassDef)
    ]


def _class_name(file: SourceFile, node: ast.ClassDef) -> ClassName:
    methods: dict[str, int] = {}
    members: set[str] = set()
    for part in node.body:
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            members.add(part.name)
            if not part.name.startswith("_") and not any(map(_is_no_call, part.decorator_list)):
                methods[part.name] = part.lineno
            if part.name == "__init__":
                members.update(_assigned(part))
        elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            members.add(part.target.id)
        elif isinstance(part, ast.Assign):
            members.update(target.id for target in part.targets if isinstance(target, ast.Name))
    bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
    return ClassName(
        file.path,
        node.lineno,
        node.name,
        tuple(filter(None, map(file.dotted, bases))),
        frozenset(methods),
        frozenset(members),
        methods,
    )


def _is_no_call(decorator: ast.expr) -> bool:
    """Whether callers see a field (a property), or write the class's own name before the method's."""
    return ast.unparse(decorator).endswith(("property", ".setter", "classmethod", "staticmethod"))


def _assigned(init: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    for node in ast.walk(init):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            yield node.attr


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def repeated_class_names(classes: Iterable[ClassName]) -> dict[tuple[str, str], list[ClassName]]:
    """(tower, name) -> its classes, where there are two or more."""
    named: dict[tuple[str, str], list[ClassName]] = defaultdict(list)
    for found in classes:
        named[found.room, found.name].append(found)
    return {key: group for key, group in named.items() if len(group) > 1}


def unrelated_methods(classes: Iterable[ClassName]) -> dict[tuple[str, str], list[list[ClassName]]]:
    """(tower, method) -> its classes, in two or more groups that have nothing to do with each other.

    Classes belong together where one derives from the other, both derive from one class of a library, both
    have every member of one port with that method, or one is the `Async` twin of the other.
    """
    found: dict[tuple[str, str], list[list[ClassName]]] = {}
    towers: dict[str, list[ClassName]] = defaultdict(list)
    for each in classes:
        towers[each.room].append(each)
    for room, members in towers.items():
        kin = _Kin(members)
        holders: dict[str, list[ClassName]] = defaultdict(list)
        for each in members:
            for method in each.methods - LIFECYCLE:
                holders[method].append(each)
        for method, having in holders.items():
            groups = kin.groups(method, having)
            if len(groups) > 1:
                found[room, method] = groups
    return found


class _Kin:
    """Which classes of one tower belong together."""

    def __init__(self, classes: Iterable[ClassName]) -> None:
        self._named = {each.name: each for each in classes}
        self._ports = [each for each in self._named.values() if each.is_port]

    def groups(self, method: str, classes: list[ClassName]) -> list[list[ClassName]]:
        """Return `classes` by kinship, each group in the order given."""
        groups: list[tuple[set[str], list[ClassName]]] = []
        for each in classes:
            marks, members = self._marks(method, each), [each]
            for group in [g for g in groups if g[0] & marks]:
                groups.remove(group)
                marks |= group[0]
                members = [*group[1], *members]
            groups.append((marks, members))
        return [members for _, members in groups]

    def _marks(self, method: str, found: ClassName) -> set[str]:
        """What two classes must have one of in common to belong together: names of ports and of bases."""
        marks = {f"{each.path}:{each.line}" for each in self._line(found)}
        marks |= {
            base
            for each in self._line(found)
            for base in each.bases
            if base.split(".", 1)[0] not in {*ROOMS, "typing", "enum"} and "." in base
        }
        marks |= {
            f"{port.path}:{port.line}"
            for port in self._ports
            if method in self._members(port)
            and any(self._members(port) <= self._members(each) for each in self._heirs(found))
        }
        twin = self._named.get(found.name.removeprefix("Async"))
        return marks | ({f"{twin.path}:{twin.line}"} if twin else set())

    def _line(self, found: ClassName) -> list[ClassName]:
        """The class and those of the tower that it derives from."""
        bases = [self._named[name] for b in found.bases if (name := b.rsplit(".", 1)[-1]) in self._named]
        return [found, *(each for base in bases if base is not found for each in self._line(base))]

    def _heirs(self, found: ClassName) -> list[ClassName]:
        """The class and those of the tower that derive from it."""
        return [each for each in self._named.values() if found in self._line(each)] or [found]

    def _members(self, found: ClassName) -> set[str]:
        return {member for each in self._line(found) for member in each.members}


@dataclass(frozen=True)
class Vocabulary:
    """words: what names may be made of. avoided: word -> the word that stands for it."""

    words: frozenset[str]
    avoided: Mapping[str, str]

    def knows(self, word: str) -> bool:
        """Whether a name may hold the word: itself or its singular is known, or it is avoided, which is a
        finding of its own. Digits always may."""
        known = self.words | self.avoided.keys()
        return word.isdigit() or any(form in known for form in (word, *_singulars(word)))


def read_vocabulary(glossary: str, plain_words: str) -> Vocabulary:
    """Terms stand in the first column of each table of terms, avoided words in the second one of the last."""
    tables = [table_after(glossary, found) for found in re.findall(r"<!-- (terms of [a-z ]+:)", glossary)]
    terms = [word for table in tables for row in table for word in _words_of(row[0])]
    avoided = {
        word: row[0].replace("`", "")
        for row in table_after(glossary, "avoided:")
        for word in split_name(row[1])
    }
    plain = [line for line in plain_words.splitlines() if not line.startswith("#")]
    return Vocabulary(frozenset(terms) | frozenset(" ".join(plain).split()), avoided)


def split_name(name: str) -> list[str]:
    """The words of an identifier or a term, in small letters: `SQ8Codes` -> sq, 8, codes."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def _words_of(term: str) -> list[str]:
    """The words of a term, and those that one word hides: SQLite is `sqlite` as well as sq, lite."""
    return [*split_name(term), *re.findall(r"[a-z0-9]+", term.lower())]


def _singulars(word: str) -> Iterator[str]:
    if word.endswith("ies"):
        yield word[:-3] + "y"
    if word.endswith("es"):
        yield word[:-2]
    if word.endswith("s"):
        yield word[:-1]


def strange_words(files: Iterable[SourceFile], vocabulary: Vocabulary) -> Iterator[Finding]:
    """File and class names with a word that is neither a term of the glossary nor plain English."""
    for path, line, name in _file_and_class_names(files):
        for word in split_name(name):
            if not vocabulary.knows(word):
                yield Finding(path, line, f"{name}: {word!r} is no word of docs/GLOSSARY.md")


def unused_words(files: Iterable[SourceFile], plain_words: Iterable[str]) -> set[str]:
    """Return the plain words that no file and no class is named by any more."""
    used = {word for _, _, name in _file_and_class_names(files) for word in split_name(name)}
    return set(plain_words) - used - {form for word in used for form in _singulars(word)}


def avoided_words(
    files: Iterable[SourceFile], vocabulary: Vocabulary
) -> dict[tuple[str, str], list[Finding]]:
    """(room, word) -> where a file, class or function name holds a word that another one stands for."""
    found: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    files = list(files)
    for path, line, name in [*_file_and_class_names(files), *_function_names(files)]:
        for word in split_name(name):
            if instead := vocabulary.avoided.get(word):
                room = path.split("/", 1)[0]
                found[room, word].append(Finding(path, line, f"{name}: write {instead!r} for {word!r}"))
    return found


def _file_and_class_names(files: Iterable[SourceFile]) -> Iterator[tuple[str, int, str]]:
    for file in files:
        if file.is_product:
            yield file.path, 0, file.module.rsplit(".", 1)[-1]
            for node in file.nodes:
                if isinstance(node, ast.ClassDef):
                    yield file.path, node.lineno, node.name


def _function_names(files: Iterable[SourceFile]) -> Iterator[tuple[str, int, str]]:
    for file in files:
        if file.is_product:
            for node in file.nodes:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield file.path, node.lineno, node.name
