"""Makes each call that changes files kill its process, or fail, in turn: `failing_calls.c` under a process.

A run forks a child for each call, so that what is imported is imported once. The parent must hold no threads
and no connections then.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from index_store.catalog.quarantine import RETIRED_MARK
from index_store.storage.commit_marks import ACKED_FILE
from index_store.storage.schema import LOCK_FILE

LIBRARY_FILE = "failing_calls.so"


def build_library(into: Path) -> Path:
    """Compile the interposer. Raises CalledProcessError, FileNotFoundError (no compiler)."""
    library = into / LIBRARY_FILE
    source = Path(__file__).with_suffix(".c")
    flags = ["-O1", "-Wall", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, "-o", str(library), str(source), "-ldl"], check=True, timeout=120)
    return library


def run_under(library: Path, module: str, *arguments: str) -> str:
    """Run a module with the interposer below it; return what it printed. Raises AssertionError."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # threads do not survive a fork
    done = subprocess.run(
        [sys.executable, "-m", module, str(library), *arguments],
        env={**os.environ, **single, "LD_PRELOAD": str(library)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


class Calls:
    """The interposer of this process."""

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)

    def arm(self, root: Path, at: int, error: int = 0, log: Path | None = None) -> None:
        """Count calls under `root`; at number `at` (-1: none) end the process, or fail with this errno."""
        name = None if log is None else os.fsencode(log)
        self._library.failing_calls_arm(os.fsencode(root), ctypes.c_long(at), error, name)

    def disarm(self) -> int:
        """Return how many calls there were."""
        return int(self._library.failing_calls_disarm())


def forked(work: Callable[[], None]) -> int:
    """Do the work in a child; return 0, 1 when it raised (printed), or minus the signal that ended it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(60)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def unsynced_renames(calls: Sequence[str]) -> list[str]:
    """What a log of calls gave its name before its bytes were durable, or did not make the name durable.

    Only names that are to stay count: what happens inside a directory that is not published yet is its own.
    A generation that is set aside holds a store in use: what was acknowledged is synced, the two marks of its
    commits never are, and its log may be there and empty.
    """
    empty: set[str] = set()
    unwritten: set[str] = set()
    unnamed: set[str] = set()
    wrong: list[str] = []
    old = ""
    for line in calls:
        kind, path = line.split(" ", 1)
        if kind == "from":
            old = path
        elif kind == "sync":
            unwritten.discard(path)
            unnamed = {name for name in unnamed if str(Path(name).parent) != path}
        elif kind == "rename":
            moved = {name for name in unwritten if name == old or name.startswith(old + "/")}
            unwritten -= moved
            if RETIRED_MARK in path:
                moved = {name for name in moved - empty if Path(name).name not in (ACKED_FILE, LOCK_FILE)}
            if ".tmp-" in path:
                unwritten |= {path + name.removeprefix(old) for name in moved}
            else:
                wrong += sorted(moved)
                unnamed.add(path)
        elif kind != "remove":
            unwritten.add(path)
            (empty.add if kind == "create" else empty.discard)(path)
    return wrong + sorted(unnamed)
