"""Serves: in this process or in several that share a port, with maintenance beside them.

`service.__main__` imports this when models are being opened already.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import uvicorn
from uvicorn.supervisors import Multiprocess

from service.announcing import Announcer
from service.collections import Catalogue
from service.demo.greeting import greeting
from service.demo.loading import load_demo
from service.embedding.early import EarlyModels
from service.errors import ServiceError
from service.http.protocol import SearchProtocol
from service.ingesting import Ingester
from service.maintaining import Maintainer
from service.settings import Settings
from service.wiring import build

_DEMO_UNFINISHED = "demo.unfinished"
"""In DATA_DIR while the demo is being loaded; loading it again changes nothing that is there."""
_MAINTENANCE_NICE = "10"
_WORKER_SILENT_S_MAX = 60
"""A worker that decodes a large upsert on a busy machine is slow, not dead."""


def serve(
    settings: Settings, listener: socket.socket, models: EarlyModels | None, program: str, *, is_demo: bool
) -> bool:
    """Serve until a signal; return whether it ever did. models: of this process, if it is to serve itself.
    program: the module whose `create_app` and `create_loop` make a worker, where there are several."""
    if not is_demo:
        return _serve(settings, listener, models, program)
    fills = _begin_demo(settings.data_dir)
    if fills and settings.workers > 1:
        try:
            asyncio.run(_load_demo(settings))
        except ServiceError:
            return False
    port = listener.getsockname()[1]
    announcer = Announcer(settings.host, port, greeting(port), _say)
    announcer.start()
    try:
        return _serve(settings, listener, models, program, fills=fills)
    finally:
        announcer.close()


def _serve(
    settings: Settings,
    listener: socket.socket,
    models: EarlyModels | None,
    program: str,
    *,
    fills: bool = False,
) -> bool:
    """fills: one process puts the demo into the index first, with the models that then serve."""
    is_alone = settings.workers == 1
    before = partial(_fill, settings.data_dir) if fills else None
    config = uvicorn.Config(
        (lambda: build(settings, before_serving=before, models=models).application)
        if is_alone
        else f"{program}:create_app",
        factory=True,
        workers=settings.workers,
        loop="uvloop" if is_alone else f"{program}:create_loop",
        http=SearchProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.drain_s,
        timeout_worker_healthcheck=_WORKER_SILENT_S_MAX,
    )
    if not is_alone:
        with _maintained(settings):
            Multiprocess(config, sockets=[listener]).run()
        return True
    server = uvicorn.Server(config)
    # uvicorn drains and then raises the signal again; a stop that was asked for is no failure.
    signal.signal(signal.SIGTERM, lambda *_: None)
    with contextlib.suppress(KeyboardInterrupt), _maintained(settings):
        server.run(sockets=[listener])
    return server.started


@contextlib.contextmanager
def _maintained(settings: Settings) -> Iterator[None]:
    """Segments are sealed and merged in a process of their own, never in one that answers."""
    if settings.maintenance == "off":
        yield
        return
    # Modest from its first import on: that is half a second of a core, while this process wants to be ready.
    modest = ["nice", "-n", _MAINTENANCE_NICE] if shutil.which("nice") else []
    command = [*modest, sys.executable, "-m", "index_store", "maintain", str(settings.data_dir)]
    maintainer = Maintainer([*command, "--parent", str(os.getpid())], settings.data_dir)
    maintainer.start()
    try:
        yield
    finally:
        maintainer.close()


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


async def _load_demo(settings: Settings) -> None:
    service = build(settings)
    async with service.lifecycle.opened():
        await service.lifecycle.wait()
        await _fill(settings.data_dir, service.ingester, service.catalogue)


def _begin_demo(data_dir: Path) -> bool:
    """Return whether the demo is to be loaded: into an empty directory, or to finish what was interrupted."""
    mark = data_dir / _DEMO_UNFINISHED
    if not mark.exists() and any((data_dir / "collections").glob("*")):
        return False
    mark.touch()
    return True


async def _fill(data_dir: Path, ingester: Ingester, catalogue: Catalogue) -> None:
    try:
        await load_demo(ingester, catalogue)
        (data_dir / _DEMO_UNFINISHED).unlink(missing_ok=True)
    except ServiceError as exc:
        sys.stderr.write(f"error: the demo could not be loaded: {exc}\n")
        raise
