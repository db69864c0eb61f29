"""Decodes pictures for a parent, in a process that can be ended.

Standard input is a socket. A request is `REQUEST` and the file. An answer is `ANSWER` and either RGB bytes or
a refusal: its code, a line feed, its sentence. The process ends when the parent does, or is silent for long.

A timer of the kernel bounds the processor time of one picture: it ends the process even inside a decoder. A
limit of the process bounds the memory.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import struct
import sys

from PIL import AvifImagePlugin, Image

from service.embedding.pictures.reading import read_picture
from service.errors import InvalidImage

REQUEST = struct.Struct("<IIII")
"""Bytes of the file; pixels_max; processor time in ms; memory in MiB."""
ANSWER = struct.Struct("<III")
"""width, height, bytes that follow; a width of 0 is a refusal."""
SILENT_S_MAX = 300
_READ_BYTES = 1 << 20


def main() -> None:
    """Decode pictures from the parent's socket until it closes or stays silent."""
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    Image.MAX_IMAGE_PIXELS = None  # pixels are counted before, against the caller's limit
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parent = socket.socket(fileno=sys.stdin.fileno())
    parent.settimeout(SILENT_S_MAX)
    with contextlib.suppress(EOFError, OSError):
        while True:
            _answer_one(parent)


def _answer_one(parent: socket.socket) -> None:
    length, pixels_max, work_ms, memory_mib = REQUEST.unpack(received(parent, REQUEST.size))
    data = bytes(received(parent, length))
    bound = memory_mib << 20
    resource.setrlimit(resource.RLIMIT_DATA, (bound, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_PROF, work_ms / 1000)
    head, body = _answer(data, pixels_max)
    signal.setitimer(signal.ITIMER_PROF, 0)
    parent.sendall(head)
    parent.sendall(body)


def _answer(data: bytes, pixels_max: int) -> tuple[bytes, bytes]:
    try:
        found = read_picture(data, pixels_max=pixels_max)
    except InvalidImage as refusal:
        told = f"{refusal.code}\n{refusal}".encode()
        return ANSWER.pack(0, 0, len(told)), told
    return ANSWER.pack(found.width, found.height, len(found.rgb)), found.rgb


def received(peer: socket.socket, count: int) -> bytearray:
    """Return `count` bytes. Raises EOFError, OSError."""
    whole = bytearray(count)
    view = memoryview(whole)
    while view:
        got = peer.recv_into(view, min(len(view), _READ_BYTES))
        if not got:
            raise EOFError("the other side has closed")
        view = view[got:]
    return whole


if __name__ == "__main__":
    main()
