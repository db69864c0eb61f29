"""Which routes are open to whom, in words: for the log at the start and for an administrator."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence

_EXAMPLE_KEY = "change-me"
"""The prefix of the keys in .env.example."""
_KEY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,31}")
NAMED_KEY_CHARS_MIN = 16
_EVERYONE = "everyone who reaches this address"
_KEYS = "who sends a key"
_THIS_MACHINE = "every program on this machine, a proxy included"
_NOBODY = "nobody: no key is set"


def is_loopback(address: str | None) -> bool:
    """Return whether an address, or `localhost`, is this machine's own loopback."""
    if address == "localhost":
        return True
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def split_key(given: str) -> tuple[str, str]:
    """Return the name and the key of one entry of a key setting; the name is empty where it has none.

    What stands before the first colon is a name if it looks like one and a long key follows, so that keys
    with a colon in them that were set before names existed stay whole.
    """
    name, colon, key = given.partition(":")
    if colon and _KEY_NAME.fullmatch(name) and len(key) >= NAMED_KEY_CHARS_MIN:
        return name, key
    return "", given


def named_keys(role: str, given: Sequence[str]) -> list[tuple[str, str]]:
    """Return (name, what a caller may send) of the entries of a role's setting, in order; one without a name
    is called by its role and place: `write-1`. Programs that read the same setting send an entry whole, so a
    key with a name opens as it stands there, too."""
    found: list[tuple[str, str]] = []
    for place, entry in enumerate(given, start=1):
        name, key = split_key(entry)
        found += [(name, key), (name, entry)] if name else [(f"{role}-{place}", entry)]
    return found


def example_keys_refused(host: str, keys: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what is wrong with keys that everybody can read in .env.example. keys: by variable."""
    if is_loopback(host):
        return []
    return [
        f"{name} is the key of .env.example, which everybody knows: set one of your own"
        f" (openssl rand -hex 32), or HOST=127.0.0.1"
        for name, given in keys.items()
        if any(split_key(key)[1].lower().startswith(_EXAMPLE_KEY) for key in given)
    ]


def access_of(*, search: bool, write: bool, admin: bool, keyless_loopback: bool) -> dict[str, str]:
    """Return by role who may call. search, write, admin: whether such a key is set."""
    keyless = _THIS_MACHINE if keyless_loopback else _NOBODY
    return {
        "search": _KEYS if search else _EVERYONE,
        "write": _KEYS if write or admin else keyless,
        "admin": _KEYS if admin else keyless,
    }
