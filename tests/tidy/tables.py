"""Tables, headings and code blocks out of our Markdown pages."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class CodeBlock:
    """One fenced block. language: the word after the fence, '' for none. line: where it opens."""

    language: str
    lines: tuple[str, ...]
    line: int


def table_after(text: str, marker: str) -> list[tuple[str, ...]]:
    """The rows of the first table after the comment `<!-- marker ... -->`, without its two head lines."""
    start = text.index(f"<!-- {marker}")
    rows: list[tuple[str, ...]] = []
    for line in text[start:].splitlines()[1:]:
        if line.startswith("|"):
            rows.append(tuple(cell.strip() for cell in line.strip().strip("|").split("|")))
        elif rows:
            break
    return rows[2:]


def names_in(cell: str) -> list[str]:
    """What stands between backquotes in a table cell."""
    return re.findall(r"`([^`]+)`", cell)


def headings(text: str) -> list[tuple[int, str]]:
    """(level, title) of each heading outside code blocks, in order."""
    found: list[tuple[int, str]] = []
    is_code = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code and (match := re.match(r"(#+) (.+)", line)):
            found.append((len(match[1]), match[2].strip()))
    return found


def code_blocks(text: str) -> list[CodeBlock]:
    blocks: list[CodeBlock] = []
    opened: tuple[str, int] | None = None
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            if opened is None:
                opened, lines = (line.strip()[3:].strip(), number), []
            else:
                blocks.append(CodeBlock(opened[0], tuple(lines), opened[1]))
                opened = None
        elif opened is not None:
            lines.append(line)
    return blocks
