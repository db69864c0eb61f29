"""Why a picture can't be had.

FetchError
├── FetchRefused   the address may not be asked; asking again is in vain
└── FetchFailed    it was asked and gave no picture within the bounds; it may another time
"""

from __future__ import annotations


class FetchError(Exception):
    """Base of both. `str()` is one plain sentence fit for a caller."""


class FetchRefused(FetchError):
    pass


class FetchFailed(FetchError):
    pass
