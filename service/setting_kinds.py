"""What a setting may be: each function describes one kind as a field of a dataclass: how its text is read,
its unit, its bounds and its meaning."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from index_store.hints import DATABASE_ADDRESS, is_database_address
from service.access import split_key

_ORIGIN = re.compile(r"https?://([a-z0-9-]+(\.[a-z0-9-]+)*|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:[0-9]{1,5})?")

_BOOLEANS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def number(default: int, low: int, high: int, unit: str, meaning: str) -> Any:
    """A whole number of `low` to `high`."""

    def parse(raw: str) -> int:
        try:
            value = int(raw)
        except ValueError:
            raise ValueError(f"must be a whole number ({unit}), got {raw!r}") from None
        if not low <= value <= high:
            raise ValueError(f"must be {low} to {high} ({unit}), got {value}")
        return value

    return _setting(default, parse, unit, f"{low} to {high}", meaning)


def choice(default: str, allowed: tuple[str, ...], meaning: str) -> Any:
    """One of the words in `allowed`."""

    def parse(raw: str) -> str:
        if raw not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}, got {raw!r}")
        return raw

    return _setting(default, parse, "word", " | ".join(allowed), meaning)


def text(default: str, meaning: str) -> Any:
    """Any text."""
    return _setting(default, str, "text", "", meaning)


def path(default: str, meaning: str) -> Any:
    """A path with a default."""
    return _setting(Path(default), _path, "path", "", meaning)


def optional_path(meaning: str) -> Any:
    """A path, or None."""
    return _setting(None, _path, "path", "", meaning)


def switch(meaning: str) -> Any:
    """A boolean; None where it is not set."""

    def parse(raw: str) -> bool:
        if raw.lower() not in _BOOLEANS:
            raise ValueError(f"must be 1 or 0, got {raw!r}")
        return _BOOLEANS[raw.lower()]

    return _setting(None, parse, "1 or 0", "1 | 0", meaning)


def names(meaning: str) -> Any:
    """Names with commas between them."""
    return _setting((), _comma_list, "comma list", "", meaning)


def hosts(meaning: str) -> Any:
    """Hosts as a Content-Security-Policy names them."""

    def parse(raw: str) -> tuple[str, ...]:
        parsed = _comma_list(raw)
        for part in parsed:
            if not _HOST.fullmatch(part):
                raise ValueError(f"must be host, host:port or *.host, got {part!r}")
        return parsed

    return _setting((), parse, "comma list", "", meaning)


def origins(meaning: str) -> Any:
    """Origins of web pages, as a browser sends them: scheme and host in small letters, no path."""

    def parse(raw: str) -> tuple[str, ...]:
        parsed = _comma_list(raw)
        for part in parsed:
            if part != "*" and not _ORIGIN.fullmatch(part):
                raise ValueError(f"must be origins such as https://shop.example or *, got {part!r}")
        return parsed

    return _setting((), parse, "comma list", "", meaning)


def keys(meaning: str) -> Any:
    """Secrets: never in a message or a repr."""

    def parse(raw: str) -> tuple[str, ...]:
        parsed = _comma_list(raw)
        if any(not 8 <= len(key) <= 256 or not key.isascii() or not key.isprintable() for key in parsed):
            raise ValueError("each key must have 8 to 256 printable ASCII characters")
        given = [name for name, _ in map(split_key, parsed) if name]
        for name in given:
            if given.count(name) > 1:
                raise ValueError(f"names the key {name!r} twice: the old and the new one need two names")
        return parsed

    bounds = "8 to 256 characters each; NAME:KEY with 16 at least"
    return _setting((), parse, "comma list", bounds, meaning, secret=True)


def header_fields(meaning: str) -> Any:
    """Header fields as OpenTelemetry writes them, which may hold secrets: never in a message or a repr."""

    def parse(raw: str) -> tuple[tuple[str, str], ...]:
        pairs = [part.partition("=") for part in _comma_list(raw)]
        if any(not name.strip() or not equals for name, equals, _ in pairs):
            raise ValueError("must be name=value, with commas between them")
        return tuple((name.strip().lower(), unquote(value.strip())) for name, _, value in pairs)

    return _setting((), parse, "comma list", "", meaning, secret=True)


def http_address(meaning: str) -> Any:
    """The address of an HTTP server; empty where it is not set."""

    def parse(raw: str) -> str:
        parts = urlsplit(raw)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"must be an address such as http://localhost:4318, got {raw!r}")
        return raw

    return _setting("", parse, "address", "", meaning)


def postgres_address(meaning: str) -> Any:
    """A database of PostgreSQL, which may hold a password: never in a message or a repr; empty where it is
    not set."""

    def parse(raw: str) -> str:
        if not is_database_address(raw):
            raise ValueError(f"must be {DATABASE_ADDRESS}")
        return raw

    return _setting("", parse, "address", "", meaning, secret=True)


def networks(meaning: str) -> Any:
    """Networks as 10.0.0.0/8, with commas between them."""

    def parse(raw: str) -> tuple[str, ...]:
        for part in _comma_list(raw):
            try:
                ipaddress.ip_network(part)
            except ValueError:
                raise ValueError(f"must be networks such as 10.0.0.0/8, got {part!r}") from None
        return _comma_list(raw)

    return _setting((), parse, "comma list", "", meaning)


def _path(raw: str) -> Path:
    if "://" in raw:  # not repeated: the address of a database may hold a password
        raise ValueError("must be a path, got an address")
    return Path(raw)


def _comma_list(raw: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in raw.split(",") if part.strip())


def _setting(
    default: object,
    parse: Callable[[str], Any],
    unit: str,
    bounds: str,
    meaning: str,
    *,
    secret: bool = False,
) -> Any:
    facts = {"parse": parse, "unit": unit, "bounds": bounds, "meaning": meaning, "secret": secret}
    return field(default=default, metadata=facts, repr=not secret)
