"""What helps: every storage error says it, about what stood in the way."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest

from index_store import errors, hints
from index_store.diagnosis import PASSING, hint_of, unreadable, what_helps
from index_store.errors import IndexStoreError, StoreDamaged, StoreUnavailable, Unavailable

STORE = Path("/srv/data/collections/products/g000001/store.sqlite")


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("refused")
    error.sqlite_errorcode = code
    return error


def is_error(each: object) -> bool:
    return isinstance(each, type) and issubclass(each, IndexStoreError)


def storage_errors() -> list[type[Unavailable]]:
    found = [each for each in vars(errors).values() if is_error(each)]
    return [each for each in found if issubclass(each, Unavailable)]


@pytest.mark.parametrize("kind", storage_errors())
def test_no_storage_error_is_raised_without_a_hint(kind: type[Unavailable]) -> None:
    if kind is errors.SeqNotReached:
        assert errors.SeqNotReached("seq 7 was not reached").hint
        return
    assert kind("what", "what helps").hint == "what helps"
    with pytest.raises(AssertionError):
        kind("what", "")
    with pytest.raises(TypeError):
        kind("what")  # type: ignore[call-arg]


def test_every_error_says_when_it_is_raised_and_what_helps() -> None:
    kinds = [each for each in vars(errors).values() if is_error(each) and each is not IndexStoreError]
    for kind in kinds:
        text = " ".join((kind.__doc__ or "").split())
        assert text.startswith("Raised ") and ("What helps:" in text or kind is Unavailable), kind


@pytest.mark.parametrize("code", [*errno.errorcode, 0])
def test_what_the_system_refuses_has_a_hint(code: int) -> None:
    assert hint_of(OSError(code, "refused"), STORE)


@pytest.mark.parametrize("code", [*PASSING, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, 0])
def test_what_sqlite_refuses_has_a_hint(tmp_path: Path, code: int) -> None:
    path = tmp_path / "store.sqlite"
    path.touch()
    found = unreadable(path, sqlite_error(code))
    assert found.hint and isinstance(found, StoreUnavailable if code in PASSING else StoreDamaged)
    assert what_helps(sqlite_error(code), path)


def test_the_cause_in_the_system_comes_first() -> None:
    refused = StoreDamaged("segment s1 cannot be read", hints.rebuild(STORE))
    assert what_helps(refused, STORE) == "python -m index_store rebuild /srv/data"
    refused.__cause__ = OSError(errno.EMFILE, "too many open files")
    assert what_helps(refused, STORE) == hints.MORE_FILES


def test_commands_name_the_data_directory() -> None:
    assert hints.check(STORE) == "python -m index_store check /srv/data"
    assert hints.repoint(STORE.parents[1]) == "python -m index_store repoint /srv/data products"
    assert hints.rebuild(Path("/srv/a b/collections")) == "python -m index_store rebuild '/srv/a b'"
