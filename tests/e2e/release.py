"""The release of the chart, as a platform engineer changes it with helm."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.operators import NAME, Operator
from e2e.wallets import merged
from kindcluster.__main__ import CHART, OPERATOR_NAMESPACE

UPGRADE_SECONDS_MAX = 120
HELM_SECONDS_MAX = 180


class HelmFailed(Exception):
    """helm's exit code was not 0. The message is what it wrote."""


@dataclass(frozen=True)
class Release:
    """See the module."""

    helm: Path
    operator: Operator
    environment: Mapping[str, str]
    values: Mapping[str, Any]
    """What the chart was given when the cluster was made: the images."""

    def upgrade(self, values: Mapping[str, Any] | None = None) -> None:
        """`helm upgrade --install --wait` with these values, all others as they were at first. Raises HelmFailed.

        The operator leads when this returns.
        """
        self.change(values)
        self.operator.leader()

    def change(self, values: Mapping[str, Any] | None = None) -> None:
        """The same, without waiting for a leader: there may be several operators. Raises HelmFailed."""
        given = json.dumps(merged(self.values, values or {}))
        wait = ("--wait", f"--timeout={UPGRADE_SECONDS_MAX}s")
        self._run("upgrade", "--install", NAME, str(CHART), "--create-namespace", *wait, "--values", "-", stdin=given)

    def uninstall(self) -> None:
        """`helm uninstall --wait`. Raises HelmFailed."""
        self._run("uninstall", NAME, "--wait", f"--timeout={UPGRADE_SECONDS_MAX}s")

    def test(self) -> str:
        """`helm test --logs`; returns what it says. Raises HelmFailed."""
        return self._run("test", NAME, "--logs", "--timeout=60s")

    def _run(self, *words: str, stdin: str = "") -> str:
        command: list[str | Path] = [self.helm, "--namespace", OPERATOR_NAMESPACE, *words]
        environment = dict(self.environment)
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, env=environment, timeout=HELM_SECONDS_MAX
        )
        if done.returncode != 0:
            raise HelmFailed(f"helm {words[0]}: {done.stderr.strip()}\n{done.stdout.strip()}")
        return done.stdout
