"""`python -m service`: serve. `python -m service models ...`: bring and check model files."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import uvicorn
from uvicorn.supervisors import Multiprocess

from service.announcing import Announcer
from service.collections import Catalogue, read_collections
from service.demo.greeting import greeting
from service.demo.loading import load_demo
from service.embedding import models_cli
from service.errors import BadConfiguration, ServiceError
from service.http.app import Application
from service.http.protocol import SearchProtocol
from service.ingesting import Ingester
from service.maintaining import Maintainer
from service.observing import configure_logging
from service.settings import Settings
from service.wiring import build

EXIT_BAD_START = 2
METRICS_DIR = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client reads it when it is first imported, so it is set before workers are started."""
_DEMO_UNFINISHED = "demo.unfinished"
"""In DATA_DIR while the demo is being loaded; loading it again changes nothing that is there."""
_SOCKET_BACKLOG = 2048
_WORKER_SILENT_S_MAX = 60
"""A worker that decodes a large upsert on a busy machine is slow, not dead."""


def main(argv: Sequence[str]) -> int:
    if argv[:1] == ["models"]:
        return models_cli.main(argv[1:], Path(os.environ.get("MODELS_DIR") or ".models"))
    os.environ["HF_HUB_OFFLINE"] = "1"  # read by the libraries of torch models; workers inherit it
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    parser.add_argument("--demo", action="store_true", help="fill an empty DATA_DIR with a small catalogue")
    arguments = parser.parse_args(argv)
    try:
        settings = Settings.from_environ(os.environ)
        read_collections(settings)
        _require_writable(settings.data_dir)
        listener = _listen(settings)
    except BadConfiguration as exc:
        for mistake in exc.mistakes:
            sys.stderr.write(f"error: {mistake}\n")
        return EXIT_BAD_START
    configure_logging(settings.log_level)
    if not arguments.demo:
        return _serve(settings, listener)
    fills = _begin_demo(settings.data_dir)
    if fills and settings.workers > 1:
        try:
            asyncio.run(_load_demo(settings))
        except ServiceError:
            return EXIT_BAD_START
    port = listener.getsockname()[1]
    announcer = Announcer(settings.host, port, greeting(port), _say)
    announcer.start()
    try:
        return _serve(settings, listener, fills=fills and settings.workers == 1)
    finally:
        announcer.close()


def create_app() -> Application:
    """Built once in each worker, from the environment that the parent has checked."""
    settings = Settings.from_environ(os.environ)
    configure_logging(settings.log_level)
    metrics_dir = os.environ.get(METRICS_DIR)
    return build(settings, Path(metrics_dir) if metrics_dir else None).application


def _serve(settings: Settings, listener: socket.socket, *, fills: bool = False) -> int:
    """fills: put the demo into the index first, with the models that then serve."""
    config = uvicorn.Config(
        partial(_create_filling_app, settings) if fills else "service.__main__:create_app",
        factory=True,
        workers=settings.workers,
        loop="uvloop",
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
    if settings.workers == 1:
        server = uvicorn.Server(config)
        # uvicorn drains and then raises the signal again; a stop that was asked for is no failure.
        signal.signal(signal.SIGTERM, lambda *_: None)
        with contextlib.suppress(KeyboardInterrupt), _maintained(settings):
            server.run(sockets=[listener])
        return 0 if server.started else EXIT_BAD_START
    with tempfile.TemporaryDirectory(prefix="uhok-metrics-") as metrics_dir:
        os.environ[METRICS_DIR] = metrics_dir
        with _maintained(settings):
            Multiprocess(config, sockets=[listener]).run()
    return 0


@contextlib.contextmanager
def _maintained(settings: Settings) -> Iterator[None]:
    """Segments are sealed and merged in a process of their own, never in one that answers."""
    if settings.maintenance == "off":
        yield
        return
    command = [sys.executable, "-m", "index_store", "maintain", str(settings.data_dir)]
    maintainer = Maintainer([*command, "--parent", str(os.getpid())], settings.data_dir)
    maintainer.start()
    try:
        yield
    finally:
        maintainer.close()


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _create_filling_app(settings: Settings) -> Application:
    return build(settings, before_serving=partial(_fill, settings.data_dir)).application


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


def _listen(settings: Settings) -> socket.socket:
    """Taken before anything is loaded: a port in use is known at once, and workers share this socket."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(_SOCKET_BACKLOG)
    except OSError as exc:
        listener.close()
        where = f"{settings.host}:{settings.port}"
        raise BadConfiguration([f"HOST, PORT: {where} can't be listened on: {exc.strerror}"]) from exc
    listener.set_inheritable(True)
    return listener


def _require_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as exc:
        raise BadConfiguration([f"DATA_DIR {directory} can't be written: {exc.strerror}"]) from exc


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
