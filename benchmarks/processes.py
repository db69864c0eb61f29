"""Ports for servers that a test or a benchmark starts, and what is seen of their processes."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOWEST, HIGHEST = 15_000, 31_999
"""Below the ports that the system hands to outgoing connections and to whoever asks for any: between the
choice and the server's start nobody else takes one, however many tests run side by side."""


def free_port() -> int:
    chance = random.SystemRandom()
    for _ in range(1000):
        port = chance.randint(LOWEST, HIGHEST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"1000 ports from {LOWEST} to {HIGHEST} are taken")


def command_of(process_id: int) -> bytes:
    """Return how a process was started; nothing of one that has ended. Linux only."""
    try:
        return Path(f"/proc/{process_id}/cmdline").read_bytes()
    except OSError:
        return b""
