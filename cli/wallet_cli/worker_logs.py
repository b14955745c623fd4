"""Many workers' output as one: whole lines, each behind the name of who wrote it.

A line stays as its worker wrote it, however many pieces it came in. Whoever reads the result may be slow, or stop
reading (a terminal after Ctrl-S, a full pipe): a thread of its own does the writing, and what it cannot get rid of is
left out and counted. So no worker ever waits for a reader of logs.
"""

from __future__ import annotations

import itertools
import os
import select
import threading
from collections import deque

LINE_SIZE_MAX = 1024 * 1024
"""Bytes; a longer line is passed on in pieces."""
WAITING_SIZE_MAX = 8 * 1024 * 1024
"""Bytes that may wait for a slow reader."""
CLOSE_SECONDS_MAX = 2.0
"""How long a slow reader may take for the rest at the end."""
_WRITE_SIZE_MAX = 64 * 1024
_COLOURS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)
_OWN_COLOUR = 1
OWN_NAME = "walletctl"


class Lines:
    """One worker's output, cut into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that a further piece completes, without their ends."""
        *whole, self._rest = (self._rest + piece).split(b"\n")
        while len(self._rest) > LINE_SIZE_MAX:
            whole.append(self._rest[:LINE_SIZE_MAX])
            self._rest = self._rest[LINE_SIZE_MAX:]
        return whole

    def end(self) -> list[bytes]:
        """What is left where the output ends without an end of line."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


class LogOutput:
    """Writes lines to a descriptor. `close()` when done."""

    def __init__(self, descriptor: int, *, coloured: bool, waiting_size_max: int = WAITING_SIZE_MAX) -> None:
        self._descriptor = descriptor
        self._coloured = coloured
        self._waiting_size_max = waiting_size_max
        self._colours = itertools.cycle(_COLOURS)
        self._prefixes: dict[str, bytes] = {}
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_size = 0
        self._left_out = 0
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name="log-output", daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        """A line of walletctl's own."""
        self.line(OWN_NAME, text.encode(errors="replace"))

    def line(self, name: str, text: bytes) -> None:
        """A worker's line. Never blocks."""
        with self._changed:
            entry = self._prefix(name) + text + b"\n"
            if self._waiting_size + len(entry) > self._waiting_size_max:
                self._left_out += 1
                return
            self._append(entry)

    def close(self) -> None:
        """Write what is waiting, for a bounded time."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS_MAX)

    def _append(self, entry: bytes) -> None:
        self._waiting.append(entry)
        self._waiting_size += len(entry)
        self._changed.notify()

    def _prefix(self, name: str) -> bytes:
        if name not in self._prefixes:
            colour = _OWN_COLOUR if name == OWN_NAME else next(self._colours)
            prefix = f"\x1b[{colour}m{name} | \x1b[0m" if self._coloured else f"{name} | "
            self._prefixes[name] = prefix.encode()
        return self._prefixes[name]

    def _write_all(self) -> None:
        while portion := self._next_portion():
            try:
                self._write(portion)
            except OSError:  # nobody reads any more: what comes is left out, and the workers go on
                with self._changed:
                    self._waiting_size_max = 0
                    self._waiting.clear()

    def _next_portion(self) -> bytes:
        """What to write next; empty where it was the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            taken: list[bytes] = []
            size = 0
            while self._waiting and size < _WRITE_SIZE_MAX:
                taken.append(self._waiting.popleft())
                size += len(taken[-1])
            self._waiting_size -= size
            if self._left_out and not self._waiting and self._waiting_size_max:
                told = f"{self._left_out} lines left out here: whoever reads this output is too slow"
                taken.append(self._prefix(OWN_NAME) + told.encode() + b"\n")
                self._left_out = 0
            return b"".join(taken)

    def _write(self, portion: bytes) -> None:
        while portion:
            try:
                portion = portion[os.write(self._descriptor, portion) :]
            except BlockingIOError:  # the descriptor was handed to us in non-blocking mode
                select.select([], [self._descriptor], [])
