"""The chart's objects, as helm renders them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

Document = dict[str, Any]
Helm = Callable[..., "subprocess.CompletedProcess[str]"]
"""Runs helm with these arguments."""
Render = Callable[..., list[Document]]
"""The objects that the chart makes of these values (`name=value`), as release `wm` in namespace `operators`."""


def only(documents: list[Document], kind: str, name: str | None = None) -> Document:
    """The one object of that kind, and of that name."""
    (found,) = [
        each for each in documents if each["kind"] == kind and (name is None or each["metadata"]["name"] == name)
    ]
    return found
