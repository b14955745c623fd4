"""`walletctl watch`: the wallet's events as they are committed, one line each.

Only committed events are shown (`read_committed`): an aborted one is nobody's money. Where Kafka goes away the watch
says so and goes on when it is back, at the event where it was.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from wallet_cli.account import POLL_SECONDS, Follower
from wallet_cli.exit_codes import EXIT_USAGE
from wallet_cli.output import Output, OutputOption, fail
from wallet_cli.running import RUN_DIRECTORY
from wallet_cli.wallet_file import FileOption, RunDirectoryOption, find_wallet
from wallet_core.addresses import lower_hex, parse_address
from wallet_core.errors import KafkaUnreachable
from wallet_core.messages import Topic, TransactionEvent
from wallet_workers.adapters.backoff import backoff_seconds
from wallet_workers.adapters.kafka_clients import KafkaClients
from wallet_workers.adapters.kafka_follower import FollowedRecord, KafkaFollower

_STYLES = {"detected": "yellow", "confirmed": "green", "orphaned": "bold red"}
_STATUS_WIDTH = max(map(len, _STYLES))
_EVENT_ID_SHORT = 12


def watch(
    *,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="All events that there ever were, then the new ones.")
    ] = False,
    address: Annotated[str | None, typer.Option(help="Events of this account only.")] = None,
    count: Annotated[int | None, typer.Option(help="End after so many events.", min=1)] = None,
    file: FileOption = None,
    run_directory: RunDirectoryOption = RUN_DIRECTORY,
    output: OutputOption = Output.TABLE,
) -> None:
    """Print deposits as they are detected, confirmed or orphaned.

    Until Ctrl-C, or until there were --count. With -o json each event is one line of JSON.
    """
    wanted = _checked(address)
    kafka = find_wallet(file, run_directory).spec.kafka
    follower = KafkaFollower(KafkaClients(kafka.bootstrap_servers), kafka.topic_prefix + Topic.TRANSACTION)
    console = Console(highlight=False, soft_wrap=True)

    def show_event(record: FollowedRecord, event: TransactionEvent) -> None:
        if output is Output.JSON:
            sys.stdout.write(event.model_dump_json(by_alias=True) + "\n")
            sys.stdout.flush()
        else:
            console.print(line_of(record, event))

    if sys.stderr.isatty():
        typer.echo("watching deposits; Ctrl-C ends this", err=True)
    with suppress(KeyboardInterrupt):
        asyncio.run(follow(follower, show_event, _warn, from_beginning=from_beginning, address=wanted, count_max=count))


async def follow(
    follower: Follower,
    show_event: Callable[[FollowedRecord, TransactionEvent], None],
    warn: Callable[[str], None],
    *,
    from_beginning: bool = False,
    address: str | None = None,
    count_max: int | None = None,
    pause_seconds: Callable[[int], float] = backoff_seconds,
) -> None:
    """Show each event, of one address (lower-case) or of all, until there were `count_max`.

    After the n-th failure in a row to hear of Kafka it waits for `pause_seconds(n)`.
    """
    count = 0
    try:
        await follower.start(from_beginning=from_beginning)
        async for records in _batches(follower, warn, pause_seconds):
            for record, event in read_events(records, warn):
                if address is None or event.to.lower() == address:
                    show_event(record, event)
                    count += 1
                    if count == count_max:
                        return
    finally:
        await follower.close()


def read_events(
    records: Sequence[FollowedRecord], warn: Callable[[str], None]
) -> list[tuple[FollowedRecord, TransactionEvent]]:
    """The events of some records, in the order in which the wallet wrote them."""
    events = []
    for record in records:
        try:
            events.append((record, TransactionEvent.model_validate_json(record.value or b"")))
        except ValidationError:
            warn(f"partition {record.partition}, offset {record.offset}: no event that this release knows; left out")
    return sorted(events, key=lambda pair: pair[1].sequence)


def line_of(record: FollowedRecord, event: TransactionEvent) -> Text:
    """One event for a person to read."""
    written_at = datetime.fromtimestamp(record.timestamp_ms / 1000, tz=UTC).astimezone()
    confirmations = f"{event.confirmations} confirmation{'' if event.confirmations == 1 else 's'}"
    return Text.assemble(
        (f"{written_at:%Y-%m-%d %H:%M:%S}  ", "dim"),
        (f"{event.status:<{_STATUS_WIDTH}}  ", _STYLES[event.status]),
        (f"{event.value} {event.asset.symbol}", "bold"),
        f" to {event.to}  block {event.block_number}, {confirmations}  ",
        (f"event {event.event_id[:_EVENT_ID_SHORT]}…", "dim"),
    )


async def _batches(
    follower: Follower, warn: Callable[[str], None], pause_seconds: Callable[[int], float]
) -> AsyncIterator[Sequence[FollowedRecord]]:
    failures = 0
    while True:
        try:
            records = await follower.next_records(POLL_SECONDS)
        except KafkaUnreachable as error:
            failures += 1
            if failures == 1:
                warn(f"Kafka does not answer ({error}); going on when it is back")
            await asyncio.sleep(pause_seconds(failures))
        else:
            if failures:
                warn("Kafka is back")
            failures = 0
            yield records


def _warn(line: str) -> None:
    typer.echo(line, err=True)


def _checked(address: str | None) -> str | None:
    if address is None:
        return None
    try:
        return lower_hex(parse_address(address))
    except ValueError as error:
        fail(f"--address: {error}", EXIT_USAGE)
