"""`python -m vector_client parity`: does the service answer what pgvector answers?"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from vector_client.errors import SettingsWrong, VectorClientError
from vector_client.http import VectorClient
from vector_client.parity.report import Bounds, is_equal, lines
from vector_client.recommend.pgvector import PgTable
from vector_client.settings import ClientSettings
from vector_client.types import Query

EQUAL, DIFFERENT, NOT_RUN = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Return 0 where both answer alike, 1 where they differ, 2 where that could not be found out."""
    asked = _parser().parse_args(arguments)
    try:
        return _parity(asked)
    except (VectorClientError, SettingsWrong, OSError) as exc:
        print(f"not compared: {exc}", file=sys.stderr)
        return NOT_RUN


def _parity(asked: argparse.Namespace) -> int:
    try:
        from vector_client.parity.sample import PgVectorSide, compare, embedded, plain_dsn
    except ImportError as exc:
        raise SettingsWrong("pip install 'uhok-vector-client[psycopg]'") from exc
    environ = dict(os.environ)
    if asked.url:
        environ["ML_INFERENCE_URL"] = asked.url
    settings = ClientSettings.from_env(environ)
    table = PgTable(asked.table, asked.id, asked.vector, asked.id_type, asked.operator)
    bounds = Bounds(asked.overlap_min, asked.distance_max)
    with VectorClient.to(settings.url, settings.keys, settings.limits) as client:
        pgvector = PgVectorSide(plain_dsn(asked.dsn), table)
        try:
            if asked.queries:
                texts = _texts(asked.queries)[: asked.n]
                questions = embedded(client, texts, asked.collection)
            else:
                questions = pgvector.sample(asked.n)
            found = compare(
                pgvector, client, questions, Query(k=asked.k, collection=asked.collection), time.monotonic
            )
        finally:
            pgvector.close()
    if asked.json:
        rows = [
            {"query": e.query, "overlap": e.difference and e.difference.overlap,
             "distance_difference": e.difference and e.difference.distance,
             "missing": e.difference.missing if e.difference else [],
             "added": e.difference.added if e.difference else [], "error": e.error}
            for e in found
        ]  # fmt: skip
        print(
            json.dumps({"equal": is_equal(found, bounds), "queries": rows}, ensure_ascii=False, default=str)
        )
    else:
        print("\n".join(lines(found, bounds)))
    return EQUAL if is_equal(found, bounds) else DIFFERENT


def _texts(path: str) -> list[str]:
    return [line.strip() for line in Path(path).read_text("utf-8").splitlines() if line.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vector_client", description=__doc__)
    commands = parser.add_subparsers(required=True)
    parity = commands.add_parser("parity", help="the same queries to your pgvector and to the service")
    parity.add_argument(
        "--dsn",
        required=True,
        help="of the pgvector database, also as SQLAlchemy writes it; SELECT is enough",
    )
    parity.add_argument("--url", default="", help="of the service; else ML_INFERENCE_URL")
    parity.add_argument("--queries", default="", help="file with a query text a line; else rows of the table")
    parity.add_argument("-n", type=int, default=200, help="queries (default 200)")
    parity.add_argument("-k", type=int, default=25, help="results of each (default 25)")
    parity.add_argument("--collection", default=None, help="of the service (default: its default one)")
    parity.add_argument("--table", default=PgTable().table, help="quoted as SQL needs it")
    parity.add_argument("--id", default=PgTable().id)
    parity.add_argument("--vector", default=PgTable().vector)
    parity.add_argument("--id-type", default=PgTable().id_type)
    parity.add_argument("--operator", default=PgTable().operator, choices=["<->", "<=>", "<#>"])
    parity.add_argument("--overlap-min", type=float, default=Bounds().overlap_min)
    parity.add_argument("--distance-max", type=float, default=Bounds().distance_max)
    parity.add_argument("--json", action="store_true", help="for programs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
