"""A small backend: recipes by text. ML_MODE and its companions say which path answers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from fastapi import FastAPI, Header, HTTPException, Request
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from vector_client import Backend, Recommenders, Table, VectorClientError, by_sqlalchemy, full_page
from vector_client.errors import BadRequest

RECIPES = Table("FCT_RECIPE", "RECIPE_ID", "RECIPE_ID, COOKING_NAME")
USER: ContextVar[str] = ContextVar("USER", default="")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open what the process keeps: two engines, one client."""
    shop = create_async_engine(os.environ.get("SHOP_URL", "sqlite+aiosqlite:///:memory:"))
    vectors = create_async_engine(os.environ["PG_URL"]) if "PG_URL" in os.environ else None
    app.state.shop = async_sessionmaker(shop)
    app.state.vectors = async_sessionmaker(vectors) if vectors else None
    # The same user is always on the same side; without one the query decides.
    backend = Backend(key_of=lambda query: USER.get() or query, sessions=app.state.vectors)
    async with Recommenders.from_env(backend) as recommenders:
        app.state.recommenders = recommenders
        if "SHOP_URL" not in os.environ:
            await fill(shop)
        yield
    for engine in (shop, vectors):
        if engine is not None:
            await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.get("/recipes")
async def get_recipes(
    request: Request, query: str, size: int = 10, x_user: str = Header("")
) -> dict[str, Any]:
    """Return one full page: ids that the shop no longer has are made up for."""
    USER.set(x_user)
    state = request.app.state
    searcher = state.recommenders.searcher
    async with session_of(state.vectors) as pg_db, state.shop() as shop:

        async def ask(k: int, left_out: Any) -> Any:
            return await searcher.find_similar_ids(pg_db, query, k, left_out)

        try:
            page = await full_page(ask, by_sqlalchemy(shop, RECIPES), size)
        except BadRequest as exc:  # an empty query, or a longer one than the service takes
            raise HTTPException(422, exc.detail) from exc
        except VectorClientError as exc:
            raise HTTPException(503, str(exc)) from exc
    distances = dict(page.neighbours)
    return {
        "recipes": [{**row, "distance": distances[row["RECIPE_ID"]]} for row in page.rows],
        "missing": page.missing,
    }


def session_of(sessions: async_sessionmaker[AsyncSession] | None) -> Any:
    return sessions() if sessions else nullcontext()


async def fill(engine: AsyncEngine) -> None:
    """Give the demo a shop: its recipes, without every tenth."""
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE FCT_RECIPE (RECIPE_ID BIGINT, COOKING_NAME TEXT)"))
        rows = [{"id": n, "name": f"recipe {n}"} for n in range(1, 1000) if n % 10]
        await connection.execute(text("INSERT INTO FCT_RECIPE VALUES (:id, :name)"), rows)
