"""What is typed, and what is meant by it: rules out of a file in the form of Solr's synonym files.

kimchi stew, kimchi soup => 김치찌개      any of the first stands for the last
노트북, 랩탑, laptop                       any of these stands for the first
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.errors import BadConfiguration

BUILTIN: Final = "builtin:korean-kitchen"
_BUILTIN_FILE: Final = Path(__file__).with_name("korean_kitchen.txt")
_BYTES_MAX: Final = 4 << 20
_RULES_MAX: Final = 50_000
_WORDS_MAX: Final = 8
"""Of what is typed."""
_WORD = re.compile(r"[^\s,;:!?()\[\]\"]+")


@dataclass(frozen=True, slots=True)
class Synonyms:
    """meanings: by what is typed, lower case, one space between words."""

    meanings: Mapping[str, str]

    def reading(self, text: str) -> str | None:
        """Return `text` with all that the rules know replaced, the longest first; None where they know
        nothing of it."""
        words = [found.group() for found in _WORD.finditer(text)]
        keys = [word.lower() for word in words]
        out: list[str] = []
        place, is_known = 0, False
        while place < len(words):
            for count in range(min(_WORDS_MAX, len(words) - place), 0, -1):
                meaning = self.meanings.get(" ".join(keys[place : place + count]))
                if meaning is not None:
                    out.append(meaning)
                    place, is_known = place + count, True
                    break
            else:
                out.append(words[place])
                place += 1
        return " ".join(out) if is_known else None


def read_synonyms(reference: str, beside: Path | None) -> Synonyms:
    """Return the rules of a file, or of the one that comes along (`BUILTIN`). beside: a file whose folder
    relative paths begin in. Raises BadConfiguration with every mistake."""
    file = _BUILTIN_FILE if reference == BUILTIN else (beside.parent if beside else Path()) / reference
    try:
        if file.stat().st_size > _BYTES_MAX:
            raise BadConfiguration([f"synonyms {file} has more than {_BYTES_MAX >> 20} MiB"])
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise BadConfiguration([f"synonyms {file} can't be read: {exc}"]) from exc
    meanings: dict[str, str] = {}
    mistakes: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        rule = unicodedata.normalize("NFC", line.partition("#")[0]).strip()
        if rule:
            found = _read_rule(rule)
            if isinstance(found, str):
                mistakes.append(f"synonyms {file}, line {number}: {found}")
            else:
                meanings.update(found)
    if len(meanings) > _RULES_MAX:
        mistakes.append(f"synonyms {file} has {len(meanings)} rules, {_RULES_MAX} at most")
    if mistakes:
        raise BadConfiguration(mistakes)
    return Synonyms(meanings)


def _read_rule(rule: str) -> dict[str, str] | str:
    """By what is typed, or what is wrong with the rule."""
    typed, arrow, meant = rule.partition("=>")
    spellings = [" ".join(each.lower().split()) for each in typed.split(",")]
    meaning = " ".join(meant.split())
    if not arrow:
        meaning, spellings = typed.split(",")[0].strip(), spellings[1:]
    if not spellings or not all(spellings) or not meaning or "," in meaning:
        return "must be `typed, typed => meant` or `meant, typed`"
    if any(len(each.split()) > _WORDS_MAX for each in spellings):
        return f"what is typed has more than {_WORDS_MAX} words"
    return dict.fromkeys(spellings, meaning)
