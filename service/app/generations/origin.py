"""What made a generation's vectors, as the service has the index keep it (docs/FORMAT.md, `origin`)."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Origin:
    """model: the model reference as it was configured. text_template: what the texts were made by."""

    model: str
    text_template: str = ""

    def serialized(self) -> str:
        """Return it as the index keeps it."""
        told = {"model": self.model, "text_template": self.text_template}
        return json.dumps(told, ensure_ascii=False, sort_keys=True)


def read_origin(text: str) -> Origin | None:
    """Return what `text` says; None for an empty or unreadable one, as of a generation whose vectors came
    from elsewhere."""
    try:
        told = json.loads(text)
        model, text_template = told["model"], told["text_template"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(model, str) or not isinstance(text_template, str) or not model:
        return None
    return Origin(model, text_template)
