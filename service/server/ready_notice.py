"""Says on the terminal that the service is ready, once it is."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from typing import Any

_ASK_EVERY_S = 0.25
_ASK_TIMEOUT_S = 5.0
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Announcer:
    """Asks /readyz as a caller would, so that what is printed holds for callers, however many workers serve.

    `start` and `close` from one thread; `say` is called from another, once at most.
    """

    def __init__(self, host: str, port: int, ready: str, say: Callable[[str], None]) -> None:
        """host: what is listened on. ready: the text to say."""
        self._host = _EVERY_ADDRESS.get(host, host)
        self._port = port
        self._ready = ready
        self._say = say
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="announcer", daemon=True)

    def start(self) -> None:
        """Start asking."""
        self._thread.start()

    def close(self) -> None:
        """Stop asking, and wait for the thread."""
        self._is_closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_closed.wait(_ASK_EVERY_S):
            waiting = self._waiting_for()
            if waiting is None:
                continue
            if not waiting:
                self._say(self._ready)
                return
            if all("hint" in each for each in waiting):  # nothing is loading any more
                missing = "\n".join(f"  {each['reason']}\n    {each['hint']}" for each in waiting)
                self._say(f"\nServing at port {self._port}, but not all of it:\n{missing}\n")
                return

    def _waiting_for(self) -> list[dict[str, Any]] | None:
        """Return None while the service does not answer."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_ASK_TIMEOUT_S)
        try:
            connection.request("GET", "/readyz")
            waiting: list[dict[str, Any]] = json.loads(connection.getresponse().read())["waiting_for"]
        except (OSError, ValueError, KeyError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return waiting
