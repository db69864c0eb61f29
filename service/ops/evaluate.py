"""`python -m service evaluate`: what it takes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.ops.report import OpsCalls

_MODES = ("dense", "lexical", "hybrid")


def add_evaluate(commands: Any) -> None:
    """Add the command. commands: as `ArgumentParser.add_subparsers` returns them."""
    evaluate = commands.add_parser(
        "evaluate", help="how good answers are by your own judgements; exit code 4 while a gate does not hold"
    )
    evaluate.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help='JSON lines: {"query": ..., "relevant": {ID: GRADE}}, or {"query": ..., "clicked": ID, '
        '"shown": [ID, ...]}; kind, language and search (more fields) where wanted',
    )
    evaluate.add_argument("--collection", help="left out, the first one that searches texts")
    evaluate.add_argument("--mode", choices=_MODES, help="the same as --with mode=MODE")
    for name, what in (
        ("--with", "a field of the searches, generation=NAME among them; may be given often"),
        ("--against", "compare with searches that have this field instead; may be given often"),
    ):
        evaluate.add_argument(
            name, action="append", default=[], metavar="NAME=VALUE", dest=name.lstrip("-") + "_", help=what
        )
    evaluate.add_argument("--min-ndcg", type=float, metavar="X", help="gate: nDCG@10 of all queries")
    evaluate.add_argument(
        "--max-loss",
        type=float,
        metavar="X",
        help="gate: of nDCG@10 to --against, also in kinds of 50 queries",
    )
    evaluate.add_argument(
        "--position-bias",
        type=float,
        default=1.0,
        metavar="X",
        help="a click at rank r counts r ** X times; default: %(default)s",
    )
    evaluate.add_argument("--html", type=Path, metavar="FILE", help="write it as one page")
    evaluate.add_argument("--json", action="store_true", help="print it as JSON")
    evaluate.set_defaults(run=_evaluate)


def _evaluate(given: argparse.Namespace, calls: OpsCalls, _: Callable[[float], object]) -> int:
    from service.ops.evaluation_calls import evaluate  # serving needs nothing of this

    return evaluate(given, calls)
