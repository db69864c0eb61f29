"""Calls the vector service, and moves a backend over to it and back. README.md has the way in.

A name is loaded when it is asked for: the blocking client does not load aiohttp, and a driver or an observer
only where its extra is installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vector_client.async_client import AsyncVectorClient
    from vector_client.errors import SettingsWrong, VectorClientError
    from vector_client.http import VectorClient
    from vector_client.join.drivers import (
        Table,
        by_aiomysql,
        by_asyncmy,
        by_asyncpg,
        by_psycopg,
        by_pymysql,
        by_sqlalchemy,
        by_sqlalchemy_now,
    )
    from vector_client.join.pages import Joined, full_page, full_page_now, joined, joined_now
    from vector_client.recommend.drivers import asyncpg_rows, psycopg_rows, sqlalchemy_rows
    from vector_client.recommend.pgvector import PgTable
    from vector_client.recommend.port import VectorSearcherPort
    from vector_client.retries import Limits
    from vector_client.telemetry.opentelemetry import OpenTelemetryObserver as OpenTelemetryObserver
    from vector_client.telemetry.prometheus import PrometheusObserver as PrometheusObserver
    from vector_client.types import Found, Hit, Id, Item, Keys, Query
    from vector_client.wiring import Backend, Recommenders

HOMES = {
    "AsyncVectorClient": "async_client",
    "Backend": "wiring",
    "Found": "types",
    "Hit": "types",
    "Id": "types",
    "Item": "types",
    "Joined": "join.pages",
    "Keys": "types",
    "Limits": "retries",
    "OpenTelemetryObserver": "telemetry.opentelemetry",
    "PgTable": "recommend.pgvector",
    "PrometheusObserver": "telemetry.prometheus",
    "Query": "types",
    "Recommenders": "wiring",
    "SettingsWrong": "errors",
    "Table": "join.drivers",
    "VectorClient": "http",
    "VectorClientError": "errors",
    "VectorSearcherPort": "recommend.port",
    "asyncpg_rows": "recommend.drivers",
    "by_aiomysql": "join.drivers",
    "by_asyncmy": "join.drivers",
    "by_asyncpg": "join.drivers",
    "by_psycopg": "join.drivers",
    "by_pymysql": "join.drivers",
    "by_sqlalchemy": "join.drivers",
    "by_sqlalchemy_now": "join.drivers",
    "full_page": "join.pages",
    "full_page_now": "join.pages",
    "joined": "join.pages",
    "joined_now": "join.pages",
    "psycopg_rows": "recommend.drivers",
    "sqlalchemy_rows": "recommend.drivers",
}

EXTRAS = {"OpenTelemetryObserver": "opentelemetry", "PrometheusObserver": "prometheus"}
"""Names that need an extra. They are not in __all__: `import *` works without extras."""

__all__ = [
    "AsyncVectorClient",
    "Backend",
    "Found",
    "Hit",
    "Id",
    "Item",
    "Joined",
    "Keys",
    "Limits",
    "PgTable",
    "Query",
    "Recommenders",
    "SettingsWrong",
    "Table",
    "VectorClient",
    "VectorClientError",
    "VectorSearcherPort",
    "asyncpg_rows",
    "by_aiomysql",
    "by_asyncmy",
    "by_asyncpg",
    "by_psycopg",
    "by_pymysql",
    "by_sqlalchemy",
    "by_sqlalchemy_now",
    "full_page",
    "full_page_now",
    "joined",
    "joined_now",
    "psycopg_rows",
    "sqlalchemy_rows",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'vector_client' has no attribute {name!r}")
    try:
        return getattr(import_module(f"vector_client.{HOMES[name]}"), name)
    except ModuleNotFoundError as exc:
        if name not in EXTRAS:
            raise
        raise ImportError(f"{name} needs: pip install 'uhok-vector-client[{EXTRAS[name]}]'") from exc


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
