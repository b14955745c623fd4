"""`walletctl account`: asks the wallet for accounts, as any other service would, over Kafka.

The same id and meta are the same command: asked again, it is answered again, with the same address. So an answer is
waited for from just before the command is sent, and a command whose answer did not come in time can be sent again.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar

import typer

from wallet_cli.exit_codes import EXIT_TIMEOUT
from wallet_cli.meta import MetaJsonOption, MetaOption, read_meta
from wallet_cli.output import Output, OutputOption, fail, show
from wallet_cli.running import RUN_DIRECTORY
from wallet_cli.wallet_file import FileOption, RunDirectoryOption, find_wallet
from wallet_core.canonical_json import CanonicalObject, canonical, parse
from wallet_core.commands import CREATE_ACCOUNT, decode_command
from wallet_core.errors import WalletError
from wallet_core.messages import Topic
from wallet_workers.adapters.kafka_clients import KafkaClients
from wallet_workers.adapters.kafka_follower import FollowedRecord, KafkaFollower
from wallet_workers.adapters.kafka_sender import KafkaSender

REPLY_SECONDS = 30.0
POLL_SECONDS = 1.0

_T = TypeVar("_T")

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Ask the running wallet for accounts.")


class Follower(Protocol):
    """See KafkaFollower."""

    async def start(self, *, from_beginning: bool) -> None:
        """Stand at the beginning, or at the end."""

    async def next_records(self, timeout_seconds: float) -> Sequence[FollowedRecord]:
        """What has come."""

    async def close(self) -> None:
        """Close the connection."""


class Sender(Protocol):
    """See KafkaSender."""

    async def send(self, topic: str, key: bytes | None, value: bytes | None) -> tuple[int, int]:
        """Write one message; its partition and offset."""

    async def close(self) -> None:
        """Close the connection."""


@dataclass(frozen=True)
class CommandTopics:
    """What the command line needs of Kafka to have one command carried out."""

    command: str
    """Full name of the topic `command`."""
    sender: Sender
    replies: Follower
    """Of `address.created`."""
    errors: Follower


@dataclass(frozen=True)
class AccountCommand:
    """One `create_account`."""

    id: str
    meta: CanonicalObject

    @property
    def value(self) -> bytes:
        """As it is sent."""
        return f'{{"id":{canonical(self.id)},"type":"{CREATE_ACCOUNT}","meta":{self.meta.text}}}'.encode()


class Refused(Exception):
    """The wallet answered on `errors`."""


@app.command()
def create(
    *,
    account_id: Annotated[str | None, typer.Option("--id", help="Your name for the account; else a new UUID.")] = None,
    meta: MetaOption = None,
    meta_json: MetaJsonOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the address.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.", min=0)] = REPLY_SECONDS,
    file: FileOption = None,
    run_directory: RunDirectoryOption = RUN_DIRECTORY,
    output: OutputOption = Output.TABLE,
) -> None:
    """Send a `create_account`; prints its id, and with --wait the account's address and path.

    The same id and meta always give the same address. Exit code 1: the wallet refused. 4: no answer in time.
    """
    command = AccountCommand(account_id if account_id is not None else str(uuid.uuid4()), read_meta(meta, meta_json))
    decode_command(command.value, ())  # what the wallet would refuse is not sent
    kafka = find_wallet(file, run_directory).spec.kafka
    clients, prefix = KafkaClients(kafka.bootstrap_servers), kafka.topic_prefix
    topics = CommandTopics(
        prefix + Topic.COMMAND,
        KafkaSender(clients),
        KafkaFollower(clients, prefix + Topic.ADDRESS_CREATED),
        KafkaFollower(clients, prefix + Topic.ERRORS),
    )
    try:
        answer = asyncio.run(ask(topics, command, timeout) if wait else send(topics, command))
    except Refused as error:
        fail(str(error))
    except TimeoutError:
        fail(
            f"no answer to id {command.id} within {timeout:g} s: see `walletctl status`. The command is not lost; "
            "the same --id and --meta again give the same account",
            EXIT_TIMEOUT,
        )
    show(answer, output)


async def send(topics: CommandTopics, command: AccountCommand) -> dict[str, object]:
    """Send the command, and say where it lies."""
    try:
        partition, offset = await topics.sender.send(topics.command, command.id.encode(), command.value)
    finally:
        await topics.sender.close()
    return {"id": command.id, "topic": topics.command, "partition": partition, "offset": offset}


async def ask(topics: CommandTopics, command: AccountCommand, timeout_seconds: float) -> dict[str, object]:
    """Send the command, and return its answer. Raises Refused, or TimeoutError."""
    async with AsyncExitStack() as stack:
        for follower in (topics.replies, topics.errors):  # before the sending: no answer can be too quick
            stack.push_async_callback(follower.close)
            await follower.start(from_beginning=False)
        sent = await send(topics, command)
        place = (topics.command, sent["partition"], sent["offset"])
        return await _first_of(
            _first(topics.replies, lambda record: read_reply(record, command)),
            _first(topics.errors, lambda record: _refusal(record, place)),
            timeout_seconds=timeout_seconds,
        )


def read_reply(record: FollowedRecord, command: AccountCommand) -> dict[str, object] | None:
    """What a record of `address.created` says, if it is the answer to this command."""
    reply = _json_object(record)
    try:
        if canonical(reply.get("id")) != canonical(command.id) or canonical(reply.get("meta")) != command.meta.text:
            return None
    except WalletError:
        return None
    return {"id": command.id, **{name: reply.get(name) for name in ("address", "path", "fingerprint")}}


def read_refusal(record: FollowedRecord, place: tuple[str, object, object]) -> str | None:
    """Error code and message of a record of `errors`, if it is about the message at that place."""
    try:
        event = json.loads(record.value or b"null")
        request = event["request"]
        if (request["topic"], request["partition"], request["offset"]) != place:
            return None
        return f"{event['error_code']}: {event['error_message']}"
    except (ValueError, TypeError, KeyError):
        return None


def _refusal(record: FollowedRecord, place: tuple[str, object, object]) -> None:
    if refusal := read_refusal(record, place):
        raise Refused(refusal)


def _json_object(record: FollowedRecord) -> dict[str, Any]:
    try:
        content = parse((record.value or b"").decode())
    except (WalletError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


async def _first(follower: Follower, pick: Callable[[FollowedRecord], _T | None]) -> _T:
    while True:
        for record in await follower.next_records(POLL_SECONDS):
            if (found := pick(record)) is not None:
                return found


async def _first_of(*waiting: Coroutine[Any, Any, _T], timeout_seconds: float) -> _T:
    """The first outcome, result or error; the others are given up. Raises TimeoutError."""
    tasks = [asyncio.create_task(each) for each in waiting]
    try:
        done, _ = await asyncio.wait(tasks, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if not done:
        raise TimeoutError
    return done.pop().result()
