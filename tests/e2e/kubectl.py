"""kubectl, on the tests' cluster; and waiting for what it says."""

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from devstack.processes import wait_until

COMMAND_SECONDS_MAX = 120.0
LOOK_SECONDS = 0.5
"""Between two looks: each is a process, often with another one in a pod."""

T = TypeVar("T")
Document = dict[str, Any]


class KubectlFailed(Exception):
    """kubectl's exit code was not 0. The message is what it wrote on stderr."""


@dataclass(frozen=True)
class Kubectl:
    """Runs it, each time to its end."""

    program: Path
    environment: Mapping[str, str]

    def __call__(self, *words: str, stdin: str = "", limit: float = COMMAND_SECONDS_MAX) -> str:
        """What it wrote on stdout. Raises KubectlFailed."""
        command: list[str | Path] = [self.program, *words]
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env=dict(self.environment),
            timeout=limit,
        )
        if done.returncode != 0:
            raise KubectlFailed(f"kubectl {' '.join(words)[:200]}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Create or change."""
        self("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)}))

    def get(self, namespace: str, what: str, *words: str) -> Document:
        """One object, or with a selector a list's `items` in a document. Raises KubectlFailed."""
        found: Document = json.loads(self("-n", namespace, "get", what, *words, "-o", "json"))
        return found

    def list(self, namespace: str, what: str, selector: str = "") -> list[Document]:
        """The objects of a kind."""
        words = ("-l", selector) if selector else ()
        items: list[Document] = self.get(namespace, what, *words)["items"]
        return items

    def exists(self, namespace: str, what: str) -> bool:
        """Whether an object is there."""
        return bool(self("-n", namespace, "get", what, "--ignore-not-found", "-o", "name").strip())


def eventually(look: Callable[[], T], is_so: Callable[[T], bool], seconds: float, what: str) -> T:
    """Look until it is so, and return what was seen then. Fails, with what was seen last, where that takes longer.

    A look may raise KubectlFailed: then it is not so yet.
    """
    seen: list[T | KubectlFailed] = []

    def met() -> bool:
        try:
            found = look()
        except KubectlFailed as error:
            seen[:] = [error]
            return False
        seen[:] = [found]
        return is_so(found)

    is_met = wait_until(met, seconds, LOOK_SECONDS)
    last = seen[-1]
    if not is_met or isinstance(last, KubectlFailed):
        raise AssertionError(f"not within {seconds:g} s: {what}; seen last: {last!r:.2000}")
    return last
