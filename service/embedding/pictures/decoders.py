"""Pictures decoded in processes that can be ended: none holds up the next one, or a stop of the service.

A process is started when it is first needed and ends by itself after some minutes without work; it takes 15
MB and 60 ms. Threads can't be ended: a decoder that is busy inside a library would be waited for to its end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass

import numpy as np

from service.embedding.pictures.decoder_process import ANSWER, REQUEST, received
from service.embedding.pictures.images import BYTES_MAX, PIXELS_MAX, check_bytes
from service.embedding.port import Pixels
from service.errors import DeadlineExceeded, InvalidImage, Starting

_PROGRAM = "service.embedding.pictures.decoder_process"
_MEMORY_MIB = 96
_BYTES_A_PIXEL = 16
"""What the costliest kind needs while it is decoded: four channels, twice."""
_WALL = 10
"""On a busy machine processor time passes slower than the clock: so many times as slow at most."""
_GIVEN_BACK_BYTES = 1 << 20
_ENDED_BY_TIMER = -signal.SIGPROF


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """work_ms_max: processor time of one picture."""

    bytes_max: int = BYTES_MAX
    pixels_max: int = PIXELS_MAX
    work_ms_max: int = 2000


class _Decoder:
    """One process and the socket to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _PROGRAM],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
            )
        self._peer = ours

    @property
    def process_id(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """End the process at once, whatever it does. Safe from any thread."""
        self._process.kill()

    def release(self) -> int:
        """End the process, wait for its end and return how it came."""
        self._peer.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(1)
        self._process.kill()
        return self._process.wait()

    def decode_in_child(self, data: bytes, limits: DecodeLimits) -> Pixels | InvalidImage:
        """Raises OSError (TimeoutError too) and EOFError when the process ended or was too slow."""
        memory_mib = _MEMORY_MIB + (_BYTES_A_PIXEL * limits.pixels_max + len(data) >> 20)
        self._peer.settimeout(_WALL * limits.work_ms_max / 1000)
        self._peer.sendall(REQUEST.pack(len(data), limits.pixels_max, limits.work_ms_max, memory_mib))
        self._peer.sendall(data)
        width, height, length = ANSWER.unpack(received(self._peer, ANSWER.size))
        body = received(self._peer, length)
        if width:
            return np.frombuffer(body, np.uint8).reshape(height, width, 3)
        code, _, sentence = body.decode().partition("\n")
        return InvalidImage(code, sentence)


def _environment() -> dict[str, str]:
    """Nothing of ours, keys least of all, goes where strangers' files are read."""
    return {
        "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path),
        # What a large picture took goes back to the system, not into a heap that is kept.
        "MALLOC_MMAP_THRESHOLD_": str(_GIVEN_BACK_BYTES),
        "MALLOC_TRIM_THRESHOLD_": str(_GIVEN_BACK_BYTES),
    }


class Decoders:
    """Idle processes by kind of work. Safe from any thread; each picture keeps its thread waiting.

    role: keeps processes apart that threads of different priority have started: they inherit it.
    """

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._idle: dict[str, list[_Decoder]] = {}
        self._busy: set[_Decoder] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def decode(self, data: bytes, role: str) -> Pixels | InvalidImage:
        """Return the picture, or why there is none.

        Raises DeadlineExceeded where the machine is too busy to tell, Starting after `close`.
        """
        try:
            check_bytes(data, self._limits.bytes_max)
        except InvalidImage as refusal:
            return refusal
        decoder = self._acquire(role)
        try:
            found = decoder.decode_in_child(data, self._limits)
        except (OSError, EOFError) as exc:
            return self._refusal_of_lost(decoder, exc)
        self._release(decoder, role)
        return found

    def processes(self) -> list[int]:
        """Return the ids of the processes that are there now."""
        with self._lock:
            idle = [decoder for each in self._idle.values() for decoder in each]
            return [decoder.process_id for decoder in (*idle, *self._busy)]

    def close(self) -> None:
        """End every process at once; what they work on is refused."""
        with self._lock:
            self._is_closed = True
            idle = [decoder for each in self._idle.values() for decoder in each]
            self._idle.clear()
            for decoder in self._busy:
                decoder.kill()
        for decoder in idle:
            decoder.kill()
            decoder.release()

    def _acquire(self, role: str) -> _Decoder:
        with self._lock:
            idle = self._idle.setdefault(role, [])
            decoder = idle.pop() if idle else None
        if decoder is not None and not decoder.is_alive():
            decoder.release()
            decoder = None
        decoder = decoder or _Decoder()
        with self._lock:
            self._busy.add(decoder)
            if not self._is_closed:
                return decoder
        decoder.kill()
        raise self._closed(decoder)

    def _release(self, decoder: _Decoder, role: str) -> None:
        with self._lock:
            self._busy.discard(decoder)
            if not self._is_closed:
                self._idle.setdefault(role, []).append(decoder)
                return
        decoder.release()

    def _refusal_of_lost(self, decoder: _Decoder, error: Exception) -> InvalidImage:
        if isinstance(error, TimeoutError):
            decoder.kill()
        ended = decoder.release()
        with self._lock:
            self._busy.discard(decoder)
            is_closed = self._is_closed
        if is_closed:
            raise Starting("The service is shutting down.") from error
        if isinstance(error, TimeoutError):
            raise DeadlineExceeded("The machine is too busy to decode the picture.") from error
        if ended == _ENDED_BY_TIMER:
            return InvalidImage(
                "image_too_complex",
                f"The picture takes more than {self._limits.work_ms_max} ms of work to decode.",
            )
        return InvalidImage("image_truncated", "The picture is broken: its decoder ended.")

    def _closed(self, decoder: _Decoder) -> Starting:
        with self._lock:
            self._busy.discard(decoder)
        decoder.release()
        return Starting("The service is shutting down.")
