"""A published directory is whole, and any change to it is noticed before it is used."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from index_store.errors import StoreDamaged
from index_store.storage.sealed_directory import (
    CHUNK_BYTES,
    MANIFEST,
    new_directory,
    publish,
    quarantine,
    read_manifest,
    seal,
    sweep_leftovers,
    verify,
)

FACTS = {"rows": 3, "model": "m-é", "share": 0.25}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    directory = new_directory(tmp_path, "segment-1")
    (directory / "vectors").write_bytes(bytes(range(256)))
    (directory / "empty").write_bytes(b"")
    seal(directory, FACTS)
    publish(directory, tmp_path / "segment-1")
    return tmp_path / "segment-1"


def test_what_is_sealed_can_be_read(published: Path) -> None:
    manifest = read_manifest(published)
    verify(published, manifest)
    assert manifest.facts == FACTS
    assert {name: fact.size for name, fact in manifest.files.items()} == {"vectors": 256, "empty": 0}


@pytest.mark.long
def test_every_flipped_byte_of_the_manifest_is_noticed(published: Path) -> None:
    path = published / MANIFEST
    content = path.read_bytes()
    for place in range(len(content)):
        for flip in (0x01, 0x20, 0x80):
            path.write_bytes(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
            with pytest.raises(StoreDamaged):
                read_manifest(published)
    path.write_bytes(content)
    read_manifest(published)


def test_every_cut_of_the_manifest_is_noticed(published: Path) -> None:
    content = (published / MANIFEST).read_bytes()
    for length in [*range(len(content))]:
        (published / MANIFEST).write_bytes(content[:length])
        with pytest.raises(StoreDamaged):
            read_manifest(published)
    (published / MANIFEST).unlink()
    with pytest.raises(StoreDamaged):
        read_manifest(published)


def test_every_flipped_byte_of_a_file_is_noticed(published: Path) -> None:
    manifest = read_manifest(published)
    path = published / "vectors"
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(StoreDamaged, match="vectors"):
            verify(published, manifest)


@pytest.mark.long
@pytest.mark.parametrize("has_parts", [True, False])
def test_a_large_file_is_checked_in_parts(tmp_path: Path, has_parts: bool) -> None:
    """And as a whole, where its manifest was made before there were parts."""
    directory = new_directory(tmp_path, "segment-1")
    path = directory / "vectors"
    size = 2 * CHUNK_BYTES + 5
    with path.open("wb") as file:
        file.truncate(size)
    (directory / "just").write_bytes(bytes(CHUNK_BYTES))
    manifest = seal(directory, FACTS)
    assert read_manifest(directory).files == manifest.files
    fact = manifest.files["vectors"]
    assert fact.sha256 == hashlib.sha256(bytes(size)).hexdigest()
    assert fact.parts[2] == hashlib.sha256(bytes(5)).hexdigest() and len(fact.parts) == 3
    assert manifest.files["just"].parts == ()
    if not has_parts:
        manifest = replace(manifest, files={name: replace(f, parts=()) for name, f in manifest.files.items()})
    verify(directory, manifest)
    for place in (0, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES, size - 1):
        for content in (b"x", b"\0"):
            with path.open("r+b") as file:
                file.seek(place)
                file.write(content)
            if content == b"x":
                with pytest.raises(StoreDamaged, match="vectors"):
                    verify(directory, manifest)
    verify(directory, manifest)


@pytest.mark.parametrize("change", ["cut", "grown", "missing", "extra"])
def test_files_that_changed_are_noticed(published: Path, change: str) -> None:
    manifest = read_manifest(published)
    path = published / "vectors"
    if change == "missing":
        path.unlink()
    elif change == "extra":
        (published / "more").write_bytes(b"x")
    else:
        path.write_bytes(path.read_bytes()[:-1] if change == "cut" else path.read_bytes() + b"x")
    with pytest.raises(StoreDamaged):
        verify(published, manifest)


def test_a_manifest_of_another_format_is_refused_by_name(published: Path) -> None:
    def encoded(body: dict[str, object]) -> bytes:
        return json.dumps(body, sort_keys=True, indent=1).encode() + b"\n"

    body = json.loads((published / MANIFEST).read_bytes())
    del body["checksum"]
    body["format_version"] = 999
    whole = body | {"checksum": hashlib.sha256(encoded(body)).hexdigest()}
    (published / MANIFEST).write_bytes(encoded(whole))
    with pytest.raises(StoreDamaged, match="format_version 999"):
        read_manifest(published)


def test_unpublished_leftovers_go_and_published_stay(published: Path) -> None:
    left = new_directory(published.parent, "segment-2")
    (left / "half").write_bytes(b"x")
    assert sweep_leftovers(published.parent) == [left.name]
    assert [p.name for p in published.parent.iterdir()] == ["segment-1"]


def test_quarantine_keeps_the_bytes_elsewhere(published: Path) -> None:
    aside = quarantine(published)
    assert not published.exists() and (aside / "vectors").stat().st_size == 256


def test_publishing_does_not_replace_what_is_there(published: Path) -> None:
    again = new_directory(published.parent, "segment-1")
    seal(again, {})
    with pytest.raises(OSError):
        publish(again, published)
    verify(published, read_manifest(published))
