"""Serves in this process, or in several that share a port, with a process for maintenance.

What answers takes half a second to import and is imported late: by who serves, once the models are being
opened. A parent of several workers never needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from index_store.errors import IndexStoreError
from service.collections import NO_MODEL, Catalogue
from service.demo.greeting import greeting
from service.embedding.catalog.preload import EarlyModels
from service.engine.storage import index_storage, maintenance_command
from service.errors import ServiceError
from service.server.job_worker import job_command, low_priority
from service.server.maintenance_process import Maintainer
from service.server.ready_notice import Announcer
from service.server.workers import Workers
from service.settings import Settings
from service.wiring_catalogue import serving_catalogue

if TYPE_CHECKING:
    from service.app.ingest import Ingester
    from service.http.app import Application

_DEMO_UNFINISHED = "demo.unfinished"
_DEMO_KEPT = "demo.pictures-kept"
"""In DATA_DIR while the demo is being loaded; loading it again changes nothing that is there."""
_SWITCH_S = 0.0005
"""How long a thread computes in Python, opening a snapshot for instance, while a search waits for the
interpreter's lock; by default ten times that (docs/decisions/0089)."""
_WORKER_SILENT_S_MAX = 60
"""A worker that decodes a large upsert on a busy machine is slow, not dead."""


def serve(
    settings: Settings, catalogue: Catalogue, listener: socket.socket, program: str, *, is_demo: bool
) -> bool:
    """Serve until a signal; return whether it ever did. program: the module with `create_app`, `create_loop`,
    `create_sole_loop` and `create_protocol`, of which each of several workers is made."""
    if not is_demo:
        return _serve(settings, catalogue, listener, program)
    try:
        fills = _begin_demo(settings)
    except IndexStoreError as exc:
        sys.stderr.write(f"error: the demo can't be loaded: {exc}\nwhat helps: {exc.hint}\n")
        return False
    if fills and settings.workers > 1:
        try:
            asyncio.run(_load_demo(settings))
        except ServiceError:
            return False
    port = listener.getsockname()[1]
    announcer = Announcer(settings.host, port, greeting(port), _say)
    announcer.start()
    try:
        return _serve(settings, catalogue, listener, program, fills=fills, is_demo=True)
    finally:
        announcer.close()


def made_application(
    settings: Settings,
    catalogue: Catalogue,
    *,
    metrics_dir: Path | None = None,
    before: Callable[[Ingester, Catalogue], Awaitable[object]] | None = None,
    is_demo: bool = False,
) -> Application:
    """Return the application, with its models already being opened.

    The garbage collector is off until they are open: a start makes no garbage. is_demo: serve the demo's
    pictures too.
    """
    gc.disable()
    sys.setswitchinterval(_SWITCH_S)
    models = EarlyModels(settings.models_dir, threads=settings.model_threads, runtime=settings.model_runtime)
    served = serving_catalogue(settings, index_storage(settings), catalogue).catalogue.collections
    models.begin_loading((c.modality, c.model, c.dim) for c in served if c.model != NO_MODEL)
    from service.wiring import build
    from service.wiring_rebuild import JobPlace

    picture = None
    if is_demo:
        from service.demo.catalogue import DemoPictures

        picture = DemoPictures().jpeg
    service = build(
        settings,
        metrics_dir,
        before_serving=before,
        models=models,
        demo_picture=picture,
        place=JobPlace(job_command(settings)),
    )
    return service.application


def _serve(
    settings: Settings,
    catalogue: Catalogue,
    listener: socket.socket,
    program: str,
    *,
    fills: bool = False,
    is_demo: bool = False,
) -> bool:
    """fills: one process puts the demo into the index first, with the models that then serve."""
    is_alone = settings.workers == 1
    before = partial(_fill, settings.data_dir) if fills else None
    alone = partial(made_application, settings, catalogue, before=before, is_demo=is_demo)
    config = uvicorn.Config(
        alone if is_alone else f"{program}:create_app",
        factory=True,
        workers=settings.workers,
        loop=f"{program}:create_sole_loop" if is_alone else f"{program}:create_loop",
        http=f"{program}:create_protocol",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.drain_s,
        timeout_worker_healthcheck=_WORKER_SILENT_S_MAX,
    )
    with _maintained(settings):
        if not is_alone:
            Workers(config, listener).run()
            return True
        server = uvicorn.Server(config)
        # uvicorn drains and then raises the signal again; a stop that was asked for is no failure.
        signal.signal(signal.SIGTERM, lambda *_: None)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
        return server.started


@contextlib.contextmanager
def _maintained(settings: Settings) -> Iterator[None]:
    """Segments are sealed and merged in a process of their own, never in one that answers."""
    command = maintenance_command(settings, os.getpid())
    if not command:
        yield
        return
    maintainer = Maintainer(low_priority(command), settings.data_dir)
    maintainer.start()
    try:
        yield
    finally:
        maintainer.close()


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


async def _load_demo(settings: Settings) -> None:
    from service.wiring import build

    service = build(settings)
    async with service.lifecycle.opened():
        await service.lifecycle.wait()
        await _fill(settings.data_dir, service.ingester, service.catalogue)


def _begin_demo(settings: Settings) -> bool:
    """Return whether something is to be written first: the demo into an empty storage, or to finish what
    was interrupted; or, once, the pictures that a release of before did not keep. Raises StoreUnavailable."""
    mark = settings.data_dir / _DEMO_UNFINISHED
    if index_storage(settings).is_empty():
        mark.touch()
    return mark.exists() or not (settings.data_dir / _DEMO_KEPT).exists()


async def _fill(data_dir: Path, ingester: Ingester, catalogue: Catalogue) -> None:
    from service.demo.loading import keep_pictures, load_demo

    unfinished = data_dir / _DEMO_UNFINISHED
    try:
        if not unfinished.exists():
            await keep_pictures(ingester, catalogue)
        else:
            await load_demo(ingester, catalogue)
            unfinished.unlink()
        (data_dir / _DEMO_KEPT).touch()
    except (ServiceError, IndexStoreError) as exc:
        sys.stderr.write(f"error: the demo could not be loaded: {exc}\n")
        if unfinished.exists():
            raise
