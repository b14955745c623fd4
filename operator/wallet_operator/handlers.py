"""kopf: what happens to a WalletManager or to an object made from one only puts the wallet's key into the queue.

`on.event` alone: kopf then writes nothing, adds no finalizer, and keeps no state of its own (no `index`, which keeps
what vanished during an outage). What an event says is not used but to tell what concerns whom. Only what carries our
label is listed and watched, or every Deployment and Job of the cluster would pass through this process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import kopf

from wallet_operator.kinds import CHILD_KINDS, MANAGED_LABEL, MANAGER, WALLETS
from wallet_operator.noticing import Noticing
from wallet_operator.queue import Ask, Queue

STATUS_SECONDS = 1.0
"""Changes of the status of what a wallet is made of lead to at most one look in that time: a rollout has hundreds."""
OURS = f"{MANAGED_LABEL}={MANAGER}"


def make_registry(queue: Queue) -> kopf.OperatorRegistry:
    """The handlers of one operator."""
    registry = kopf.OperatorRegistry()
    notice = make_notice(queue)

    @kopf.on.startup(registry=registry)
    def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False
        settings.scanning.disabled = True  # no rights on CRDs and namespaces
        settings.networking.trust_env = True  # a proxy before the API server, as kubernetes.aio takes it
        for kind in CHILD_KINDS:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = OURS

    @kopf.on.login(registry=registry)
    def log_in(**arguments: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)

    kopf.on.event(WALLETS.group, WALLETS.version, WALLETS.plural, registry=registry)(notice)
    for kind in CHILD_KINDS:
        kopf.on.event(kind.group, kind.version, kind.plural, registry=registry)(notice)
    return registry


def make_notice(queue: Queue) -> Callable[..., Awaitable[None]]:
    """What kopf calls with every event. A coroutine: anything else it runs in threads, where no queue may be used."""
    noticing = Noticing()

    async def notice(type: str | None, body: Mapping[str, Any], **_: Any) -> None:  # noqa: A002 - kopf's word
        match noticing.notice(type, body):
            case key, Ask.LOOK:
                queue.add_later(key, Ask.LOOK, STATUS_SECONDS)
            case key, ask:
                queue.add(key, ask)

    return notice
