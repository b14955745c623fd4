"""The role `bootstrap`: makes the wallet's topics and its first checkpoint, and checks what all others rely on.

It may run at any time, any number of times, beside running workers: where a checkpoint exists it starts no producer and
changes nothing. What is away for a moment is tried again, for ever, with the reason in `/status`; what a person must
mend ends the process with the list of everything that is wrong, not only the first.

The first checkpoint is written only if `address.created` and `transaction` never held a record. A wallet that has
already spoken and has no checkpoint lost it: to begin anew would leave out blocks, or say things twice. Then only the
order of a person goes on (`after_loss`). The same holds where whoever started it knows that the wallet has had a
checkpoint (`bootstrapped`): topics that are empty then are those of another Kafka, or of one that lost its disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from wallet_core.blocks import Head
from wallet_core.chain import BlockRef, Rules, Window, settled_number
from wallet_core.checkpoint import (
    CHECKPOINT_KEY,
    Identity,
    SyncState,
    check_identity,
    identity_record,
    read_identity,
    state_records,
)
from wallet_core.errors import CheckpointCorrupt, Halt, OutcomeUnknown, RpcUnreachable, Superseded, Unavailable
from wallet_core.messages import Topic
from wallet_core.ports import Clock, Ledger, Node, OrderFeed, PublishedEvents, StateView, TopicAdmin
from wallet_core.settings import BootstrapSettings
from wallet_core.topics import check_topics, missing_topics, plan_topics
from wallet_workers.after_loss import state_after_loss
from wallet_workers.metrics import Metrics
from wallet_workers.status import WorkerStatus, part_of
from wallet_workers.stopping import BackOff, Stopping

log = structlog.get_logger()


class RedisServer(Protocol):
    """Whether Redis answers."""

    async def ping(self) -> None:
        """Raises RedisUnreachable."""


@dataclass(frozen=True)
class BootstrapPorts:
    """What the role needs from the world."""

    clock: Clock
    node: Node
    topics: TopicAdmin
    ledger: Ledger
    state: StateView
    redis: RedisServer
    orders: OrderFeed
    published: PublishedEvents


class BootstrapFailed(Exception):
    """Everything that a person must mend."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Bootstrap:
    """One run of the role."""

    def __init__(
        self,
        settings: BootstrapSettings,
        ports: BootstrapPorts,
        status: WorkerStatus,
        metrics: Metrics,
        stopping: Stopping,
    ) -> None:
        self._settings = settings
        self._ports = ports
        self._status = status
        self._metrics = metrics
        self._stopping = stopping

    async def run(self) -> None:
        """Until the wallet has topics and a checkpoint. Raises BootstrapFailed with all that a person must mend."""
        back_off = BackOff(self._stopping)
        while not self._stopping:
            self._status.beat()
            problems, waiting = await self._check_all()
            if problems:
                raise BootstrapFailed(problems)
            if not waiting:
                return
            await back_off.pause()
        raise BootstrapFailed(["stopped before the wallet had its topics and a checkpoint"])

    async def _check_all(self) -> tuple[list[str], bool]:
        """What is wrong for good, and whether something was away: every part is tried."""
        problems: list[str] = []
        waiting = False
        in_trouble = set()
        for check in (self._ports.redis.ping, self._check_node, self._prepare):
            try:
                await check()
            except Unavailable as error:
                self._metrics.retries.labels(error.error_code).inc()
                self._status.trouble(error)
                in_trouble.add(part_of(error))
                waiting = True
            except (OutcomeUnknown, Superseded) as error:
                self._metrics.retries.labels(error.error_code).inc()
                log.warning("begun_again", error_code=error.error_code, message=str(error))
                waiting = True
            except Halt as error:
                problems.append(f"{type(error).__name__}: {error}")
            except BootstrapFailed as error:
                problems += error.problems
        self._status.clear(*({"redis", "node", "kafka"} - in_trouble))
        return problems, waiting

    async def _check_node(self) -> None:
        await self._ports.node.head()

    async def _prepare(self) -> None:
        """Topics, identity and the first checkpoint."""
        plans = plan_topics(self._settings.kafka.partitions, self._settings.kafka.replication_factor)
        names = [plan.name for plan in plans]
        found = await self._ports.topics.describe(names)
        missing = missing_topics(plans, found)
        if missing and self._settings.kafka.create_topics:
            await self._ports.topics.create(missing)
            log.info("topics_created", topics=[plan.name for plan in missing])
            found = await self._ports.topics.describe(names)
        if problems := check_topics(plans, found, self._settings.kafka.topic_prefix):
            raise BootstrapFailed(problems)
        spoken = [topic for topic in (Topic.ADDRESS_CREATED, Topic.TRANSACTION) if not found[topic].is_empty]

        values = await self._ports.state.read()
        if CHECKPOINT_KEY in values:
            await self._check_owner(values)
            log.info("checkpoint_exists")
            return
        recovered = await self._ports.ledger.recover()
        await self._check_owner(recovered.values)
        if CHECKPOINT_KEY in recovered.values:
            log.info("checkpoint_exists")
            return
        genesis = await self._ports.node.agreed_header(0)
        self._ports.node.expect_genesis(genesis.hash)  # nobody of another chain says where the wallet begins
        head = await self._ports.node.head()
        if spoken or self._settings.bootstrapped:
            rules = Rules(self._settings.chain.confirmation.depth, self._settings.chain.settle_depth)
            ports = self._ports
            state = await state_after_loss(spoken, rules, head, ports.node, ports.orders, ports.published, self._status)
        else:
            state = SyncState(Window(await self._first_base(head)))
        records = [identity_record(self._identity(genesis.hash)), *state_records(None, state)]
        await self._ports.ledger.append(recovered.position, records)
        log.info("checkpoint_created", block=state.window.base.number, block_hash=state.window.base.hash)

    def _identity(self, genesis_hash: str) -> Identity:
        return Identity(
            self._settings.namespace,
            self._settings.name,
            self._settings.chain.id,
            genesis_hash,
            self._settings.accounts.fingerprint,
        )

    async def _check_owner(self, values: Mapping[bytes, bytes]) -> None:
        found = read_identity(values)
        if found is None and CHECKPOINT_KEY in values:
            raise CheckpointCorrupt("state.sync holds a checkpoint and no identity")
        if found is not None:
            check_identity(
                found,
                namespace=self._settings.namespace,
                name=self._settings.name,
                chain_id=self._settings.chain.id,
                fingerprint=self._settings.accounts.fingerprint,
            )
            self._ports.node.expect_genesis(found.genesis_hash)
            await self._ports.node.header(0)

    async def _first_base(self, head: Head) -> BlockRef:
        """The settled block under the first one that is scanned."""
        rules = Rules(self._settings.chain.confirmation.depth, self._settings.chain.settle_depth)
        if rules.confirmation_depth is None and head.finalized is None and head.tip.number >= rules.settle_depth:
            raise RpcUnreachable("the node names no finalized block, which confirmation: {tag: finalized} needs")
        number = settled_number(rules, head)
        start = self._settings.chain.start_block
        if start != "latest":
            if start > head.tip.number + 1:
                raise RpcUnreachable(
                    f"the node's newest block {head.tip.number} is below spec.chain.startBlock {start}: "
                    "wait until the node is in sync, or lower startBlock"
                )
            number = min(number, max(start - 1, 0))
        header = await self._ports.node.agreed_header(number)
        return BlockRef(header.number, header.hash)
