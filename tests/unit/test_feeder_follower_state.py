"""Who remembers what the index holds, as it is stored, and what a follower may do because of it."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder.follow.mode import (
    ActivityOnly,
    Fresh,
    Mode,
    Trusted,
    Untrusted,
    reason_to_compare,
    resumed,
    state_of,
)
from feeder.state.follower_state import NOBODY, FollowerState

NAME = "0f" * 16


@dataclass
class NoActivity:
    """Stands where a mode names what is followed; nothing here calls it."""


ONLY_ACTIVITY = ActivityOnly(NoActivity())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "state"),
    [
        (None, NOBODY),
        ("", NOBODY),
        (NAME, FollowerState(NAME, comparison_owed=False)),
        (f"{NAME} owes a comparison", FollowerState(NAME, comparison_owed=True)),
        ("another machine", FollowerState("another machine", comparison_owed=False)),
        ('{"follower": "x", "comparison_owed": true}', FollowerState("x", comparison_owed=True)),
        (
            '{"follower": "x", "comparison_owed": false, "later": 1}',
            FollowerState("x", comparison_owed=False),
        ),
        ("{", NOBODY),
        ("{}", NOBODY),
        ("{[1]}", NOBODY),
    ],
)
def test_what_this_and_older_releases_stored_is_read(text: str | None, state: FollowerState) -> None:
    assert FollowerState.parsed(text) == state


@given(st.text(min_size=1), st.booleans())
def test_what_is_stored_is_read_back(name: str, comparison_owed: bool) -> None:
    state = FollowerState(name, comparison_owed)
    assert FollowerState.parsed(state.to_text()) == state


def test_it_is_stored_as_json_and_nobody_as_nothing() -> None:
    assert json.loads(FollowerState("x", comparison_owed=True).to_text()) == {
        "follower": "x",
        "comparison_owed": True,
    }
    assert NOBODY.to_text() == ""


@pytest.mark.parametrize(
    ("stored", "is_ready", "mode"),
    [
        (FollowerState(NAME, comparison_owed=False), True, Trusted("v")),
        (FollowerState(NAME, comparison_owed=True), True, Trusted("v")),
        (FollowerState("another", comparison_owed=False), True, Untrusted("v")),
        (NOBODY, True, Untrusted("v")),
        (FollowerState(NAME, comparison_owed=False), False, Fresh("v")),
        (NOBODY, False, Fresh("v")),
    ],
)
def test_who_wrote_last_says_what_may_be_followed(stored: FollowerState, is_ready: bool, mode: Mode) -> None:
    assert resumed("v", NAME, stored, is_ready=is_ready) == mode


@pytest.mark.parametrize("owed", [True, False])
@pytest.mark.parametrize("mode", [Fresh("v"), Untrusted("v"), ONLY_ACTIVITY])
def test_only_a_trusted_memory_starts_without_a_comparison(mode: Mode, owed: bool) -> None:
    assert reason_to_compare(mode, comparison_owed=owed)
    assert reason_to_compare(Trusted("v"), comparison_owed=False) is None
    assert reason_to_compare(Trusted("v"), comparison_owed=True)


def test_a_comparison_that_is_owed_is_ours_only_where_the_memory_is_trusted() -> None:
    assert state_of(Trusted("v"), NAME, comparison_owed=True) == FollowerState(NAME, comparison_owed=True)
    assert state_of(Trusted("v"), NAME, comparison_owed=False) == FollowerState(NAME, comparison_owed=False)
    for mode in (Fresh("v"), Untrusted("v")):
        assert state_of(mode, NAME, comparison_owed=True) == NOBODY
    assert state_of(ONLY_ACTIVITY, NAME, comparison_owed=True) is None
