"""`walletctl watch`: which events are shown, in which order, and that Kafka's absence does not end it."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from rich.console import Console

from wallet_cli.watch import follow, line_of, read_events
from wallet_core.errors import KafkaUnreachable
from wallet_core.messages import TransactionAsset, TransactionEvent
from wallet_workers.adapters.kafka_follower import FollowedRecord

ALICE, BOB = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"
MIDNIGHT_MS = 1_767_225_600_000


def _event(sequence: int, to: str = ALICE, status: str = "detected", confirmations: int = 1) -> TransactionEvent:
    return TransactionEvent(
        event_id="0123456789abcdef" * 4, sequence=sequence, type="deposit", status=status, txid="0x" + "1" * 64,
        value="1.5", amount="1500000000000000000", to=to, from_=BOB,
        asset=TransactionAsset(symbol="ETH", contract=None, decimals=18), chain_id=1337, block_number=7,
        block_hash="0x" + "2" * 64, timestamp=1, confirmations=confirmations,
    )  # fmt: skip


def _record(event: TransactionEvent, partition: int = 0) -> FollowedRecord:
    value = event.model_dump_json(by_alias=True).encode()
    return FollowedRecord(partition, 0, MIDNIGHT_MS, event.to.lower().encode(), value, ())


class Follower:
    """Hands out batches; an error among them is raised in its turn. After the last it fails the test."""

    def __init__(self, *batches: Sequence[FollowedRecord] | Exception) -> None:
        self._batches = list(batches)
        self.from_beginning: bool | None = None
        self.closed = False

    async def start(self, *, from_beginning: bool) -> None:
        self.from_beginning = from_beginning

    async def next_records(self, timeout_seconds: float) -> Sequence[FollowedRecord]:
        assert timeout_seconds > 0
        batch = self._batches.pop(0)
        if isinstance(batch, Exception):
            raise batch
        return batch

    async def close(self) -> None:
        self.closed = True


async def _shown(
    follower: Follower, count_max: int, *, address: str | None = None, from_beginning: bool = False
) -> tuple[list[int], list[str]]:
    """The sequence numbers of the events shown, and the warnings."""
    shown: list[int] = []
    warnings: list[str] = []
    await follow(
        follower,
        lambda _, event: shown.append(event.sequence),
        warnings.append,
        from_beginning=from_beginning,
        address=address,
        count_max=count_max,
        pause_seconds=lambda _: 0,
    )
    return shown, warnings


@pytest.mark.parametrize("from_beginning", [True, False])
async def test_events_are_shown_until_there_were_enough(from_beginning: bool) -> None:
    """Neither fewer nor more, from where the user said; then the connection is closed."""
    follower = Follower([], [_record(_event(1))], [_record(_event(2)), _record(_event(3))])
    assert await _shown(follower, 2, from_beginning=from_beginning) == ([1, 2], [])
    assert follower.from_beginning is from_beginning
    assert follower.closed


async def test_one_addresss_events_only() -> None:
    """Others are passed by, and not counted."""
    follower = Follower([_record(_event(1, BOB)), _record(_event(2)), _record(_event(3, BOB)), _record(_event(4))])
    assert await _shown(follower, 2, address=ALICE.lower()) == ([2, 4], [])


async def test_partitions_that_come_together_are_put_in_order() -> None:
    """What the wallet wrote later is shown later."""
    follower = Follower(
        [_record(_event(3), 1), _record(_event(4), 1), _record(_event(1, BOB)), _record(_event(2, BOB))]
    )
    assert await _shown(follower, 4) == ([1, 2, 3, 4], [])


async def test_what_is_no_event_is_left_out_and_said() -> None:
    """A stranger's record does not end the watch."""
    stranger = FollowedRecord(2, 9, 0, b"key", b"{}", ())
    shown, warnings = await _shown(Follower([stranger, _record(_event(1))]), 1)
    assert shown == [1]
    assert warnings == ["partition 2, offset 9: no event that this release knows; left out"]
    assert read_events([FollowedRecord(0, 0, 0, None, None, ())], warnings.append) == []


async def test_a_watch_outlives_kafkas_absence() -> None:
    """It says once that Kafka is gone, and once that it is back."""
    shown, warnings = await _shown(Follower(KafkaUnreachable("no broker"), [], [_record(_event(1))]), 1)
    assert shown == [1]
    assert warnings == ["Kafka does not answer (no broker); going on when it is back", "Kafka is back"]


async def test_a_watch_that_cannot_begin_ends() -> None:
    """Before anything was followed, Kafka's absence is the answer."""

    class Unreachable(Follower):
        async def start(self, *, from_beginning: bool) -> None:
            raise KafkaUnreachable(f"no broker {from_beginning}")

    follower = Unreachable()
    with pytest.raises(KafkaUnreachable):
        await _shown(follower, 1)
    assert follower.closed


@pytest.mark.parametrize(
    ("status", "confirmations", "words"),
    [("detected", 1, "1 confirmation "), ("confirmed", 3, "3 confirmations "), ("orphaned", 0, "0 confirmations ")],
)
def test_a_line_tells_a_person_everything(status: str, confirmations: int, words: str) -> None:
    """Status, amount, whole address, block, confirmations and event; never broken, however narrow the terminal."""
    event = _event(1, status=status, confirmations=confirmations)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - the console writes there, and keeps a record
        console = Console(file=nowhere, width=20, record=True, highlight=False, soft_wrap=True)
        console.print(line_of(_record(event), event))
    line = console.export_text()
    assert line.count("\n") == 1
    for part in (f" {status} ", "1.5 ETH", ALICE, "block 7", words, "event 0123456789ab…"):
        assert part in line
