"""The house rules over every Python file, and proof that each rule can fail."""

from __future__ import annotations

import pytest

from tests.tidy import rules
from tests.tidy.source import PRODUCT_ROOMS, SourceFile, python_files

FILES = python_files()

BAD: dict[rules.Rule, tuple[str, str]] = {
    rules.functions_are_short: ("service/a.py", "def long():\n" + "    x = 1\n" * 70),
    rules.files_are_short: ("service/a.py", "X = 1\n" * 401),
    rules.ports_are_narrow: (
        "service/port.py",
        "from typing import Protocol\nclass P(Protocol):\n"
        + "".join(f"    def m{n}(self) -> None: ...\n" for n in range(9)),
    ),
    rules.annotations_are_postponed: ("service/a.py", '"""Doc."""\n\nX = 1\n'),
    rules.module_names_say_something: ("service/utils.py", ""),
    rules.no_code_loaders: ("service/a.py", "import numpy as np\nnp.load('a', allow_pickle=True)\n"),
    rules.only_programs_read_the_environment: ("service/a.py", "from os import environ\nX = environ['A']\n"),
    rules.clock_and_chance_are_passed_in: ("service/a.py", "import time\ndef f():\n    return time.time()\n"),
    rules.only_programs_print: ("service/a.py", "def f():\n    print(1)\n"),
    rules.no_module_state: ("service/a.py", "model = None\n"),
    rules.broad_excepts_speak: ("service/a.py", "try:\n    f()\nexcept Exception:\n    pass\n"),
    rules.no_mocks: ("tests/unit/test_a.py", "from unittest import mock\n"),
    rules.stands_alone: ("service/a.py", "PATH = '../shared/data'\n"),
}
MORE_BAD = [
    (rules.no_code_loaders, "service/a.py", "import pickle\n"),
    (rules.no_code_loaders, "service/a.py", "from pickle import loads\n"),
    (rules.no_code_loaders, "service/a.py", "import torch as t\nt.load('x', weights_only=True)\n"),
    (rules.no_code_loaders, "service/a.py", "eval('1')\n"),
    (rules.only_programs_read_the_environment, "feeder/a.py", "import os as o\no.getenv('A')\n"),
    (rules.clock_and_chance_are_passed_in, "service/a.py", "import random\nrandom.shuffle([])\n"),
    (rules.clock_and_chance_are_passed_in, "service/a.py", "import numpy as np\nnp.random.default_rng()\n"),
    (
        rules.clock_and_chance_are_passed_in,
        "service/a.py",
        "from datetime import datetime\ndatetime.now()\n",
    ),
    (rules.no_module_state, "tests/a.py", "def f():\n    global x\n"),
    (rules.broad_excepts_speak, "service/a.py", "try:\n    f()\nexcept:\n    x = 1\n"),
    (
        rules.broad_excepts_speak,
        "service/a.py",
        "try:\n    f()\nexcept Exception as exc:\n    log.error('failed', exc)\n",
    ),
    (rules.no_mocks, "tests/a.py", "def test(monkeypatch):\n    monkeypatch.setattr('a.b', 1)\n"),
]
GOOD = [
    (rules.functions_are_short, "service/a.py", "def short():\n" + "    x = 1\n" * 69),
    (rules.files_are_short, "service/a.py", "X = 1\n" * 400),
    (rules.annotations_are_postponed, "service/__init__.py", ""),
    (rules.no_code_loaders, "service/a.py", "import numpy as np\nnp.load('a', allow_pickle=False)\n"),
    (rules.only_programs_read_the_environment, "service/__main__.py", "import os\nX = os.environ\n"),
    (rules.clock_and_chance_are_passed_in, "service/a.py", "import time\ndef f(clock=time.time): ...\n"),
    (
        rules.clock_and_chance_are_passed_in,
        "service/a.py",
        "import numpy as np\nnp.random.default_rng(7)\n",
    ),
    (
        rules.clock_and_chance_are_passed_in,
        "service/a.py",
        "def f(random):\n    return random.random()\n",
    ),
    (
        rules.no_module_state,
        "service/a.py",
        "import logging\nlog = logging.getLogger(__name__)\n_MAX = 3\nIds = list[int]\n",
    ),
    (rules.broad_excepts_speak, "service/a.py", "try:\n    f()\nexcept Exception:\n    log.exception('x')\n"),
    (
        rules.broad_excepts_speak,
        "service/a.py",
        "try:\n    f()\nexcept Exception as exc:\n    offer(exc)\n",
    ),
    (rules.no_mocks, "tests/a.py", "def test(monkeypatch):\n    monkeypatch.setenv('A', '1')\n"),
]


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps_the_rule(rule: rules.Rule) -> None:
    findings = [finding for file in FILES for finding in rule(file)]
    assert not findings, "\n" + "\n".join(map(str, findings))


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_the_rule_can_fail(rule: rules.Rule) -> None:
    path, text = BAD[rule]
    assert list(rule(SourceFile(path, text)))


@pytest.mark.parametrize(("rule", "path", "text"), MORE_BAD)
def test_other_spellings_are_caught(rule: rules.Rule, path: str, text: str) -> None:
    assert list(rule(SourceFile(path, text)))


@pytest.mark.parametrize(("rule", "path", "text"), GOOD)
def test_the_rule_lets_good_code_pass(rule: rules.Rule, path: str, text: str) -> None:
    assert not list(rule(SourceFile(path, text)))


def test_there_is_something_to_check() -> None:
    assert {file.room for file in FILES} >= {*PRODUCT_ROOMS, "tests"}


def test_every_exception_is_still_needed() -> None:
    present = {file.path for file in FILES}
    for allowed in (rules.MAY_LOAD_CODE, rules.MAY_READ_THE_CLOCK, rules.MAY_PRINT):
        assert set(allowed) <= present, "an exception for a file that is gone"
        assert all(reason.strip() for reason in allowed.values())
