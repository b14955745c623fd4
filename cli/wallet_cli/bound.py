"""Runs a program that dies with the process that started it, however that one dies.

    python -I -S bound.py <pid of the parent> <program> [arguments]

`PR_SET_PDEATHSIG` (prctl(2)) survives execve: this process asks for it and becomes the program, so the pid stays the
same and no watcher is left between. It is a program of its own, because code between fork and exec of a parent with
threads can deadlock. A parent that died before the prctl shows as another parent's pid. The kernel sends the signal
when the *thread* that forked ends: start it from one that lives as long as the process (asyncio forks in the event
loop's, which is the main one).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent_pid: int, command: list[str]) -> None:
    """Ask for death with the parent, then become `command`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        sys.exit("the parent is gone already")
    os.execvp(command[0], command)  # noqa: S606 - becoming the program is the point; no shell is wanted


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
