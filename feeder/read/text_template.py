"""Content fields of an item to the text that is embedded."""

from __future__ import annotations

from collections.abc import Mapping


def rendered(template: str, content: Mapping[str, str]) -> str:
    """Fill a template; a field that a row lacks is empty."""
    return template.format_map(_Blank(content)).strip()


class _Blank(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return ""
