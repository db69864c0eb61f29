"""What an operator can do about an error: commands whole enough to be pasted, with the paths they need.

Every hint stands here, so that a command is changed in one place. Pure: nothing is looked up on the disk.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

_PROGRAM = ("python", "-m", "index_store")
_COLLECTIONS = "collections"

TRY_AGAIN = "nothing to repair: repeat the call, the service is starting, stopping or moving a generation"
IMPORT_AGAIN = "python -m feeder import"
OTHER_RELEASE = "start the release that wrote it, or restore a backup made before that one (docs/UPGRADES.md)"
OLDER_BACKUP = "use an older backup: `python -m index_store check BACKUP` says which one is sound"


def data_directory(path: Path) -> Path:
    """The data directory that `path` lies in: what holds `collections`; the path itself outside of one."""
    for parent in (path, *path.parents):
        if parent.name == _COLLECTIONS:
            return parent.parent
    return path


def command(name: str, *arguments: Path | str) -> str:
    """`python -m index_store NAME ARGUMENTS`, quoted for a shell."""
    return shlex.join([*_PROGRAM, name, *map(str, arguments)])


def check(path: Path) -> str:
    """What says which files of the data directory around `path` are damaged. A damaged
    store of record can only be restored from a backup, or filled again by an import."""
    return command("check", data_directory(path))


def rebuild(path: Path) -> str:
    """What makes damaged segments and snapshots again out of the store. They are also made again by
    themselves where maintenance runs."""
    return command("rebuild", data_directory(path))


def repoint(collection: Path) -> str:
    """What makes the pointer of a collection's directory again."""
    return command("repoint", data_directory(collection), collection.name)


def free_space(path: Path) -> str:
    """What helps when the disk of `path` is full."""
    return f"free space on the disk of {path} (`df -h {path}`)"


def look_at_disk(path: Path) -> str:
    """What helps when the disk of `path` refuses for a reason that nobody here knows."""
    return f"see whether the disk of {path} is full (`df -h {path}`) or failing (`dmesg`)"


def file_rights(path: Path) -> str:
    """What helps when the service may not read or write `path`."""
    return f"let the service's user read and write {path} (`ls -l {path}`)"


def stuck_writer(process_id: int | None) -> str:
    """What helps when a process keeps others from writing."""
    which = "the service" if process_id is None else f"process {process_id}"
    return f"see whether the disk hangs (`dmesg`); else end {which}, which starts again"


def other_holder(path: Path) -> str:
    """What helps when another program keeps the file at `path` locked."""
    return f"end the program that holds {path} (`fuser -v {path}`)"


MORE_FILES = "raise the limit on open files (`ulimit -n 65536`, LimitNOFILE= of systemd) and restart"
MORE_MEMORY = "give the process more memory, or let it hold fewer collections"


_ENCODED = r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})"
_SERVER = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
_POSTGRES = re.compile(
    rf"postgres(?:ql)?://(?:{_ENCODED}+(?::{_ENCODED}*)?@)?(?:{_SERVER}(?:,{_SERVER})*)?"
    rf"(?:/{_ENCODED}*)?(?:\?[a-z_]+=(?:{_ENCODED}|[:/])*(?:&[a-z_]+=(?:{_ENCODED}|[:/])*)*)?"
)
"""So strict that no sign of a password can be taken for the beginning of a server's name: messages of the
driver quote that."""

DATABASE_ADDRESS = (
    "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, where each of / : @ ? # % in user and password is "
    "percent-encoded"
)


def is_database_address(text: str) -> bool:
    """Whether it has that form."""
    return _POSTGRES.fullmatch(text) is not None
