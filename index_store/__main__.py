"""`python -m index_store COMMAND ...`: look after a data directory.

check DIR            read everything, or a whole backup, and say what is wrong; changes nothing
stats DIR            what it holds, in numbers
maintain DIR         seal, merge and scrub while workers serve, until stopped
maintain             look after the tables in the database of INDEX_URL in the same way
rebuild DIR          make all segments again out of the stores; beside a running service it does the work
backup DIR TARGET    a hot copy of all stores
restore TARGET DIR   put a backup into an empty data directory
move --from A --to B copy an index whole into PostgreSQL or back, while nobody writes to it. A, B: a data
                     directory, or postgresql://..., or INDEX_URL: the address in that variable, which other
                     users of the machine do not see. Run again it goes on where it was.
repoint DIR NAME     make the lost pointer of a collection again from the newest sound store
compile              make the inner loops of search for this processor, which the first start does otherwise
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from index_store.ann.compiled.all_kernels import warm_kernels
from index_store.catalog.data_directory import collection_directories
from index_store.errors import IndexStoreError, StoreUnavailable
from index_store.hints import DATABASE_ADDRESS, is_database_address
from index_store.maintenance.backup import backup_data, check_backup, is_backup, restore_data
from index_store.maintenance.check import check, notes
from index_store.maintenance.policy import MaintenanceLimits
from index_store.maintenance.rebuild_request import request_rebuild, status_of, withdraw_request
from index_store.maintenance.repoint import describe_pointer, repoint
from index_store.maintenance.stats import stats
from index_store.maintenance.worker import Maintenance, lower_priority
from index_store.moving.data_directory import DirectoryStorage
from index_store.moving.move import move
from index_store.processes import is_running
from log_lines.json_lines import JsonLines

if TYPE_CHECKING:
    from index_store.moving.database import DatabaseStorage

log = logging.getLogger(__name__)

_DATABASE = "INDEX_URL"
_PASSIVE = "OMP_WAIT_POLICY"
_WATCH_S = 0.5
_GRACE_S = 1.0
_UMASK = 0o027
"""What is written here is for its owner and group."""


def main(arguments: Sequence[str]) -> int:
    """0 when all is well, 1 when something is wrong, 2 when there is nothing to look at."""
    parser = argparse.ArgumentParser(
        prog="python -m index_store",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("check", "stats", "rebuild"):
        command = commands.add_parser(name)
        command.add_argument("data_dir", type=_directory)
    command = commands.add_parser("maintain")
    command.add_argument("data_dir", type=_directory, nargs="?")
    command.add_argument("--parent", type=int, default=0, help="end when this parent process ends")
    command.add_argument("--keep-days", type=float, default=7.0, help="how long retired generations are kept")
    command = commands.add_parser("backup")
    command.add_argument("data_dir", type=_directory)
    command.add_argument("target", type=_directory)
    command = commands.add_parser("restore")
    command.add_argument("target", type=_directory)
    command.add_argument("data_dir", type=_directory)
    command = commands.add_parser("repoint")
    command.add_argument("data_dir", type=_directory)
    command.add_argument("collection")
    command.add_argument("--generation", help="serve this one; without it the newest, if that is sound")
    command = commands.add_parser("move")
    command.add_argument("--from", dest="source", required=True, metavar="A")
    command.add_argument("--to", dest="target", required=True, metavar="B")
    commands.add_parser("compile")
    asked = parser.parse_args(arguments)
    try:
        return _run(asked)
    except IndexStoreError as exc:
        print(f"{exc}\nwhat helps: {exc.hint}" if exc.hint else exc, file=sys.stderr)
        return 1
    except OSError as exc:
        print(exc, file=sys.stderr)
        return 1


def _directory(given: str) -> Path:
    """Refuse the address of a database without repeating it: it may hold a password."""
    if "://" in given:
        raise argparse.ArgumentTypeError(
            "is an address, and this command looks after a data directory; a database is copied and checked "
            "by its own programs (pg_dump, pg_amcheck)"
        )
    return Path(given)


def _run(asked: argparse.Namespace) -> int:
    if asked.command == "compile":
        warm_kernels()
        return 0
    if asked.command == "move":
        for line in _move(asked.source, asked.target):
            print(line)
        return 0
    if asked.command == "maintain" and asked.data_dir is None:
        return _maintain_database(os.environ.get(_DATABASE, ""), asked.parent)
    if asked.command == "maintain":
        return _maintain(asked.data_dir, asked.parent, asked.keep_days)
    if asked.command == "restore":
        print("restored " + ", ".join(restore_data(asked.target, asked.data_dir)))
        return 0
    if asked.command == "repoint":
        print(describe_pointer(repoint(asked.data_dir, asked.collection, asked.generation)))
        return 0
    if asked.command == "check" and is_backup(asked.data_dir):
        return _print_problems(check_backup(asked.data_dir))
    if not collection_directories(asked.data_dir):
        print(f"{asked.data_dir} holds no collections", file=sys.stderr)
        return 2
    if asked.command == "stats":
        print(json.dumps(stats(asked.data_dir), indent=1, ensure_ascii=False))
    elif asked.command == "backup":
        print(json.dumps(dict(backup_data(asked.data_dir, asked.target).facts["seqs"]), indent=1))
    elif asked.command == "rebuild":
        return _rebuild(asked.data_dir)
    else:
        return _print_problems(check(asked.data_dir), notes(asked.data_dir))
    return 0


def _move(source: str, target: str) -> list[str]:
    with ExitStack() as opened:
        first, second = (_storage_of(address, opened) for address in (source, target))
        return move(first, second, lambda told: print(told, file=sys.stderr))


def _storage_of(given: str, opened: ExitStack) -> DirectoryStorage | DatabaseStorage:
    """Raises StoreUnavailable for an address of another form, without repeating it: it may hold a
    password."""
    address = os.environ.get(_DATABASE, "") if given == _DATABASE else given
    if "://" not in address and given != _DATABASE:
        return DirectoryStorage(Path(given))
    if not is_database_address(address):
        raise StoreUnavailable("what was given is no address of a database", f"it must be {DATABASE_ADDRESS}")
    from index_store.moving.database import DatabaseStorage  # psycopg takes .1 s, other commands need none

    return opened.enter_context(closing(DatabaseStorage(address)))


def _print_problems(problems: Sequence[str], told: Sequence[str] = ()) -> int:
    for problem in problems:
        print(problem)
    for note in told:
        print(f"note: {note}")
    print("sound" if not problems else f"{len(problems)} problems")
    return 1 if problems else 0


def _rebuild(data_dir: Path) -> int:
    """Here, when no other process maintains the directory; else ask that one, and wait for what it says."""
    request = ""
    never = threading.Event()
    while (problems := Maintenance(data_dir, progress=_show).rebuild()) is None:
        if not request:
            request = request_rebuild(data_dir)
            print("asked the process that maintains this directory; waiting for it", file=sys.stderr)
        answer = status_of(data_dir, request)
        if answer is not None and answer.is_done:
            problems = list(answer.problems)
            break
        if answer is not None and not is_running(answer.process_id):
            problems = [
                "the process that was rebuilding has ended; what it had not published stays as it was"
            ]
            break
        never.wait(_WATCH_S)  # the other process answers by a file
    else:
        if request:
            withdraw_request(data_dir)
    for problem in problems:
        print(problem, file=sys.stderr)
    print("rebuilt" if not problems else f"{len(problems)} problems")
    return 1 if problems else 0


def _show(step: str, share: float) -> None:
    if step != "rows":
        print(f"{step} {share:.0%}", file=sys.stderr)


def _maintain(data_dir: Path, parent: int, keep_days: float) -> int:
    if os.environ.get(_PASSIVE) != "passive":
        # OpenMP reads it when it is loaded: waiting threads must not spin while workers serve.
        os.environ[_PASSIVE] = "passive"
        again = ["-m", "index_store", "maintain", str(data_dir), "--parent", str(parent)]
        os.execv(sys.executable, [sys.executable, *again, "--keep-days", str(keep_days)])
    limits = MaintenanceLimits(quarantine_keep_s=keep_days * 86_400)
    Maintenance(data_dir, limits=limits).run_forever(_begin_to_maintain(parent))
    return 0


def _maintain_database(address: str, parent: int) -> int:
    """address: of INDEX_URL; in the environment, for a command's arguments can be read by everyone."""
    if not address:
        print(f"name a data directory, or a database in {_DATABASE}", file=sys.stderr)
        return 2
    from index_store.postgres.maintenance.worker import (
        DatabaseMaintenance,  # .6 s, and nobody else needs the driver
    )

    DatabaseMaintenance(address).maintain_forever(_begin_to_maintain(parent))
    return 0


def _begin_to_maintain(parent: int) -> threading.Event:
    """Make this process one that works beside others, and return what tells it to stop."""
    lower_priority()
    lines = logging.StreamHandler()
    lines.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[lines])
    stop = threading.Event()
    told, teller = os.pipe()
    os.set_blocking(teller, False)
    signal.set_wakeup_fd(teller)  # written at once; a handler in Python waits until a call of FAISS returns
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    threading.Thread(target=_exit_in_time, args=(stop, told, parent), name="leave", daemon=True).start()
    return stop


def _exit_in_time(stop: threading.Event, told: int, parent: int) -> None:
    """End this process soon after a signal, or after its parent, whatever it is doing: minutes may pass
    between two looks of a build at `stop`, and who may be killed at any moment need not wait for them."""
    while not parent or os.getppid() == parent:
        if select.select([told], (), (), _WATCH_S)[0]:
            break
    stop.set()
    threading.Event().wait(_GRACE_S)
    log.info("maintenance_left")
    os._exit(0)


if __name__ == "__main__":
    os.umask(os.umask(_UMASK) | _UMASK)
    sys.exit(main(sys.argv[1:]))
