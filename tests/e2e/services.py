"""The dev stack's services, taken away and given back; and what they keep on the node's disk.

Each is given back however a test ends: all tests share one dev stack.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from e2e.kubectl import Kubectl, eventually
from e2e.nodes import Node
from e2e.wallets import NODE_URL, Toolbox

NAMESPACE = "devstack"
KEPT_BELOW = "/var/lib/wallet-manager"
"""In the node: `deploy/kind/devstack.yaml` names the same."""
CHANGE_SECONDS_MAX = 120.0


@dataclass(frozen=True)
class Service:
    """Redis, Kafka or the Ethereum node."""

    kubectl: Kubectl
    name: str

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Gone meanwhile; afterwards a new pod of it runs."""
        try:
            self._scale(0)
            yield
        finally:
            self._scale(1)
            limit = f"--timeout={CHANGE_SECONDS_MAX:g}s"
            self.kubectl("-n", NAMESPACE, "rollout", "status", f"deployment/{self.name}", limit)

    def _scale(self, replicas: int) -> None:
        self.kubectl("-n", NAMESPACE, "scale", f"deployment/{self.name}", f"--replicas={replicas}")
        if replicas == 0:
            selector = f"app={self.name}"
            eventually(
                lambda: self.kubectl.list(NAMESPACE, "pods", selector),
                lambda pods: not pods,
                CHANGE_SECONDS_MAX,
                f"{self.name} is gone",
            )


@contextmanager
def data_lost(service: Service, node: Node) -> Iterator[None]:
    """The service runs meanwhile, with nothing of what it kept; afterwards it has all of it again, as from a backup."""
    kept = f"{KEPT_BELOW}/{service.name}"
    try:
        with service.stopped():
            node.run("mv", kept, f"{kept}.lost")
        yield
    finally:
        with service.stopped():
            node.run("sh", "-c", f"if [ -d {kept}.lost ]; then rm -rf {kept} && mv {kept}.lost {kept}; fi")


@contextmanager
def chain_standing_still(toolbox: Toolbox, url: str = NODE_URL) -> Iterator[None]:
    """The node answers, and makes no block meanwhile."""
    toolbox.rpc(("miner_stop",), url=url)
    try:
        yield
    finally:
        toolbox.rpc(("miner_start",), url=url)
