"""Texts to token ids. Unigram vocabularies are searched here; any other tokenizer is run by its library.

The library needs 280 MB and over a second for the 250,000 pieces of the multilingual models, in each worker;
a dict of the pieces needs a tenth of both. Normalising and splitting into words stay the library's work, and
the search for the best pieces is the same: forward over the text, ties to the earlier start.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import orjson
from tokenizers import Tokenizer

TokenIds = npt.NDArray[np.int64]
_UNKNOWN_PENALTY = 10.0
_WORDS_KEPT_MAX = 65_536
_WORD_CHARS_MAX = 32  # longer words are rare and not worth keeping


class TextTokenizer(Protocol):
    """Safe from any thread."""

    def encode(self, texts: Sequence[str]) -> tuple[list[TokenIds], list[bool]]:
        """Return each text's ids, special ones included, and whether it was cut."""


def open_tokenizer(path: Path, tokens_max: int) -> TextTokenizer:
    """Return the tokenizer of the verified file at `path`, cutting at `tokens_max` ids."""
    content = orjson.loads(path.read_bytes())
    if _is_searched_here(content):
        return UnigramTokenizer(content, tokens_max)
    return LibraryTokenizer(path, tokens_max)


class LibraryTokenizer:
    """A tokenizer run by the `tokenizers` library."""

    def __init__(self, path: Path, tokens_max: int) -> None:
        self._tokenizer: Any = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(tokens_max)

    def encode(self, texts: Sequence[str]) -> tuple[list[TokenIds], list[bool]]:
        """See TextTokenizer."""
        encoded = self._tokenizer.encode_batch_fast(list(texts))
        return [np.asarray(e.ids, np.int64) for e in encoded], [bool(e.overflowing) for e in encoded]


def _is_searched_here(content: dict[str, Any]) -> bool:
    model = content["model"]
    added = content.get("added_tokens") or []
    return bool(
        model.get("type") == "Unigram"
        and not model.get("byte_fallback")
        and model.get("unk_id") is not None
        and content.get("normalizer")
        and content.get("pre_tokenizer")
        and (content.get("post_processor") or {}).get("type") == "TemplateProcessing"
        and all(each["special"] and not each["normalized"] and not each["single_word"] for each in added)
    )


class UnigramTokenizer:
    """The most likely pieces of each word under a unigram vocabulary."""

    def __init__(self, content: dict[str, Any], tokens_max: int) -> None:
        pieces: tuple[str, ...]
        self._scores: tuple[float, ...]
        pieces, self._scores = zip(*content["model"]["vocab"], strict=True)
        self._unknown: int = content["model"]["unk_id"]
        self._ids = dict(zip(pieces, range(len(pieces)), strict=True))
        self._unknown_score = min(self._scores) - _UNKNOWN_PENALTY
        self._piece_chars_max = max(map(len, pieces))
        self._special = {each["content"]: int(each["id"]) for each in content["added_tokens"]}
        self._special_at = re.compile("|".join(_pattern(each) for each in content["added_tokens"]) or "(?!)")
        self._head, self._tail = _template(content["post_processor"])
        self._most = tokens_max - len(self._head) - len(self._tail)
        # What stands around the vocabulary is the library's, with a vocabulary of one word.
        small = {**content["model"], "vocab": [["?", 0.0]], "unk_id": 0}
        shell: Any = Tokenizer.from_str(
            json.dumps({**content, "model": small, "added_tokens": [], "post_processor": None})
        )
        self._normalizer, self._splitter = shell.normalizer, shell.pre_tokenizer
        self._known: dict[str, tuple[int, ...]] = {}

    def encode(self, texts: Sequence[str]) -> tuple[list[TokenIds], list[bool]]:
        """See TextTokenizer."""
        found = []
        for text in texts:
            found.append(self._pieces(text))
            time.sleep(0)  # lets a query's thread and the event loop have the interpreter
        ids = [np.array([*self._head, *each[: self._most], *self._tail], np.int64) for each in found]
        return ids, [len(each) > self._most for each in found]

    def _pieces(self, text: str) -> list[int]:
        ids: list[int] = []
        start = 0
        for special in self._special_at.finditer(text):
            self._extend(ids, text[start : special.start()])
            ids.append(self._special[special[0].strip()])
            start = special.end()
        self._extend(ids, text[start:])
        return ids

    def _extend(self, ids: list[int], text: str) -> None:
        if not text:
            return
        known = self._known
        for word, _ in self._splitter.pre_tokenize_str(self._normalizer.normalize_str(text)):
            found = known.get(word)
            if found is None:
                found = self._best(word)
                if len(word) <= _WORD_CHARS_MAX:
                    if len(known) >= _WORDS_KEPT_MAX:
                        known.clear()
                    known[word] = found
            ids.extend(found)

    def _best(self, word: str) -> tuple[int, ...]:
        """Return the ids of the likeliest pieces of `word`; neighbouring unknown characters are one id."""
        length, longest, ids, scores = len(word), self._piece_chars_max, self._ids, self._scores
        best: list[float | None] = [None] * (length + 1)
        best[0] = 0.0
        came: list[tuple[int, int]] = [(0, -1)] * (length + 1)  # (start, id) of the piece that ends here
        for start in range(length):
            here = best[start]
            assert here is not None  # each character is a piece or unknown
            has_single = False
            for end in range(start + 1, min(start + longest, length) + 1):
                piece = ids.get(word[start:end])
                if piece is None:
                    continue
                has_single = has_single or end == start + 1
                score, former = here + scores[piece], best[end]
                if former is None or score > former:
                    best[end], came[end] = score, (start, piece)
            if not has_single:
                score, former = here + self._unknown_score, best[start + 1]
                if former is None or score > former:
                    best[start + 1], came[start + 1] = score, (start, self._unknown)
        return self._path(came, length)

    def _path(self, came: Sequence[tuple[int, int]], end: int) -> tuple[int, ...]:
        path: list[int] = []
        while end > 0:
            end, piece = came[end]
            if piece != self._unknown or not path or path[-1] != self._unknown:
                path.append(piece)
        return tuple(reversed(path))


def _pattern(token: dict[str, Any]) -> str:
    before, after = r"\s*" if token["lstrip"] else "", r"\s*" if token["rstrip"] else ""
    return before + re.escape(str(token["content"])) + after


def _template(post_processor: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Return the special ids before and after a text."""
    head: list[int] = []
    tail: list[int] = []
    into = head
    for each in post_processor["single"]:
        if "Sequence" in each:
            into = tail
        else:
            into.extend(post_processor["special_tokens"][each["SpecialToken"]["id"]]["ids"])
    return head, tail
