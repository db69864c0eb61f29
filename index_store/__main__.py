"""`python -m index_store check|stats DIR`: look at a data directory without a service."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from index_store.embedded.check import check, collection_directories
from index_store.embedded.stats import stats


def main(arguments: Sequence[str]) -> int:
    """0 when all is well, 1 when something is wrong, 2 when there is nothing to look at."""
    parser = argparse.ArgumentParser(prog="python -m index_store", description=__doc__)
    parser.add_argument("command", choices=("check", "stats"))
    parser.add_argument("data_dir", type=Path)
    asked = parser.parse_args(arguments)
    if not collection_directories(asked.data_dir):
        print(f"{asked.data_dir} holds no collections", file=sys.stderr)
        return 2
    if asked.command == "stats":
        print(json.dumps(stats(asked.data_dir), indent=1, ensure_ascii=False))
        return 0
    problems = check(asked.data_dir)
    for problem in problems:
        print(problem)
    print("sound" if not problems else f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
