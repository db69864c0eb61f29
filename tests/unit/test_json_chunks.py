"""JSON decoded in chunks is what the decoder makes of it whole, and bounded."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from service.errors import Refused
from service.http.wire.body import decode_json, is_large
from service.http.wire.codings.json_chunks import PARTS_MAX, VALUES_MAX, JsonLimitExceeded, decoded_in_chunks
from service.http.wire.problems import HttpRefusal
from service.http.wire.schemas import SearchIn, UpsertIn

_TEXTS = ("", "a", "갈비탕", 'with "quotes"', "back\\slash\\", "\\\\", ",]}[{:", "\n\t", "\x00", "é" * 40)
_SPACES = ("", "", " ", "\n", "\t \r\n")


def value(draw: random.Random, level: int = 0) -> Any:
    kind = draw.randrange(8 if level < 5 else 6)
    if kind == 6:
        return [value(draw, level + 1) for _ in range(draw.randrange(6))]
    if kind == 7:
        return {draw.choice(_TEXTS) + str(n): value(draw, level + 1) for n in range(draw.randrange(5))}
    return [draw.choice(_TEXTS), draw.randrange(-9, 1 << 66), draw.random() * 1e9, True, False, None][kind]


def written(draw: random.Random, held: Any) -> str:
    """JSON with white space wherever it may stand."""
    space = draw.choice(_SPACES)
    if isinstance(held, list):
        return f"[{space}" + f"{space},".join(space + written(draw, each) for each in held) + f"{space}]"
    if isinstance(held, dict):
        members = (f"{space}{json.dumps(k)}{space}:{written(draw, v)}" for k, v in held.items())
        return "{" + f"{space},".join(members) + space + "}"
    return space + json.dumps(held, ensure_ascii=draw.random() < 0.5) + space


def read(decode: Any, body: bytes) -> Any:
    """What is decoded, or by which kind of error it is refused."""
    try:
        return decode(body)
    except (UnicodeDecodeError, RecursionError) as exc:
        return type(exc)
    except msgspec.DecodeError:
        return msgspec.DecodeError


@pytest.mark.parametrize("seed", range(4))
def test_chunks_decode_as_the_whole_does(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(250):
        body = written(draw, value(draw)).encode()
        assert repr(decoded_in_chunks(body)) == repr(msgspec.json.decode(body)), body
        for _ in range(4):
            broken = bytearray(body)
            for _ in range(draw.randrange(1, 3)):
                broken[draw.randrange(len(broken))] = draw.choice(b'[]{},:"\\ 1a\xff')
            mutated = (
                bytes(broken)[: draw.randrange(len(broken) + 1)] if draw.random() < 0.3 else bytes(broken)
            )
            assert repr(read(decoded_in_chunks, mutated)) == repr(read(msgspec.json.decode, mutated)), mutated


def test_what_is_longer_than_a_chunk_is_read_whole() -> None:
    held = {"text": 'a"' * 50_000, "ids": list(range(100_000)), "names": [f"P{n}," for n in range(30_000)]}
    assert decoded_in_chunks(json.dumps(held).encode()) == held
    assert decoded_in_chunks(json.dumps(held["names"] + ["b" * 70_000, [1], 2]).encode())[-3:] == [
        "b" * 70_000,
        [1],
        2,
    ]


def test_items_of_a_write_stay_undecoded() -> None:
    item = b'{"recipe_id": 1, "metadata": {"a]": ["}", {"b": [1]}]}}'
    body = b'{"items": [%b , %b,"text",7], "delete_ids": [1, "b"], "source": {"items": "1"}}' % (item, item)
    found = decoded_in_chunks(body, frozenset(("items", "delete_ids")))
    assert [bytes(each) for each in found["items"]] == [item, item, b'"text"', b"7"]
    assert [bytes(each) for each in found["delete_ids"]] == [b"1", b'"b"']
    assert found["source"] == {"items": "1"}
    for broken in (
        b'{"items":[{"a":}]}',
        b'{"items":[1 2]}',
        b'{"items":[{]}',
        b'{"items":[,]}',
        b'{"items":[',
    ):
        with pytest.raises(msgspec.DecodeError):
            decoded_in_chunks(broken, frozenset(("items",)))


@pytest.mark.long
def test_a_body_of_too_many_values_is_refused() -> None:
    with pytest.raises(JsonLimitExceeded, match=f"more than {VALUES_MAX} values"):
        decoded_in_chunks(b"[" + b"1," * VALUES_MAX + b"1]")
    with pytest.raises(JsonLimitExceeded, match=f"more than {PARTS_MAX} lists, objects and members"):
        decoded_in_chunks(b"[" + b"[]," * PARTS_MAX + b"1]")


def test_large_bodies_are_refused_as_small_ones_are() -> None:
    decoder, pad = msgspec.json.Decoder(SearchIn), '"unknown": "' + "a" * 300_000 + '", '
    bodies: dict[str, tuple[int, list[list[str | int]]]] = {
        "{%s}": (400, []),
        '{%s"top_k": "a"}': (422, [["body", "top_k"]]),
        '{%s"exclude_ids": [1, 2, 1.5]}': (422, [["body", "exclude_ids", 2]]),
        '{%s"include": ["scores"]}': (422, [["body", "include", 0]]),
        '{%s"max_distance": 1E400}': (422, [["body", "max_distance"]]),
        '{%s"exclude_ids": [1, 2, -1e400, 3]}': (422, [["body", "exclude_ids", 2]]),
        '{%s"max_distance": 1e400, "k": }': (400, []),
        '{%s"top_k": "a", "k": }': (400, []),
        '{%s"a": ' + "[" * 5000 + "]" * 5000 + "}": (400, []),
        '{%s"query": "\udcff"}': (400, []),
    }
    for body, (status, locs) in bodies.items():
        for padding in ("", pad):
            if body == "{%s}" and not padding:
                continue
            content = (body % padding).encode(errors="surrogateescape")
            assert is_large(content) == bool(padding)
            with pytest.raises(HttpRefusal) as refused:
                decode_json(decoder, content)
            assert refused.value.status == status, body
            assert [list(each.loc) for each in refused.value.errors] == locs, body


def test_a_number_out_of_range_is_named_or_nobodys_business() -> None:
    decoder, pad = msgspec.json.Decoder(SearchIn), '"unknown": "' + "a" * 300_000 + '", '
    for body in ('{%s"z": 1E400, "top_k": 3}', '{%s"z": {"a": [[1], 2, -1e999, 4]}, "top_k": 3}'):
        for padding in ("", pad):
            assert decode_json(decoder, (body % padding).encode()).top_k == 3, body
    for path in (("a",), ("a", 1), ("a", 0, "b")):
        value: Any = "1e400"
        for step in reversed(path):
            value = f'{{"{step}": {value}}}' if isinstance(step, str) else f"[{'[0],' * step}{value}, 1]"
        with pytest.raises(HttpRefusal) as refused:
            decode_json(decoder, f'{{{pad} "filter": {value}}}'.encode())
        assert [each.loc for each in refused.value.errors] == [("body", "filter", *path)]


def test_a_large_write_is_decoded_to_the_same() -> None:
    decoder = msgspec.json.Decoder(UpsertIn)
    items = [{"recipe_id": n, "text": "국" * 100} for n in range(2000)]
    body = b"\xef\xbb\xbf" + json.dumps({"collection": "recipes", "items": items}).encode()
    found = decode_json(decoder, body, frozenset(("items", "delete_ids")))
    whole = decoder.decode(body.removeprefix(b"\xef\xbb\xbf"))
    assert [bytes(each) for each in found.items] == [bytes(each) for each in whole.items]
    with pytest.raises(Refused, match="unknown field"):
        decode_json(decoder, body.removesuffix(b"}") + b', "itemz": 1}', frozenset(("items",)))
