"""The cluster's API server and its etcd, taken away, replaced and made to forget, in the node.

Two API servers share one port: as a load balancer in front of several would, the kernel gives a new connection to one
that lives, and a connection ends with its server. Each has a cache of its own of what happened lately.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import yaml

from e2e.kubectl import eventually
from e2e.nodes import Node, NodeCommandFailed

MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"
"""The kubelet runs what lies in that directory."""
SECOND_MANIFEST = "/etc/kubernetes/manifests/kube-apiserver-2.yaml"
ASIDE = "/etc/kubernetes/kube-apiserver.yaml"
SHARING_FLAG = "--permit-port-sharing=true"
SECOND_FLAG = "--endpoint-reconciler-type=none"
"""A server of the same address would take that of the first one out of the Service when it ends."""
SERVER = "^kube-apiserver "
CHANGE_SECONDS_MAX = 120.0
ASKED_AT_ONCE = 20
"""So many new connections hardly ever all reach the same one of two servers."""
_ETCD = "https://127.0.0.1:2379/v3"
_PKI = "/etc/kubernetes/pki/etcd"


@dataclass(frozen=True)
class ControlPlane:
    """See the module."""

    node: Node

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """No API server meanwhile; afterwards it is ready again."""
        self.node.run("mv", MANIFEST, ASIDE)
        try:
            self._wait_for_servers(0)
            yield
        finally:
            self.node.run("mv", ASIDE, MANIFEST)
            self._wait_ready()

    @contextmanager
    def doubled(self) -> Iterator[None]:
        """A second API server beside the first one meanwhile, ready; it has seen nothing of what was before."""
        pod = yaml.safe_load(self.node.run("cat", MANIFEST))
        self.node.run("sh", "-c", f"cat > {SECOND_MANIFEST}", stdin=yaml.safe_dump(second(pod)))
        try:
            self._wait_for_servers(2)
            self._wait_ready()
            yield
        finally:
            self.node.run("rm", SECOND_MANIFEST)
            self._wait_for_servers(1)
            self._wait_ready()

    def kill_first(self) -> None:
        """The first of two at once, with every connection to it; the kubelet starts it again, empty."""
        self.node.signal("KILL", *set(self.node.pids(SERVER)) - set(self.node.pids(f"{SERVER}.*{SECOND_FLAG}")))

    def compact(self) -> int:
        """Make etcd forget all that is not the present state. Returns its revision."""
        revision = int(self._etcd("maintenance/status", {})["header"]["revision"])
        self._etcd("kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    def _etcd(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        certificate = f"{_PKI}/healthcheck-client"
        keys = ("--cacert", f"{_PKI}/ca.crt", "--cert", f"{certificate}.crt", "--key", f"{certificate}.key")
        answer = self.node.run("curl", "-sS", "--fail", *keys, "-d", json.dumps(body), f"{_ETCD}/{path}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def _wait_for_servers(self, count: int) -> None:
        what = f"{count} API servers run (two need {SHARING_FLAG})"
        eventually(lambda: len(self._listeners()), lambda found: found == count, CHANGE_SECONDS_MAX, what)

    def _listeners(self) -> list[str]:
        return [line for line in self.node.run("ss", "-Hltn").splitlines() if ":6443 " in line]

    def _wait_ready(self) -> None:
        once = "curl -sk -m 5 https://127.0.0.1:6443/readyz"

        def answers() -> str:
            try:
                return self.node.run("sh", "-c", f"for _ in $(seq {ASKED_AT_ONCE}); do {once} || exit 1; done")
            except NodeCommandFailed as error:
                return str(error)

        eventually(answers, lambda said: said == "ok" * ASKED_AT_ONCE, CHANGE_SECONDS_MAX, "the API server is ready")


def second(pod: dict[str, Any]) -> dict[str, Any]:
    """The pod of another API server beside this one, on the same port."""
    [container] = pod["spec"]["containers"]
    unwanted = {"ports", "resources", "livenessProbe", "readinessProbe", "startupProbe"}  # the port is taken
    container = {name: value for name, value in container.items() if name not in unwanted}
    container["command"] = [*container["command"], SECOND_FLAG]
    return {
        **pod,
        "metadata": {"name": "kube-apiserver-2", "namespace": "kube-system"},
        "spec": {**pod["spec"], "containers": [container]},
    }
