"""Who calls: by key, or by address where no key is asked for."""

from __future__ import annotations

import pytest

from service.http.auth import Keys, Role, TrustedProxies, key_name
from service.http.wire.problems import HttpRefusal

NO_PROXIES = TrustedProxies(())


def test_each_key_is_a_caller_wherever_it_comes_from() -> None:
    keys = Keys(
        {Role.SEARCH: ("first-key", "second-key"), Role.ADMIN: ("admin-key",)},
        NO_PROXIES,
        is_open_to_loopback=False,
    )
    found = [
        keys.check(Role.SEARCH, {b"x-api-key": key}, peer)
        for key, peer in [(b"first-key", "10.0.0.1"), (b"first-key", "10.0.0.2"), (b"second-key", "10.0.0.1")]
    ]
    assert found[0] == found[1] != found[2]
    assert "first-key" not in found[0], "a key is no name to keep"


def test_without_keys_an_address_is_a_caller_and_an_offered_key_is_none() -> None:
    keys = Keys({}, NO_PROXIES, is_open_to_loopback=False)
    assert keys.check(Role.SEARCH, {}, "10.0.0.1") == "10.0.0.1"
    assert keys.check(Role.SEARCH, {b"x-api-key": b"made-up"}, "10.0.0.1") == "10.0.0.1"


def test_a_network_of_ipv6_is_one_caller() -> None:
    keys = Keys({}, NO_PROXIES, is_open_to_loopback=False)
    assert keys.check(Role.SEARCH, {}, "2001:db8:1:2:3::4") == keys.check(
        Role.SEARCH, {}, "2001:db8:1:2:9::8"
    )
    assert keys.check(Role.SEARCH, {}, "2001:db8::1") == keys.check(Role.SEARCH, {}, "2001:db8::2")
    assert keys.check(Role.SEARCH, {}, "::ffff:10.0.0.1") == "10.0.0.1"
    assert keys.check(Role.SEARCH, {}, "2001:db8:1:2::1") != keys.check(Role.SEARCH, {}, "2001:db8:1:3::1")


def test_a_trusted_proxy_tells_who_calls_and_nobody_else_does() -> None:
    keys = Keys({}, TrustedProxies(["10.0.0.0/8"]), is_open_to_loopback=False)
    told = {b"x-forwarded-for": b"203.0.113.7"}
    assert keys.check(Role.SEARCH, told, "10.0.0.1") == "203.0.113.7"
    assert keys.check(Role.SEARCH, told, "198.51.100.1") == "198.51.100.1"


def test_a_key_is_told_by_its_name_or_its_place() -> None:
    keys = Keys(
        {
            Role.SEARCH: ("plain-key",),
            Role.WRITE: ("feeder-2026:0123456789abcdef", "feeder-2027:fedcba9876543210"),
            Role.ADMIN: ("old:one:12", "3rd:0123456789abcdef"),
        },
        NO_PROXIES,
        is_open_to_loopback=False,
    )

    def name_of(key: bytes) -> str | None:
        return key_name(keys.check(Role.SEARCH, {b"x-api-key": key}, "10.0.0.1"))

    assert name_of(b"plain-key") == "search-1"
    assert name_of(b"fedcba9876543210") == name_of(b"feeder-2027:fedcba9876543210") == "feeder-2027"
    assert name_of(b"0123456789abcdef") == "feeder-2026"
    assert [name_of(key) for key in (b"old:one:12", b"3rd:0123456789abcdef")] == ["admin-1", "admin-2"]
    for wrong in (b"feeder-2026", b"feeder-2026:fedcba9876543210", b"one:12", b"feeder-2026:"):
        with pytest.raises(HttpRefusal) as refused:
            name_of(wrong)
        assert refused.value.code == "key_refused"


def test_no_address_passes_for_the_name_of_a_key() -> None:
    keys = Keys({}, TrustedProxies(["10.0.0.0/8"]), is_open_to_loopback=False)
    told = {b"x-forwarded-for": b"key admin-1"}
    assert key_name(keys.check(Role.SEARCH, told, "10.0.0.1")) is None
