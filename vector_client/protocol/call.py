"""One request, and how to read its answer. No I/O."""

from __future__ import annotations

import binascii
import math
import sys
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode, urlsplit

import orjson

from vector_client.errors import BadAnswer, NotSent, refusal_class
from vector_client.types import Vector

Answer = TypeVar("Answer")

ANSWER_BYTES_MAX = 256 * 1024 * 1024
JSON_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class Address:
    """Where the service is. prefix: what stands before every path, without a slash at its end. base: scheme,
    host, port and prefix, as an address."""

    is_secure: bool
    host: str
    port: int | None
    prefix: str
    base: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Read an address. Raises ValueError for anything but http(s)://host[:port][/prefix]."""
        parts = urlsplit(url.strip())
        if "@" in parts.netloc:
            raise ValueError("an address with a user or a password: the service takes keys (SEARCH_API_KEY)")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http(s) address: {url!r}")
        if parts.query or parts.fragment:
            raise ValueError(f"an address without ? and # expected, got {url!r}")
        prefix = parts.path.rstrip("/")
        base = f"{parts.scheme}://{parts.netloc}{prefix}"
        return cls(parts.scheme == "https", parts.hostname, parts.port, prefix, base)


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """One request and how to read its answer. repeats_on_timeout: false for writes, since the first attempt
    may still be applied after a later one. also_answers: statuses other than 2xx that carry an answer."""

    method: str
    path: str
    read: Callable[[Any], Answer]
    body: bytes | None = None
    key: str = ""
    repeats_on_timeout: bool = True
    content_type: str = JSON_TYPE
    also_answers: tuple[int, ...] = ()

    def headers(self) -> dict[str, str]:
        """Return the request headers, with the key of the route."""
        headers = {"Accept": JSON_TYPE, "Accept-Encoding": "identity"}
        if self.body is not None:
            headers["Content-Type"] = self.content_type
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return headers

    def answer(self, status: int, headers: Mapping[str, str], data: bytes) -> Answer:
        """Return what a whole answer says. Raises Refused, or BadAnswer where it is not the service's."""
        is_answer = 200 <= status < 300 or status in self.also_answers
        try:
            body = orjson.loads(data)
        except orjson.JSONDecodeError as exc:
            if is_answer:
                raise BadAnswer(f"{self.path}: {status} with a body that is not JSON: {data[:80]!r}") from exc
            body = None
        if is_answer:
            return self._meant_by(body)
        if status < 400:
            raise BadAnswer(f"{self.path}: answered {status}, which the service never does")
        problem = body if isinstance(body, dict) else {}
        raise refusal_class(status)(
            status,
            str(problem.get("code") or f"http_{status}"),
            str(problem.get("detail") or problem.get("title") or data[:200].decode(errors="replace")),
            str(problem.get("request_id") or headers.get("X-Request-Id") or ""),
            problem.get("errors") or (),
            _seconds(headers.get("Retry-After")),
            str(problem.get("hint") or ""),
        )

    def _meant_by(self, body: Any) -> Answer:
        try:
            return self.read(body)
        except (KeyError, TypeError, ValueError, AttributeError, StopIteration, IndexError) as exc:
            raise BadAnswer(
                f"{self.path}: the answer is not the vector service's: {type(exc).__name__} {exc}"
            ) from exc


def json_body(body: Mapping[str, Any]) -> bytes:
    """Return a request's body. Raises NotSent for what has no form in JSON."""
    try:
        # Ids that come out of numpy or pandas are numbers too.
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as exc:
        raise NotSent(f"an argument has no form in JSON: {exc}") from exc


def finite(value: Any) -> Any:
    """Return `value`, whatever is in it. Raises NotSent for NaN and infinity: JSON knows neither, and orjson
    would send null."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotSent(f"{value} has no form in JSON")
    elif isinstance(value, Mapping):
        for each in value.values():
            finite(each)
    elif isinstance(value, list | tuple):
        for each in value:
            finite(each)
    return value


def packed(vector: Vector) -> str:
    """Return base64 of float32, little end first: the service decodes it six times faster than numbers.

    Raises NotSent for what is no sequence of numbers.
    """
    if isinstance(vector, bytes):
        return base64(vector)
    try:
        numbers = array("f", vector)
    except (TypeError, OverflowError) as exc:
        raise NotSent(f"a vector is a sequence of numbers: {exc}") from exc
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64(numbers.tobytes())


def base64(data: bytes) -> str:
    """Return the bytes as the wire takes them in JSON."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        return None  # an HTTP date: our service never sends one


def without_none(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are given: one that is None keeps the default of the service."""
    return {name: value for name, value in body.items() if value is not None}


def with_query(path: str, asked: Mapping[str, str]) -> str:
    """Return the path with its query string."""
    return f"{path}?{urlencode(asked)}" if asked else path
