"""The cluster's one node from inside: what helps where the API server does not, or is what a test takes away."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

COMMAND_SECONDS_MAX = 60.0
ANSWER_SECONDS_MAX = 5


class NodeCommandFailed(Exception):
    """A command in the node did not succeed. The message is what it wrote."""


@dataclass(frozen=True)
class Node:
    """The container that is the node."""

    container: str

    def run(self, *words: str, stdin: str = "") -> str:
        """What a command in the node writes on stdout. Raises NodeCommandFailed."""
        command = ["docker", "exec", "-i", self.container, *words]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS_MAX
        )
        if done.returncode != 0:
            raise NodeCommandFailed(f"{' '.join(words)[:200]}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def fetch(self, url: str) -> tuple[int, str]:
        """An HTTP answer's status and body; status 0 where nobody answers."""
        words = ("curl", "-s", "-m", str(ANSWER_SECONDS_MAX), "-w", "\n%{http_code}", url)
        try:
            body, _, status = self.run(*words).rpartition("\n")
        except NodeCommandFailed:
            return 0, ""
        return int(status), body

    def pids(self, command: str, variable: str = "") -> list[int]:
        """Processes whose command line matches, and that have this in their environment, as NAME=value."""
        try:
            found = self.run("pgrep", "-f", command).split()
        except NodeCommandFailed:  # none
            return []
        return [int(pid) for pid in found if not variable or self._has(pid, variable)]

    def _has(self, pid: str, variable: str) -> bool:
        try:
            return variable in self.run("cat", f"/proc/{pid}/environ").split("\0")
        except NodeCommandFailed:  # it has ended
            return False

    def signal(self, name: str, *pids: int) -> None:
        """Send a signal. Raises NodeCommandFailed where a process is gone."""
        self.run("kill", f"-{name}", *map(str, pids))

    @contextmanager
    def frozen(self, *pids: int) -> Iterator[None]:
        """Processes that get no time meanwhile, and do not know it."""
        self.signal("STOP", *pids)
        try:
            yield
        finally:
            for pid in pids:
                if self.run("sh", "-c", f"[ -d /proc/{pid} ] && echo lives || true"):
                    self.signal("CONT", pid)
