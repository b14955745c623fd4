"""The role `command`: answers every message of the topic `command` exactly once for `read_committed` readers.

A batch of one partition becomes one transaction: replies, errors, and the batch's consumption. Deriving an address
needs nothing but the message and the account's public key, so there is nothing to look up, race for, or lose. A bad
command becomes an event on `errors` and never stops its partition; so does one that runs into a fault of ours, with
where it happened.

Nothing is answered before a checkpoint exists: from it on every published address is watched. After any failure of the
queue the process ends and is started again, for half an assignment cannot be mended in place (see
`ports.CommandQueue`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from wallet_core.accounts import AccountKey, command_reply
from wallet_core.checkpoint import CHECKPOINT_KEY, check_identity, read_identity
from wallet_core.errors import BadCommand, Halt, SecretMissing, Unavailable
from wallet_core.messages import WATCH_PREFIX, Record, error_record, event_source
from wallet_core.ports import Clock, CommandMessage, CommandQueue, SecretFile, StateView
from wallet_core.reasons import Reason
from wallet_core.settings import CommandSettings
from wallet_workers.metrics import Metrics
from wallet_workers.status import WorkerStatus
from wallet_workers.stopping import HALT_RECHECK_SECONDS, BackOff, Stopping

log = structlog.get_logger()

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class CommandPorts:
    """What the role needs from the world."""

    clock: Clock
    queue: CommandQueue
    state: StateView
    xpub: SecretFile


class CommandWorker:
    """One replica of the role."""

    def __init__(
        self,
        settings: CommandSettings,
        ports: CommandPorts,
        status: WorkerStatus,
        metrics: Metrics,
        stopping: Stopping,
    ) -> None:
        self._settings = settings
        self._ports = ports
        self._status = status
        self._metrics = metrics
        self._stopping = stopping
        self._source = event_source(settings.namespace, settings.name)

    async def run(self) -> None:
        """Wait for key and checkpoint, then answer until the stop. Raises KafkaUnreachable: the process must end."""
        key = await self._key()
        await self._join(key)
        while key and not self._stopping:
            self._status.beat()
            batch = await self._ports.queue.next_batch(POLL_SECONDS)
            self._status.progress(Reason.WORKING)
            self._status.fact(partitions=list(self._ports.queue.assigned_partitions))
            if batch:
                await self._ports.queue.commit(batch, [self._answer(message, key) for message in batch])

    async def _key(self) -> AccountKey | None:
        """The account's public key, once its file is there and holds the right one; None where the stop came first."""
        while not self._stopping:
            self._status.beat()
            try:
                key = AccountKey.from_xpub(self._ports.xpub.read(), self._settings.accounts.fingerprint)
            except SecretMissing as error:
                self._status.trouble(error)
                await self._stopping.pause(POLL_SECONDS)
            except Halt as error:
                self._status.trouble(error)
                await self._stopping.pause(HALT_RECHECK_SECONDS)
            else:
                self._status.clear("secret", "halt")
                return key
        return None

    async def _join(self, key: AccountKey | None) -> None:
        """Join the group, once there is a checkpoint and the topics are this wallet's."""
        back_off = BackOff(self._stopping)
        while key and not self._stopping:
            self._status.beat()
            try:
                if await self._has_checkpoint(key):
                    await self._ports.queue.start()
                    self._status.clear("halt")
                    return
            except Unavailable as error:
                self._metrics.retries.labels(error.error_code).inc()
                self._status.trouble(error)
            except Halt as error:
                self._status.trouble(error)
                await self._stopping.pause(HALT_RECHECK_SECONDS)
            await back_off.pause()

    async def _has_checkpoint(self, key: AccountKey) -> bool:
        """Whether this wallet's checkpoint exists. Raises TopicsOfAnotherWallet for another wallet's."""
        values = await self._read_state()
        identity = read_identity(values)
        if identity is None or CHECKPOINT_KEY not in values:
            self._status.fact(waiting_for="the first checkpoint, which bootstrap writes")
            return False
        check_identity(
            identity,
            namespace=self._settings.namespace,
            name=self._settings.name,
            chain_id=self._settings.chain.id,
            fingerprint=key.fingerprint,
        )
        self._status.fact(waiting_for=None)
        return True

    async def _read_state(self) -> Mapping[bytes, bytes]:
        values = await self._ports.state.read()
        self._status.clear("kafka")
        return values

    def _answer(self, message: CommandMessage, key: AccountKey) -> Record:
        try:
            record = command_reply(key, message, chain_id=self._settings.chain.id, source=self._source)
        except BadCommand as error:
            outcome, record = error.error_code, error_record(message, error, self._source)
            log.info("command_refused", partition=message.partition, offset=message.offset, error_code=outcome)
        except Exception as error:  # one command's fault, even ours, must not stop the commands behind it
            outcome, record = "internal_error", error_record(message, error, self._source)
            log.exception("command_failed", partition=message.partition, offset=message.offset)
        else:
            watched = record.key.startswith(WATCH_PREFIX.encode())
            outcome, event = ("watched", "address_watched") if watched else ("created", "account_created")
            log.info(event, partition=message.partition, offset=message.offset, address=record.key.decode())
        self._metrics.commands.labels(outcome).inc()
        return record
