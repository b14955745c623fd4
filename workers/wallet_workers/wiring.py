"""Where ports meet adapters: what each role's loop is given in production.

Each role has one async context manager that opens its adapters and closes them in reverse. The loops never see an
adapter, and whoever wants to put something between the two (a test that kills the process at the n-th effect) wraps the
ports that come out here.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from wallet_core.errors import InvalidSetting, SecretMissing
from wallet_core.messages import Topic
from wallet_core.ports import Clock
from wallet_core.resource import (
    ChainFinality,
    ChainFollowing,
    KafkaConnection,
    Redis,
    RpcEndpoint,
    SecretSource,
    TransactionTuning,
    check_redis_url,
)
from wallet_core.settings import BootstrapSettings, CommandSettings, RoleSettings, SyncSettings
from wallet_core.spans import CUT_LIFE_SECONDS
from wallet_workers.adapters.endpoints import EndpointStatus
from wallet_workers.adapters.ethereum import EthereumNodes
from wallet_workers.adapters.json_rpc import Endpoint, Fault
from wallet_workers.adapters.kafka_addresses import KafkaAddressFeed
from wallet_workers.adapters.kafka_clients import KafkaClients
from wallet_workers.adapters.kafka_commands import KafkaCommandQueue
from wallet_workers.adapters.kafka_ledger import KafkaLedger
from wallet_workers.adapters.kafka_orders import KafkaOrderFeed
from wallet_workers.adapters.kafka_published import KafkaPublishedEvents
from wallet_workers.adapters.kafka_state import KafkaStateView
from wallet_workers.adapters.kafka_topics import KafkaTopicAdmin
from wallet_workers.adapters.redis import RedisLock, RedisServer
from wallet_workers.adapters.redis_spans import RedisSpanBoard
from wallet_workers.adapters.secret_files import SecretKeyFile
from wallet_workers.bootstrap import BootstrapPorts
from wallet_workers.command import CommandPorts
from wallet_workers.metrics import Metrics
from wallet_workers.status import WorkerStatus
from wallet_workers.stopping import Stopping
from wallet_workers.sync import SyncPorts

log = structlog.get_logger()

SECRET_POLL_SECONDS = 1.0


@dataclass
class Process:
    """What belongs to the process and not to a role."""

    clock: Clock
    stopping: Stopping
    status: WorkerStatus
    metrics: Metrics
    secrets: Path
    """The directory of secret files."""
    kafka_clients: Callable[[str], KafkaClients] = KafkaClients
    """Makes the Kafka clients for some bootstrap servers."""
    facts: Callable[[], Mapping[str, object]] = field(default=dict)
    """What adapters add to `/status`."""


class Stopped(Exception):
    """The process was asked to stop while it waited for a secret."""


@contextlib.asynccontextmanager
async def bootstrap_ports(settings: BootstrapSettings, process: Process) -> AsyncIterator[BootstrapPorts]:
    """The ports of `bootstrap`."""
    clients = process.kafka_clients(settings.kafka.bootstrap_servers)
    redis_url = await _redis_url(settings.redis, process)
    async with contextlib.AsyncExitStack() as stack:
        ledger = _ledger(settings, settings.kafka, settings.tuning.transaction_timeout_seconds, clients)
        stack.push_async_callback(ledger.close)
        yield BootstrapPorts(
            clock=process.clock,
            node=await stack.enter_async_context(await _node(settings.chain, process)),
            topics=KafkaTopicAdmin(clients, topic_prefix=settings.kafka.topic_prefix),
            ledger=ledger,
            state=KafkaStateView(clients, settings.kafka.topic_prefix + Topic.STATE_SYNC),
            redis=RedisServer(redis_url),
            orders=_orders(settings.kafka, clients, stack),
            published=_published(settings.kafka, settings.tuning, clients),
        )


@contextlib.asynccontextmanager
async def command_ports(settings: CommandSettings, process: Process) -> AsyncIterator[CommandPorts]:
    """The ports of `command`."""
    clients = process.kafka_clients(settings.kafka.bootstrap_servers)
    async with contextlib.AsyncExitStack() as stack:
        queue = KafkaCommandQueue(
            clients,
            topic_prefix=settings.kafka.topic_prefix,
            topic=Topic.COMMAND,
            group=f"{settings.qualified_name}.command",
            transaction_timeout_ms=settings.tuning.transaction_timeout_seconds * 1000,
        )
        stack.push_async_callback(queue.close)
        yield CommandPorts(
            clock=process.clock,
            queue=queue,
            state=KafkaStateView(clients, settings.kafka.topic_prefix + Topic.STATE_SYNC),
            xpub=SecretKeyFile(process.secrets, settings.accounts.xpub_from),
        )


@contextlib.asynccontextmanager
async def sync_ports(settings: SyncSettings, process: Process) -> AsyncIterator[SyncPorts]:
    """The ports of `sync`."""
    clients = process.kafka_clients(settings.kafka.bootstrap_servers)
    redis_url = await _redis_url(settings.redis, process)
    async with contextlib.AsyncExitStack() as stack:
        node = await stack.enter_async_context(await _node(settings.chain, process))
        process.facts = lambda: {"endpoints": [_endpoint_fact(status) for status in node.endpoints_status()]}
        ledger = _ledger(settings, settings.kafka, settings.tuning.transaction_timeout_seconds, clients)
        stack.push_async_callback(ledger.close)
        feed = KafkaAddressFeed(clients, topic_prefix=settings.kafka.topic_prefix, partitions=settings.kafka.partitions)
        stack.push_async_callback(feed.close)
        lock = RedisLock(
            redis_url,
            name=f"{{{settings.qualified_name}}}:lock:sync",
            ttl_ms=settings.tuning.lock_ttl_seconds * 1000,
            clock=process.clock,
        )
        stack.push_async_callback(lock.close)
        board = RedisSpanBoard(
            redis_url,
            prefix=f"{{{settings.qualified_name}}}:spans",
            claim_ttl_ms=settings.tuning.lock_ttl_seconds * 1000,
            cut_ttl_ms=CUT_LIFE_SECONDS * 1000,
        )
        stack.push_async_callback(board.close_connections)
        yield SyncPorts(
            clock=process.clock,
            node=node,
            ledger=ledger,
            feed=feed,
            lock=lock,
            board=board,
            orders=_orders(settings.kafka, clients, stack),
            published=_published(settings.kafka, settings.tuning, clients),
        )


def _orders(kafka: KafkaConnection, clients: KafkaClients, stack: contextlib.AsyncExitStack) -> KafkaOrderFeed:
    feed = KafkaOrderFeed(clients, topic_prefix=kafka.topic_prefix)
    stack.push_async_callback(feed.close)
    return feed


def _published(kafka: KafkaConnection, tuning: TransactionTuning, clients: KafkaClients) -> KafkaPublishedEvents:
    stall_seconds = tuning.transaction_timeout_seconds + clients.request_timeout_ms / 1000
    return KafkaPublishedEvents(clients, topic_prefix=kafka.topic_prefix, stall_seconds=stall_seconds)


def _ledger(
    settings: RoleSettings, kafka: KafkaConnection, transaction_timeout_seconds: int, clients: KafkaClients
) -> KafkaLedger:
    return KafkaLedger(
        clients,
        topic_prefix=kafka.topic_prefix,
        state_topic=Topic.STATE_SYNC,
        transactional_id=f"{settings.qualified_name}/{kafka.topic_prefix}{Topic.STATE_SYNC}",
        transaction_timeout_ms=transaction_timeout_seconds * 1000,
    )


async def _node(chain: ChainFinality, process: Process) -> AbstractAsyncContextManager[EthereumNodes]:
    return EthereumNodes(
        [await _endpoint(endpoint, process) for endpoint in chain.rpc],
        chain_id=chain.id,
        with_finalized=chain.confirmation.tag is not None,
        clock=process.clock,
        events=_RpcMetrics(process.metrics),
        quorum=chain.quorum,
        verify=chain.verify,
        stale_after_seconds=chain.stale_after_seconds if isinstance(chain, ChainFollowing) else 0,
    )


async def _endpoint(endpoint: RpcEndpoint, process: Process) -> Endpoint:
    return Endpoint(await _value_or_secret(endpoint.url, endpoint.url_from, process), endpoint.ws_url)


async def _redis_url(redis: Redis, process: Process) -> str:
    try:
        return check_redis_url(await _value_or_secret(redis.url, redis.url_from, process))
    except ValueError as error:
        raise InvalidSetting("redis.urlFrom", str(error)) from None


async def _value_or_secret(value: str | None, source: SecretSource | None, process: Process) -> str:
    """The value itself, or the secret's as soon as its file is there."""
    if source is None:
        return value or ""
    file = SecretKeyFile(process.secrets, source)
    while not process.stopping:
        process.status.beat()
        try:
            secret = file.read()
        except SecretMissing as error:
            process.status.trouble(error)
            await process.stopping.pause(SECRET_POLL_SECONDS)
        else:
            process.status.clear("secret")
            return secret
    raise Stopped


def _endpoint_fact(status: EndpointStatus) -> Mapping[str, object]:
    return {
        "number": status.number,
        "origin": status.origin,
        "usable": status.is_usable,
        "last_error": status.last_error,
        "announces_heads": status.announces_heads,
        "announcement_error": status.announcement_error,
        "traces": status.traces,
    }


class _RpcMetrics:
    """`EndpointEvents` as metrics and log lines."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def request_ended(self, endpoint: int, method: str, seconds: float) -> None:
        self._metrics.rpc_seconds.labels(str(endpoint), method).observe(seconds)

    def endpoint_failed(self, endpoint: int, fault: Fault) -> None:
        self._metrics.rpc_errors.labels(str(endpoint), fault.value).inc()

    def endpoint_changed(self, status: EndpointStatus) -> None:
        self._metrics.rpc_usable.labels(str(status.number)).set(status.is_usable)
        log.info(
            "rpc_endpoint", number=status.number, origin=status.origin, usable=status.is_usable, error=status.last_error
        )
