"""Why a picture can't be had.

FetchError
├── FetchRefused   the address may not be asked; another try changes nothing
└── FetchFailed    it was asked and gave no picture within the bounds; another try may succeed
"""

from __future__ import annotations


class FetchError(Exception):
    """Base of both. `str()` is one plain sentence fit for a caller."""


class FetchRefused(FetchError):
    """The address may not be asked: its host is not listed or not public. Another try changes nothing."""


class FetchFailed(FetchError):
    """The host was asked and gave no picture within the bounds. Another try may succeed."""
