"""What can go wrong with local services. Every message is one line that ends with the remedy.

The command line prints `str(error)` and nothing else, so a message must stand by itself: what happened, to which
service, and what to do now.
"""

from pathlib import Path


class DevstackError(Exception):
    """A local service, or a program for it, cannot be had. The message names the remedy."""


class ToolMissing(DevstackError):
    """A program is not on this machine and could not be installed."""


class PortTaken(DevstackError):
    """A port is, or was meanwhile, taken by a process that is not the service we started."""

    def __init__(self, service: str, port: int, holders: str, remedy: str) -> None:
        super().__init__(f"{service}: port {port} of 127.0.0.1 is taken by {holders}: {remedy}")


class DiedAtStart(DevstackError):
    """A service ended before it answered."""

    def __init__(self, service: str, exit_code: int | None, log: Path, last_words: str) -> None:
        how = "" if exit_code is None else f" (exit code {exit_code})"
        super().__init__(
            f"{service} died at start{how}: {last_words or 'it said nothing'} (see {log}): "
            "mend that, or begin with empty data by 'make clean'"
        )


class NotAnswering(DevstackError):
    """A service runs, but did not answer in time."""

    def __init__(self, service: str, pid: int, seconds: float, log: Path, remedy: str) -> None:
        super().__init__(f"{service} (pid {pid}) runs but did not answer within {seconds:g} s: {remedy} (see {log})")
