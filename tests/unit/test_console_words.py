"""The console's words: both languages whole, each used, none missing; and no text that becomes markup."""

from __future__ import annotations

import re
from pathlib import Path

from service.http.wire import problems

SERVICE = Path(__file__).parents[2] / "service"
CONSOLE = SERVICE / "console"
SCRIPTS = {path.name: path.read_text("utf-8") for path in CONSOLE.glob("*/*.js")}
LISTS = ("words.js", "words_ops.js")
WORD = re.compile(r'^  (\w+): \[\s*"((?:[^"\\]|\\.)*)",\s*"((?:[^"\\]|\\.)*)",?\s*\]', re.MULTILINE)
WORDS = {key: (english, korean) for name in LISTS for key, english, korean in WORD.findall(SCRIPTS[name])}


def test_both_languages_have_each_word_and_the_same_places_in_it() -> None:
    assert len(WORDS) == sum(len(re.findall(r"^  \w+: \[", SCRIPTS[name], re.MULTILINE)) for name in LISTS)
    assert len(WORDS) > 150
    for key, (english, korean) in WORDS.items():
        assert english.strip() and korean.strip(), key
        assert set(re.findall(r"\{\w+\}", english)) == set(re.findall(r"\{\w+\}", korean)), key


def test_every_word_that_is_asked_for_is_there_and_every_one_is_asked_for() -> None:
    code = "".join(text for name, text in SCRIPTS.items() if name not in LISTS)
    asked = set(re.findall(r'\bt\("(\w+)"', code))
    assert asked <= WORDS.keys(), asked - WORDS.keys()
    quoted = set(re.findall(r'"(\w+)"', code)) | set(re.findall(r"\bt\((\w+)\)", code))
    beginnings = set(re.findall(r"`(\w+_)\$\{", code))
    endings = set(re.findall(r"\$\{\w+\}(_\w+)`", code))
    lone = {
        key
        for key in WORDS.keys() - asked - quoted
        if not any(key.startswith(each) for each in beginnings) and not any(key.endswith(e) for e in endings)
    }
    named = set(re.findall(r"\b(\w+):", code))  # keys of a table whose values are asked for
    assert lone <= named, lone - named


def test_texts_never_become_markup() -> None:
    barred = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|\.srcdoc"
        r'|setAttribute\("on|"style"|javascript:'
    )
    found = {name: barred.findall(text) for name, text in SCRIPTS.items() if name != "docs.js"}
    assert {name: places for name, places in found.items() if places} == {}


def test_every_problem_of_the_service_has_words_of_its_own() -> None:
    """Else a Korean page tells it by the service's English text alone."""
    named = re.compile(r"HttpRefusal\(\s*\d+,\s*\"(\w+)\"")
    written = [
        code for path in SERVICE.glob("http/**/*.py") for code in named.findall(path.read_text("utf-8"))
    ]
    codes = (
        {code for *_, code in problems._TABLE}
        | {code for code, _ in problems._OF_ROUTING.values()}
        | set(written)
    )
    assert len(codes) > 40
    assert {code for code in codes if f"refused_{code}" not in WORDS} == set()
