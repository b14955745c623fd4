"""The chart as helm renders it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from kindcluster import tools
from rendered_chart import Document, Helm, Render
from resource_definition import CHART

REPOSITORY = CHART.parents[2]
HELM_SECONDS_MAX = 60


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Runs helm and returns what became of it."""
    program = tools.find("helm", REPOSITORY / ".local")
    if program is None:
        pytest.fail("helm is missing: PYTHONPATH=deploy/local:deploy/kind python3 -m kindcluster.tools helm")

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *arguments], capture_output=True, text=True, check=False, timeout=HELM_SECONDS_MAX
        )

    return run


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    """See Render."""

    def rendered(*values: str) -> list[Document]:
        options = [option for value in values for option in ("--set", value)]
        done = helm("template", "wm", CHART, "--namespace", "operators", *options)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return rendered
