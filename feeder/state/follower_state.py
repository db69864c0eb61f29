"""Whose memory the index was last kept up by, as the service stores it with every write."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass

_OWED_SUFFIX = " owes a comparison"
"""Older releases wrote the name alone, with this behind it while a comparison was owed."""


@dataclass(frozen=True, slots=True)
class FollowerState:
    """follower: the state directory that remembers what the index holds; empty after an import or a
    reconcile, which remember nothing. comparison_owed: what was followed since may not be all that changed.
    """

    follower: str
    comparison_owed: bool

    @classmethod
    def parsed(cls, text: str | None) -> FollowerState:
        """Return what the service stored, older forms included; NOBODY for what another program wrote."""
        if not text:
            return NOBODY
        if not text.startswith("{"):
            name = text.removesuffix(_OWED_SUFFIX)
            return cls(name, comparison_owed=name != text)
        with contextlib.suppress(ValueError, KeyError, TypeError):
            body = json.loads(text)
            return cls(str(body["follower"]), bool(body["comparison_owed"]))
        return NOBODY

    def to_text(self) -> str:
        """Return it as the cursor holds it: JSON, or nothing for NOBODY."""
        return "" if self == NOBODY else json.dumps(asdict(self))


NOBODY = FollowerState("", comparison_owed=True)
"""Nobody remembers what the index holds: the next follower compares everything first."""
