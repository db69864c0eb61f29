"""`python -m service`: serve. `models ...`: bring and check model files. `rebuild`, `jobs`, `report`,
`promote`, `rollback`, `abort`, `retire`: change the model of a running service. `evaluate`: how good its
answers are."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import resource
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from index_store.processes import bound_kept_memory
from service.collections import read_collections
from service.errors import BadConfiguration
from service.observing.request_log import configure_logging
from service.ops import calls
from service.server.job_worker import COMMAND, do_jobs
from service.server.server import made_application, serve
from service.server.workers import end_with_parent
from service.settings import Settings

if TYPE_CHECKING:
    from service.http.app import Application
    from service.http.transport.connection_balancer import SharingLoop
    from service.http.transport.protocol import SearchProtocol

log = logging.getLogger(__name__)

EXIT_BAD_START = 2
DEMO = "UHOK_DEMO"
METRICS_DIR = "PROMETHEUS_MULTIPROC_DIR"
_FILES_WANTED = 65_536
_FILES_FEW = 1024
_SOCKET_BACKLOG = 2048
_UMASK = 0o027
"""Let new files be readable by owner and group only; worker processes inherit this."""


def main(argv: Sequence[str]) -> int:
    """Run `models ...`, or serve until a signal; return the exit status."""
    if argv[:1] == ["models"]:
        from service.embedding.catalog import cli  # serving needs nothing of what converts models

        return cli.main(argv[1:], Path(os.environ.get("MODELS_DIR") or ".models"))
    if argv[:1] and argv[0] in calls.COMMANDS:
        return calls.main(argv, os.environ)
    os.environ["HF_HUB_OFFLINE"] = "1"  # read by the libraries of torch models; workers inherit it
    bound_kept_memory(os.environ)
    if argv[:1] == [COMMAND]:
        return _do_jobs()
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    parser.add_argument("--demo", action="store_true", help="fill an empty DATA_DIR with a small catalogue")
    arguments = parser.parse_args(argv)
    if arguments.demo:
        _set_up_demo()
    try:
        settings = Settings.from_environ(os.environ)
        catalogue = read_collections(settings)
        _require_writable(settings.data_dir)
        listener = _listen(settings)
    except BadConfiguration as exc:
        for mistake in exc.mistakes:
            sys.stderr.write(f"error: {mistake}\n")
        return EXIT_BAD_START
    configure_logging(settings.log_level)
    _tell_access(settings)
    _raise_file_limit()
    with _shared_by(settings.workers):
        is_served = serve(settings, catalogue, listener, "service.__main__", is_demo=arguments.demo)
    return 0 if is_served else EXIT_BAD_START


def _set_up_demo() -> None:
    """Several workers and the process of the jobs get no arguments: they read the environment."""
    os.environ[DEMO] = "1"
    if not os.environ.get("COLLECTIONS_FILE"):
        os.environ["COLLECTIONS_FILE"] = str(Path(__file__).parent / "demo" / "collections.toml")


def _do_jobs() -> int:
    """What a worker starts; its environment is the worker's."""
    os.environ.pop(METRICS_DIR, None)  # this is no worker: what is counted here is nobody's
    settings = Settings.from_environ(os.environ)
    configure_logging(settings.log_level)
    do_jobs(settings)
    return 0


def _tell_access(settings: Settings) -> None:
    """Log which routes are open to whom; a warning where a key is missing."""
    level = logging.INFO if settings.write_api_key and settings.admin_api_key else logging.WARNING
    at = f"{settings.host}:{settings.port}"
    log.log(level, "access", extra={"address": at, **settings.access()})


def create_app() -> Application:
    """Built once in each of several workers, from the environment that the parent has checked."""
    bound_kept_memory(os.environ)
    settings = Settings.from_environ(os.environ)
    configure_logging(settings.log_level)
    end_with_parent(settings.drain_s)
    metrics_dir = Path(os.environ[METRICS_DIR])
    catalogue = read_collections(settings)
    return made_application(settings, catalogue, metrics_dir=metrics_dir, is_demo=DEMO in os.environ)


def create_loop() -> SharingLoop:
    """The event loop of each of several workers."""
    from service.http.transport.connection_balancer import ConnectionShare, SharingLoop

    return SharingLoop(ConnectionShare(Path(os.environ[METRICS_DIR]) / "connections"))


def create_sole_loop() -> SharingLoop:
    """The event loop of an only worker."""
    from service.http.transport.connection_balancer import ConnectionShare, SharingLoop

    return SharingLoop(ConnectionShare(None))


def create_protocol(**given: Any) -> SearchProtocol:
    """Return the protocol of one connection. Imported late, so that models begin to open first."""
    from service.http.transport.protocol import SearchProtocol

    return SearchProtocol(**given)


@contextlib.contextmanager
def _shared_by(workers: int) -> Iterator[None]:
    """Name the folder in which workers sum their metrics; prometheus_client reads it on its first import."""
    if workers == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="uhok-metrics-") as metrics_dir:
        os.environ[METRICS_DIR] = metrics_dir
        yield


def _listen(settings: Settings) -> socket.socket:
    """Bind the port before anything is loaded: one in use is told at once. Workers share the socket."""
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
        if exc.errno in (errno.ENOSPC, errno.EDQUOT) and directory.is_dir():
            return  # searches need no room; writes are refused until there is some
        raise BadConfiguration([f"DATA_DIR {directory} can't be written: {exc.strerror}"]) from exc


def _raise_file_limit() -> None:
    """Each store holds some files open and so does each connection; many systems start a process with 1024,
    for reasons that do not hold here (select)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, _FILES_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < _FILES_FEW:
        log.warning("file_limit_low", extra={"files": wanted, "hint": "ulimit -n 65536 before the start"})


if __name__ == "__main__":
    if sys.argv[1:2] != ["models"]:  # model files are no secret, and others may serve them
        os.umask(os.umask(_UMASK) | _UMASK)
    sys.exit(main(sys.argv[1:]))
