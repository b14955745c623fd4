"""The API server's audit log: what the operator really asked for, told by the one whom it asked."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any

from e2e.nodes import Node

AUDIT_LOG = "/var/log/kubernetes/audit.log"
"""In the node."""
_POD_NAME = "authentication.kubernetes.io/pod-name"


@dataclass(frozen=True)
class Request:
    """One that was answered, or a watch that has begun."""

    at: float
    """When it came; Unix time."""
    pod: str
    agent: str
    verb: str
    group: str
    resource: str
    """Plural, with a subresource behind a slash."""
    namespace: str
    name: str
    uri: str
    code: int

    @property
    def is_write(self) -> bool:
        """Whether it could change something."""
        return self.verb not in {"get", "list", "watch"}


def requests(node: Node, since: float, until: float = float("inf")) -> list[Request]:
    """The operator's requests of a time, in order; the end of a watch is not one."""
    found = (_request(json.loads(line)) for line in _lines(node))
    return sorted((each for each in found if each is not None and since <= each.at < until), key=lambda each: each.at)


def _lines(node: Node) -> Iterator[str]:
    for line in node.run("cat", AUDIT_LOG).splitlines():
        if line.endswith("}"):  # the last one may be half written
            yield line


def _request(event: dict[str, Any]) -> Request | None:
    code = (event.get("responseStatus") or {}).get("code", 0)
    begins = event["verb"] == "watch" and code == HTTPStatus.OK
    if event["stage"] != ("ResponseStarted" if begins else "ResponseComplete"):
        return None
    what = event.get("objectRef") or {}
    return Request(
        at=datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp(),
        pod=",".join(event["user"].get("extra", {}).get(_POD_NAME, ())),
        agent=event.get("userAgent", ""),
        verb=event["verb"],
        group=what.get("apiGroup", ""),
        resource="/".join(filter(None, (what.get("resource", ""), what.get("subresource", "")))),
        namespace=what.get("namespace", ""),
        name=what.get("name", ""),
        uri=event["requestURI"],
        code=code,
    )
