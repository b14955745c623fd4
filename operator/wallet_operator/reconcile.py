"""One look at one wallet: list, decide, apply, ask the workers, and write the status last.

Nothing here waits for anything but the API server and the workers' answers; what is not so yet will be looked at
again in LOOK_SECONDS. What is remembered between looks (`Memory`) only makes them better: a new operator does without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from wallet_core.errors import InvalidSetting
from wallet_core.ports import Clock
from wallet_core.reasons import Reason
from wallet_core.resource import WalletManager, qualified_name
from wallet_core.settings import Role
from wallet_operator.api import Api, Conflict, NotThere
from wallet_operator.apply import (
    Outcome,
    carry_out,
    list_children,
    list_namesakes,
    list_pods,
    record_event,
    write_status,
)
from wallet_operator.bootstrap import BootstrapMemory, BootstrapView, has_succeeded, look_at_bootstrap
from wallet_operator.config import Config
from wallet_operator.kinds import (
    DEPLOYMENT,
    JOB,
    WALLETS,
    Document,
    Key,
    annotation,
    controller_uid,
    identity,
    is_going,
)
from wallet_operator.manifests import (
    DEPLOYED_ROLES,
    Wanted,
    desired,
    role_name,
    role_settings_hash,
    selector_text,
)
from wallet_operator.metrics import Metrics
from wallet_operator.network import NetworkRules
from wallet_operator.plan import Seen, plan
from wallet_operator.pods import WorkerPod, worker_pod
from wallet_operator.queue import Ask
from wallet_operator.reports import Report, Reports
from wallet_operator.rollout import is_rolled_out, refused_pods
from wallet_operator.spec import Claim, check, claim_of
from wallet_operator.status import View, is_current, is_due, is_ready, next_status
from wallet_operator.upgrade import Decision, Turns, hold_back
from wallet_operator.workers_status import AskPod, ask_all

log = structlog.get_logger()

LOOK_SECONDS = 10.0
"""How often the workers are asked."""
SOON_SECONDS = 1.0


@dataclass
class Memory:
    """What is remembered of one wallet."""

    uid: str
    reports: Reports = field(default_factory=Reports)
    bootstrap: BootstrapMemory = field(default_factory=BootstrapMemory)
    seen: dict[str, Seen] = field(default_factory=dict)


class Reconciler:
    """Looks at wallets."""

    def __init__(self, api: Api, ask_pod: AskPod, config: Config, turns: Turns, metrics: Metrics, clock: Clock) -> None:
        self._api = api
        self._ask_pod = ask_pod
        self._config = config
        self._turns = turns
        metrics.upgrade_stuck.set_function(lambda: turns.is_stuck)
        self._metrics = metrics
        self._clock = clock
        self._memories: dict[Key, Memory] = {}
        self._claims: dict[Key, Claim] = {}

    async def list_wallets(self) -> set[Key]:
        """Every wallet that there is, and every one that is remembered. Raises ApiUnreachable, ApiRefused."""
        claims: dict[Key, Claim] = {}
        for namespace in self._config.namespaces or (None,):
            for document in await self._api.list(WALLETS, namespace):
                claim = claim_of(document)
                claims[claim.key] = claim
        self._claims = claims
        self._metrics.wallets.set(len(claims))
        return claims.keys() | self._memories.keys() | ({self._turns.turn.key} if self._turns.turn else set())

    async def look(self, key: Key, ask: Ask) -> float | None:
        """Look at a wallet once. Returns after how many seconds it wants to be looked at again; None: never.

        Raises ApiUnreachable, ApiRefused.
        """
        self._metrics.reconciles.labels(ask.name.lower()).inc()
        try:
            document = await self._api.get(WALLETS, *key)
        except NotThere:
            self._forget(key)
            return None
        if is_going(document):  # its children go with it
            self._turns.done(key)
            return LOOK_SECONDS
        try:
            return await self._look_at(document, key, ask)
        except (Conflict, NotThere) as error:  # of the status: it must not be written onto what nobody has looked at
            log.info("changed_meanwhile", wallet="/".join(key), message=str(error))
            return SOON_SECONDS

    async def _look_at(self, document: Document, key: Key, ask: Ask) -> float:
        memory = self._memory(key, document["metadata"]["uid"])
        if key not in self._claims or self._claims[key].uid != memory.uid:
            await self.list_wallets()
        children = await list_children(self._api, key)
        pods = [pod for each in await list_pods(self._api, key) if (pod := worker_pod(each))]
        try:
            wallet = check(
                document, allowed_repositories=self._config.allowed_repositories, others=self._claims.values()
            )
        except InvalidSetting as error:
            bootstrapped = bool((document.get("status") or {}).get("bootstrapped"))
            view = View(document["metadata"]["generation"], refusal=str(error), bootstrapped=bootstrapped)
            await self._ask_workers(key, memory, pods, frozenset())
            await self._report(document, self._with_workers(view, memory, children, pods, key))
            return LOOK_SECONDS
        return await self._apply_and_report(document, wallet, memory, children, pods, ask)

    async def _apply_and_report(
        self,
        document: Document,
        wallet: WalletManager,
        memory: Memory,
        children: list[Document],
        pods: list[WorkerPod],
        ask: Ask,
    ) -> float:
        key, uid = (wallet.metadata.namespace, wallet.metadata.name), memory.uid
        bootstrapped = has_succeeded(children, uid) or bool((document.get("status") or {}).get("bootstrapped"))
        expected = self._expected(wallet, bootstrapped=bootstrapped)
        await self._ask_workers(key, memory, pods, expected)
        view = View(
            generation=document["metadata"]["generation"],
            paused=wallet.spec.paused,
            bootstrapped=bootstrapped,
            expected=expected,
            partitions=wallet.spec.kafka.partitions,
            settings_hashes={role: role_settings_hash(wallet, role) for role in Role},
        )
        view = self._with_workers(view, memory, children, pods, key)
        wanted = self._wanted(wallet, document, children, memory, bootstrapped=bootstrapped)
        decision = self._decide(wanted, children, key, works=is_ready(view))
        job_name = next(each["metadata"]["name"] for each in decision.now if each["kind"] == JOB.kind)
        jobs = look_at_bootstrap(memory.bootstrap, job_name, children, pods, uid, self._clock.monotonic())
        memory.bootstrap = jobs.memory
        outcome = Outcome()
        if not wallet.spec.paused:
            outcome = await self._apply(key, decision, children, memory, jobs, ask)
        for drifted in outcome.drifted:
            kind, name = identity(drifted.manifest)
            self._metrics.drift.labels(kind).inc()
            await self._say(document, "Drift", f"somebody changed {kind} {name}; applied again", True)
        if _bootstrap_waits(view.reports):
            memory.bootstrap = replace(memory.bootstrap, failure=None)
        view = replace(
            view,
            refusal="; ".join(outcome.invalid),
            taken=tuple(outcome.taken),
            former=tuple(outcome.former),
            bootstrap_failure=memory.bootstrap.failure,
            is_rolled_out=jobs.is_current and is_rolled_out(decision.now, children),
            waits_for=decision.waits_for,
            forbidden=(*outcome.forbidden, *refused_pods(children, uid)),
        )
        await self._report(document, view)
        if not decision.waits_for and is_ready(view) and is_current(view):
            self._turns.done(key)
        begins = bool(decision.waits_for) and self._turns.is_of(key)
        return SOON_SECONDS if outcome.interrupted or outcome.deleted or begins else LOOK_SECONDS

    async def _apply(
        self,
        key: Key,
        decision: Decision,
        children: Sequence[Document],
        memory: Memory,
        jobs: BootstrapView,
        ask: Ask,
    ) -> Outcome:
        observed = [*children, *await list_namesakes(self._api, decision.now, children)]
        actions = plan(
            decision.now,
            observed,
            memory.uid,
            everything=ask is Ask.RECONCILE,
            seen=memory.seen,
            retry=jobs.retry,
            keep=decision.keep,
        )
        outcome = await carry_out(self._api, key, actions)
        living = {each["metadata"]["uid"] for each in observed}
        memory.seen = {uid: seen for uid, seen in memory.seen.items() if uid in living} | outcome.seen
        for action in outcome.applied:
            self._metrics.applied.labels(action.manifest["kind"], str(action.why)).inc()
        return outcome

    def _wanted(
        self,
        wallet: WalletManager,
        document: Document,
        children: Sequence[Document],
        memory: Memory,
        *,
        bootstrapped: bool,
    ) -> Wanted:
        generation = document["metadata"]["generation"]
        return Wanted(
            wallet=wallet,
            uid=memory.uid,
            generation=generation,
            operator_image=self._config.image,
            sync_generation=sync_generation(
                _child(children, role_name(wallet.metadata.name, Role.SYNC), memory.uid),
                generation,
                role_settings_hash(wallet, Role.SYNC),
                superseded_by(memory.reports.fresh(self._clock.monotonic())),
            ),
            bootstrapped=bootstrapped,
            network=self._network_rules(),
        )

    def _network_rules(self) -> NetworkRules | None:
        config = self._config
        if not config.network_policies:
            return None
        return NetworkRules(config.pod_namespace, config.monitoring_namespaces, config.egress_ports, config.dns_ports)

    def _decide(self, wanted: Wanted, children: Sequence[Document], key: Key, *, works: bool) -> Decision:
        target = desired(wanted)
        if wanted.wallet.spec.paused:
            self._turns.done(key)
            return Decision(target)
        held = hold_back(wanted, target, children)
        if held is None or self._turns.ask(key, works=works):
            return Decision(target)
        return replace(held, waits_for=self._turns.why_waiting(key))

    def _expected(self, wallet: WalletManager, *, bootstrapped: bool) -> frozenset[Role]:
        if not bootstrapped:
            return frozenset()
        return frozenset(DEPLOYED_ROLES) - ({Role.COMMAND} if wallet.spec.accounts.suspend else set())

    async def _ask_workers(
        self, key: Key, memory: Memory, pods: Sequence[WorkerPod], expected: frozenset[Role]
    ) -> None:
        answers = await ask_all(self._ask_pod, pods, qualified_name(*key))
        memory.reports.update(pods, answers, expected, self._clock.monotonic())

    def _with_workers(
        self, view: View, memory: Memory, children: Sequence[Document], pods: Sequence[WorkerPod], key: Key
    ) -> View:
        now = self._clock.monotonic()
        sync = _child(children, role_name(key[1], Role.SYNC), memory.uid)
        return replace(
            view,
            reports=tuple(memory.reports.fresh(now)),
            pods=tuple(pods),
            silent=memory.reports.silent(now),
            shards=((sync or {}).get("status") or {}).get("replicas", 0),
            selector=selector_text(key[1], Role.SYNC),
        )

    async def _report(self, document: Document, view: View) -> dict[str, Any]:
        """Write the status where it is due. Returns it."""
        key = (document["metadata"]["namespace"], document["metadata"]["name"])
        before = document.get("status") or {}
        status = next_status(view, before, self._clock.unix_time())
        self._metrics.say_ready(key, is_ready=_is_ready(status))
        if is_due(status, before, self._clock.unix_time()):
            await write_status(self._api, document, status)
        ready = status["conditions"][0]
        if (ready["status"], ready["reason"]) != _ready_of(before):
            log.info("ready", wallet="/".join(key), **{name: ready[name] for name in ("status", "reason", "message")})
            is_warning = ready["status"] == "False" and ready["reason"] != Reason.CATCHING_UP
            await self._say(document, ready["reason"], ready["message"] or "all roles do their work", is_warning)
        return status

    async def _say(self, document: Document, reason: str, message: str, is_warning: bool) -> None:
        unix_seconds = self._clock.unix_time()
        await record_event(self._api, document, reason, message, is_warning=is_warning, unix_seconds=unix_seconds)

    def _memory(self, key: Key, uid: str) -> Memory:
        memory = self._memories.get(key)
        if memory is None or memory.uid != uid:
            memory = self._memories[key] = Memory(uid)
        return memory

    def _forget(self, key: Key) -> None:
        self._memories.pop(key, None)
        self._claims.pop(key, None)
        self._turns.done(key)
        self._metrics.forget(key)


def sync_generation(
    running: Document | None, generation: int, settings_hash: str, superseded_by: int | None = None
) -> int:
    """The generation of sync's settings: the resource's when they changed last, and never one that was used before.

    `running` is the sync Deployment. Where the checkpoint is ahead all the same (the resource was made anew, or its
    Deployment lost) the workers say so, and the next generation is above the checkpoint's.
    """
    noted = int((running and annotation(running, "settings-generation")) or 0)
    is_same = running is not None and annotation(running, "settings-hash") == settings_hash
    wanted = noted if noted and is_same else max(generation, noted + 1)
    return wanted if superseded_by is None or superseded_by <= wanted else superseded_by + 1


def superseded_by(reports: Sequence[Report]) -> int | None:
    """The checkpoint's generation, where a worker of sync must not lead because its own is lower."""
    found = [
        number
        for report in reports
        if report.pod.role is Role.SYNC and isinstance(number := report.document.get("superseded_by"), int)
    ]
    return max(found, default=None)


def _child(children: Sequence[Document], name: str, uid: str) -> Document | None:
    return next(
        (
            document
            for document in children
            if identity(document) == (DEPLOYMENT.kind, name) and controller_uid(document) == uid
        ),
        None,
    )


def _bootstrap_waits(reports: Sequence[Report]) -> bool:
    """Whether a run of bootstrap says what it waits for, which is newer than what the last one failed with."""
    return any(report.pod.role is Role.BOOTSTRAP and report.document.get("troubles") for report in reports)


def _ready_of(status: Document) -> tuple[str, str] | None:
    for each in status.get("conditions") or ():
        if each["type"] == "Ready":
            return each["status"], each["reason"]
    return None


def _is_ready(status: Document) -> bool:
    return (_ready_of(status) or ("", ""))[0] == "True"
