"""`walletctl sync`: orders to the leader of sync, for the people on call.

An order is one message on `orders`. What became of it is read from the state topic, which walletctl never writes. The
leader looks for orders every second or so; a halted one too, and does a rewind. A wallet that lost its checkpoint has
no leader: there the order is carried out by bootstrap, so start that again.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from wallet_cli.account import Sender
from wallet_cli.exit_codes import EXIT_NO, EXIT_TIMEOUT
from wallet_cli.output import Output, OutputOption, fail, show
from wallet_cli.running import RUN_DIRECTORY
from wallet_cli.wallet_file import FileOption, RunDirectoryOption, find_wallet
from wallet_core.checkpoint import CHECKPOINT_KEY, read_orders, read_state
from wallet_core.messages import Topic
from wallet_core.orders import BLOCK_NUMBER_MAX, Cancel, Order, OrderState, OrderStatus, Rescan, Rewind
from wallet_core.ports import StateView
from wallet_core.resource import WalletManager
from wallet_workers.adapters.kafka_clients import KafkaClients
from wallet_workers.adapters.kafka_sender import KafkaSender
from wallet_workers.adapters.kafka_state import KafkaStateView

WAIT_SECONDS = 3600.0
POLL_SECONDS = 1.0

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Order the leader of sync to read blocks again.")

WaitOption = Annotated[bool, typer.Option("--wait", help="Wait for the outcome, and show how far it is.")]
TimeoutOption = Annotated[float, typer.Option(help="Seconds to wait.", min=0)]


@dataclass(frozen=True)
class OrderTopics:
    """What the command line needs of Kafka to have one order carried out."""

    orders: str
    """Full name of the topic `orders`."""
    sender: Sender
    state: StateView


@app.command()
def rescan(
    *,
    from_block: Annotated[int, typer.Option("--from", help="First block.", min=0, max=BLOCK_NUMBER_MAX)],
    to_block: Annotated[
        int | None, typer.Option("--to", help="Last block; else the newest one.", min=0, max=BLOCK_NUMBER_MAX)
    ] = None,
    wait: WaitOption = False,
    timeout: TimeoutOption = WAIT_SECONDS,
    file: FileOption = None,
    run_directory: RunDirectoryOption = RUN_DIRECTORY,
    output: OutputOption = Output.TABLE,
) -> None:
    """Read settled blocks again, and publish the deposits that were missed.

    For an address or an asset that was added later. Beside the head, which goes on. Exit code 1: refused. 4: not done
    in time; the order is not lost.
    """
    topics = _topics(find_wallet(file, run_directory))
    order = Rescan(id=_new_id(), type="rescan", from_block=from_block, to_block=to_block)
    _carry_out(topics, order, timeout if wait else None, output)


@app.command()
def rewind(
    *,
    to: Annotated[int, typer.Option("--to", help="A settled block; the next one is read again.", min=0)],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: WaitOption = False,
    timeout: TimeoutOption = WAIT_SECONDS,
    file: FileOption = None,
    run_directory: RunDirectoryOption = RUN_DIRECTORY,
    output: OutputOption = Output.TABLE,
) -> None:
    """Go back to a settled block, take back what the chain no longer has, and follow it anew.

    The way out of ForkBelowWindow and of CheckpointLost. Nothing is published twice. Exit code 1: refused, or not
    wanted. 4: not done in time; the order is not lost.
    """
    topics = _topics(find_wallet(file, run_directory))
    values = asyncio.run(topics.state.read())
    is_lost = CHECKPOINT_KEY not in values
    if not yes and not typer.confirm(f"{describe(values)} Rewind to block {to}?", err=True):
        raise typer.Exit(EXIT_NO)
    order = Rewind(id=_new_id(), type="rewind", to=to, after_loss=is_lost)
    if is_lost:
        typer.echo("there is no checkpoint: bootstrap carries the order out when it runs next", err=True)
    _carry_out(topics, order, timeout if wait else None, output)


@app.command()
def cancel(
    order_id: Annotated[str, typer.Argument(metavar="ORDER", help="The id that the order was sent with.")],
    *,
    wait: WaitOption = False,
    timeout: TimeoutOption = WAIT_SECONDS,
    file: FileOption = None,
    run_directory: RunDirectoryOption = RUN_DIRECTORY,
    output: OutputOption = Output.TABLE,
) -> None:
    """End an order that waits or is under way. What it has published holds.

    A rewind that has taken something back cannot be ended. Exit code 1: refused. 4: not done in time.
    """
    try:
        order = Cancel(id=_new_id(), type="cancel", order=order_id)
    except ValidationError:
        fail(f"{order_id} is no order's id")
    _carry_out(_topics(find_wallet(file, run_directory)), order, timeout if wait else None, output)


def describe(values: Mapping[bytes, bytes]) -> str:
    """Where the wallet stands, in a sentence."""
    if CHECKPOINT_KEY not in values:
        return "The wallet has no checkpoint."
    state = read_state(values)
    return f"The wallet is at block {state.window.tip.number}, the newest settled one is {state.window.base.number}."


async def send(topics: OrderTopics, order: Order) -> int:
    """Send the order; its offset."""
    value = order.model_dump_json(exclude_none=True, exclude_defaults=True).encode()
    try:
        return (await topics.sender.send(topics.orders, None, value))[1]
    finally:
        await topics.sender.close()


async def follow(
    state: StateView,
    order_id: str,
    show_progress: Callable[[OrderState], None],
    is_late: Callable[[], bool],
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> OrderState:
    """What became of an order in the end. Raises TimeoutError."""
    while True:
        found = next((order for order in read_orders(await state.read()) if order.id == order_id), None)
        if found is not None:
            show_progress(found)
            if found.status.is_final:
                return found
        if is_late():
            raise TimeoutError
        await pause(POLL_SECONDS)


def _carry_out(topics: OrderTopics, order: Order, timeout: float | None, output: Output) -> None:
    offset = asyncio.run(send(topics, order))
    if timeout is None:
        show({"id": order.id, "topic": topics.orders, "offset": offset}, output)
        return
    deadline = time.monotonic() + timeout
    with _Bar(order, shown=output is Output.TABLE and sys.stderr.isatty()) as bar:
        try:
            outcome = asyncio.run(follow(topics.state, order.id, bar, lambda: time.monotonic() >= deadline))
        except TimeoutError:
            outcome = None
    if outcome is None:
        fail(
            f"order {order.id} is not done after {timeout:g} s: see `walletctl status`. The order is not lost",
            EXIT_TIMEOUT,
        )
    if outcome.status is not OrderStatus.DONE:
        fail(f"order {order.id} was {outcome.status.value}: {outcome.message}")
    show(
        {
            "id": outcome.id,
            "status": outcome.status.value,
            "published": outcome.published,
            "message": outcome.message,
        },
        output,
    )


class _Bar:
    """Shows how far an order is, on stderr."""

    def __init__(self, order: Order, *, shown: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True)
        self._task = self._progress.add_task(f"{order.type}: sent", total=None)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, order: OrderState) -> None:
        blocks = order.to_block - order.from_block + 1 if order.type == "rescan" else None
        self._progress.update(
            self._task,
            description=f"{order.type}: {order.status.value}, {order.published} events {order.message}",
            total=blocks,
            completed=max(order.next_block - order.from_block, 0) if blocks else 0,
        )


def _topics(wallet: WalletManager) -> OrderTopics:
    kafka = wallet.spec.kafka
    clients = KafkaClients(kafka.bootstrap_servers)
    return OrderTopics(
        kafka.topic_prefix + Topic.ORDERS,
        KafkaSender(clients),
        KafkaStateView(clients, kafka.topic_prefix + Topic.STATE_SYNC),
    )


def _new_id() -> str:
    return uuid.uuid4().hex
