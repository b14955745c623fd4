"""A cluster for the operator: the API server in memory, what makes pods, and workers that say what they are told to."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from fake_kubernetes import FakeKubernetes
from resources import MINIMAL
from wallet_core.settings import Role
from wallet_operator.api import Api
from wallet_operator.config import Config
from wallet_operator.kinds import DOMAIN, WORKER_CONTAINER
from wallet_operator.metrics import Metrics
from wallet_operator.pods import WorkerPod
from wallet_operator.queue import Ask
from wallet_operator.reconcile import Reconciler
from wallet_operator.upgrade import Turns

KEY = ("wallets", "mainnet")
CONFIG = Config("workers:1", "operator-0", "system", network_policies=True)
PARTITIONS = 12


class StillClock:
    def __init__(self) -> None:
        self.now = 0.0
        self.unix_offset = 1_767_225_600.0
        """2026-01-01, as long as nobody puts the clock."""

    def monotonic(self) -> float:
        return self.now

    def unix_time(self) -> float:
        return self.unix_offset + self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class LeaseNotes:
    """The note for the next leader: in the Lease at once, unless a test lets no renewal come through."""

    def __init__(self) -> None:
        self.is_renewed = True
        self.noted = ""
        self._note = ""

    @property
    def note(self) -> str:
        return self._note

    @note.setter
    def note(self, note: str) -> None:
        self._note = note
        if self.is_renewed:
            self.noted = note


class Cluster:
    """The API server, the controllers that make pods of Deployments and Jobs, and the workers in the pods."""

    def __init__(self, server: FakeKubernetes, api: Api) -> None:
        self.server = server
        self.api = api
        self.clock = StillClock()
        self.metrics = Metrics()
        self.said: dict[tuple[str, str], Mapping[str, Any] | None] = {}
        """What a wallet's workers of a role say, instead of that all is well; None: nothing."""
        self.meanwhile: Callable[[], object] | None = None
        """What somebody does in the middle of the next look: when its first worker is asked."""
        self.notes = LeaseNotes()
        self.config = CONFIG
        self.operator = self.start_operator()

    def start_operator(self, **changes: Any) -> Reconciler:
        """A new leader: it knows what the API server and the last one's note tell it."""
        self.config = replace(self.config, **changes)
        turns = Turns(
            self.clock,
            self.notes,
            ready_seconds_max=self.config.upgrade_ready_seconds,
            namespaces=self.config.namespaces,
        )
        self.operator = Reconciler(self.api, self.ask, self.config, turns, self.metrics, self.clock)
        return self.operator

    def create(self, name: str = "mainnet", **spec: Any) -> tuple[str, str]:
        document = copy.deepcopy(MINIMAL)
        document["metadata"] = {"name": name, "namespace": "wallets"}
        fingerprint = name.encode().hex()[:40].ljust(40, "0")
        document["spec"] |= {"accounts": {**document["spec"]["accounts"], "fingerprint": fingerprint}, **spec}
        self.server.put(document)
        return "wallets", name

    def edit(self, change: Callable[[dict[str, Any]], None], name: str = "mainnet") -> None:
        self.server.change("walletmanagers", "wallets", name, lambda wallet: change(wallet["spec"]))

    async def look(self, name: str = "mainnet", ask: Ask = Ask.RECONCILE, *, after: float = 0) -> float | None:
        self.clock.now += after
        return await self.operator.look(("wallets", name), ask)

    async def settle(self, *names: str) -> None:
        """Everything runs as it should, and the operator has seen it."""
        for _ in range(4):
            for name in names or ("mainnet",):
                await self.look(name, after=1)
            self.finish_jobs()
            self.roll_out()

    def finish_jobs(self, **status: Any) -> None:
        for name in self.server.of("jobs"):
            self._status("jobs", name, status or {"succeeded": 1})

    def fail_job(self, exit_code: int, words: str) -> None:
        self.finish_jobs(failed=1, conditions=[{"type": "Failed", "status": "True"}])
        for name, job in self.server.of("jobs").items():
            end = {"terminated": {"exitCode": exit_code, "message": words}}
            self._pod(job, f"{name}-pod", phase="Failed", containerStatuses=[{"name": WORKER_CONTAINER, "state": end}])

    def roll_out(self) -> None:
        for name, found in self.server.of("deployments").items():
            replicas = found["spec"].get("replicas", 1)
            counts = {"replicas": replicas, "updatedReplicas": replicas}
            self._status("deployments", name, {"observedGeneration": found["metadata"]["generation"], **counts})
            for where in [each for each in self.server.objects if each[0] == "pods" and each[2].startswith(name)]:
                del self.server.objects[where]
            for place in range(replicas):
                worker = {"name": WORKER_CONTAINER, "ready": True}
                self._pod(found, f"{name}-{place}", podIP="10.0.0.1", containerStatuses=[worker])

    def _status(self, plural: str, name: str, status: dict[str, Any]) -> None:
        self.server.change(plural, "wallets", name, lambda found: found.update(status=status))

    def _pod(self, owner: dict[str, Any], name: str, **status: Any) -> None:
        owners = [{"uid": owner["metadata"]["uid"], "controller": True}]
        metadata = {
            "name": name,
            "namespace": "wallets",
            "labels": owner["metadata"]["labels"],
            "ownerReferences": owners,
        }
        annotations = owner["metadata"].get("annotations") or {}
        self.server.put(
            {
                "kind": "Pod",
                "metadata": {**metadata, "annotations": {"hash": annotations.get(f"{DOMAIN}/settings-hash", "")}},
                "status": status,
            }
        )

    async def ask(self, pod: WorkerPod, wallet: str) -> Mapping[str, Any] | None:
        if self.meanwhile is not None:
            change, self.meanwhile = self.meanwhile, None
            change()
        name = wallet.partition(".")[2]
        made = self.server.objects["pods", "wallets", pod.name]["metadata"]["annotations"]
        well: dict[str, Any] = {"reason": "Working", "settings_hash": made.get("hash")}
        if pod.role is Role.SYNC:
            well |= {"leader": pod.name.endswith("-0"), "block": 7, "lag": 0}
        else:
            well |= {"partitions": list(range(PARTITIONS))}
        said = self.said.get((name, pod.role), {})
        return None if said is None else {**well, **said}

    def wallet(self, name: str = "mainnet") -> dict[str, Any]:
        return self.server.objects["walletmanagers", "wallets", name]

    def condition(self, kind: str = "Ready", name: str = "mainnet") -> tuple[str, str]:
        found = {each["type"]: each for each in self.wallet(name)["status"]["conditions"]}[kind]
        return found["status"], found["reason"]

    def message(self, kind: str = "Ready", name: str = "mainnet") -> str:
        return str({each["type"]: each for each in self.wallet(name)["status"]["conditions"]}[kind]["message"])

    def image(self, name: str) -> str:
        deployment = self.server.objects["deployments", "wallets", f"{name}-sync"]
        return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])

    def count(self, metric: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(metric, labels) or 0.0


@asynccontextmanager
async def make_cluster() -> AsyncIterator[Cluster]:
    server = FakeKubernetes()
    async with server.serving() as api:
        yield Cluster(server, api)
