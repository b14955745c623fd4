"""A long step that a person watches: it says when it begins and ends, and every few seconds what it is doing.

Its full output goes to a log; the screen shows that log's last line.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Progress = Callable[[str], None]
"""Takes one line for the person who waits."""

HEARTBEAT_SECONDS = 3.0
"""How long a step may be silent on the screen."""
STEP_SECONDS_MAX = 900.0
END_SECONDS_MAX = 10.0
LINE_LENGTH_MAX = 100


class StepFailed(Exception):
    """A step did not end well. The message says why, and where its log is."""


def run_step(
    title: str,
    command: Sequence[str | Path],
    log: Path,
    progress: Progress,
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    seconds_max: float = STEP_SECONDS_MAX,
) -> None:
    """Run a command to its end. Raises StepFailed where it fails, or takes longer than `seconds_max`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    progress(title)
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=cwd,
                process_group=0,
            )  # fmt: skip
    except OSError as error:
        raise StepFailed(str(error)) from error
    try:
        while time.monotonic() < began + seconds_max:
            try:
                process.wait(HEARTBEAT_SECONDS)
                break
            except subprocess.TimeoutExpired:
                progress(f"… {title} ({time.monotonic() - began:.0f} s): {_last_line(log)}")
    finally:
        if process.poll() is None:
            _end(process)
    if process.returncode != 0:
        raise StepFailed(f"{_reason(log)}; see {log}")
    progress(f"done: {title} ({time.monotonic() - began:.0f} s)")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a step with all that it started; it may remove what it has half made."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(process.pid, number)
        try:
            process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            continue
        return


def _lines(log: Path) -> list[str]:
    """The lines of a log that say something, without colours and download addresses, cut to fit a screen."""
    text = re.sub(r"\x1b\[[0-9;]*m|\w+://\S*/", "", log.read_text(errors="replace"))
    return [line.strip()[:LINE_LENGTH_MAX] for line in re.split(r"[\r\n]+", text) if line.strip()]


def _last_line(log: Path) -> str:
    """What a step is doing."""
    return next(reversed(_lines(log)), "starting")


def _reason(log: Path) -> str:
    """Why a step failed: its first line about an error, else its last one."""
    return next((line for line in _lines(log) if re.search(r"\berror\b|^E: ", line, re.IGNORECASE)), _last_line(log))
