"""`walletctl account create`: which answer is this command's, and that none is missed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet_cli.account import AccountCommand, CommandTopics, Refused, ask, read_refusal, read_reply, send
from wallet_core.addresses import Address
from wallet_core.canonical_json import CanonicalObject, canonical_object, parse
from wallet_core.commands import decode_command
from wallet_core.errors import BadMeta, KafkaUnreachable
from wallet_core.messages import address_created_record, error_record
from wallet_core.ports import CommandMessage
from wallet_workers.adapters.kafka_follower import FollowedRecord

TOPIC = "prefix.command"
PLACE = (3, 17)
TIMEOUT_SECONDS = 30.0


def _meta(text: str) -> CanonicalObject:
    parsed = parse(text)
    assert isinstance(parsed, dict)
    return canonical_object(parsed)


COMMAND = AccountCommand("customer-42", _meta('{"tier":1.0,"id":"other"}'))


def _record(value: bytes | None) -> FollowedRecord:
    return FollowedRecord(0, 0, 0, b"key", value, ())


def _reply(command: AccountCommand = COMMAND, command_id: str | None = None) -> FollowedRecord:
    record = address_created_record(
        command_id=command_id or command.id,
        meta=command.meta,
        address=Address(bytes(20)),
        chain_id=1,
        path="m/44'/60'/0'/1/2/3",
        fingerprint="ab" * 20,
        source="/default/local",
    )
    return _record(record.value)


def _refusal(offset: int = PLACE[1]) -> FollowedRecord:
    message = CommandMessage(TOPIC, PLACE[0], offset, 0, b"key", COMMAND.value, ())
    return _record(error_record(message, BadMeta("meta is wrong"), "/default/local").value)


@dataclass
class Kafka:
    """Followers and a sender of a broker that answers as the test says."""

    on_send: Callable[[], None] = lambda: None
    started: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    sent: list[tuple[str, bytes | None, bytes | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.replies = Follower(self, "replies")
        self.errors = Follower(self, "errors")

    @property
    def topics(self) -> CommandTopics:
        return CommandTopics(TOPIC, self, self.replies, self.errors)

    async def send(self, topic: str, key: bytes | None, value: bytes | None) -> tuple[int, int]:
        self.sent.append((topic, key, value))
        self.on_send()
        return PLACE

    async def close(self) -> None:
        self.closed.append("sender")


class Follower:
    def __init__(self, kafka: Kafka, name: str) -> None:
        self._kafka = kafka
        self._name = name
        self._records: asyncio.Queue[FollowedRecord | Exception] = asyncio.Queue()

    def put(self, record: FollowedRecord | Exception) -> None:
        self._records.put_nowait(record)

    async def start(self, *, from_beginning: bool) -> None:
        assert not from_beginning
        self._kafka.started.append(self._name)

    async def next_records(self, timeout_seconds: float) -> Sequence[FollowedRecord]:
        assert timeout_seconds > 0
        record = await self._records.get()
        if isinstance(record, Exception):
            raise record
        return [record]

    async def close(self) -> None:
        self._kafka.closed.append(self._name)


@given(st.text(min_size=1, max_size=20), st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3)))
def test_a_command_is_sent_as_the_wallet_reads_it(command_id: str, meta: dict[str, object]) -> None:
    """Id and meta arrive as they were given: they are what the address is made of."""
    command = AccountCommand(command_id, _meta(json.dumps(meta)))
    assert decode_command(command.value, ()).id == command_id
    assert decode_command(command.value, ()).meta == command.meta


async def test_sending_says_where_the_command_lies() -> None:
    """Without --wait the answer is the id, and the message's place; its key is the id."""
    kafka = Kafka()
    assert await send(kafka.topics, COMMAND) == {"id": "customer-42", "topic": TOPIC, "partition": 3, "offset": 17}
    assert kafka.sent == [(TOPIC, b"customer-42", COMMAND.value)]
    assert kafka.closed == ["sender"]
    assert kafka.started == []


async def test_an_answer_that_is_there_at_once_is_seen() -> None:
    """Both topics are followed before the command is sent, however quick the wallet is."""
    started: list[list[str]] = []
    kafka = Kafka()

    def answer() -> None:
        started.append(list(kafka.started))
        kafka.replies.put(_reply())

    kafka.on_send = answer
    found = await ask(kafka.topics, COMMAND, TIMEOUT_SECONDS)
    assert started == [["replies", "errors"]]
    assert found == {
        "id": "customer-42",
        "address": "0x" + "0" * 40,
        "path": "m/44'/60'/0'/1/2/3",
        "fingerprint": "ab" * 20,
    }
    assert sorted(kafka.closed) == ["errors", "replies", "sender"]


async def test_others_answers_are_passed_by() -> None:
    """Another id, the same id with another meta, an event about another message, and what is no JSON."""
    kafka = Kafka()
    other_meta = AccountCommand(COMMAND.id, _meta('{"tier":1,"id":"other"}'))
    for record in (_reply(command_id="customer-4"), _reply(other_meta), _record(b"{"), _record(None), _reply()):
        kafka.replies.put(record)
    kafka.errors.put(_refusal(offset=16))
    assert (await ask(kafka.topics, COMMAND, TIMEOUT_SECONDS))["id"] == "customer-42"


async def test_a_refusal_is_an_error() -> None:
    """What the wallet says on `errors` about this very message is what the user gets, code first."""
    kafka = Kafka()
    kafka.errors.put(_refusal())
    with pytest.raises(Refused, match=r"^bad_meta: meta is wrong$"):
        await ask(kafka.topics, COMMAND, TIMEOUT_SECONDS)
    assert sorted(kafka.closed) == ["errors", "replies", "sender"]


async def test_no_answer_in_time_is_a_time_out() -> None:
    """The wait has an end, and everything is closed after it."""
    kafka = Kafka()
    with pytest.raises(TimeoutError):
        await ask(kafka.topics, COMMAND, 0.01)
    assert sorted(kafka.closed) == ["errors", "replies", "sender"]


async def test_kafkas_failure_ends_the_wait() -> None:
    """Who waits for an answer learns that none can come."""
    kafka = Kafka()
    kafka.errors.put(KafkaUnreachable("gone"))
    with pytest.raises(KafkaUnreachable):
        await ask(kafka.topics, COMMAND, TIMEOUT_SECONDS)


@pytest.mark.parametrize("value", [None, b"", b"[]", b"\xff", b'{"request": 1}', b'{"id": NaN, "meta": {}}', b"{}"])
def test_foreign_records_answer_nothing(value: bytes | None) -> None:
    """Whatever else stands in the topics is neither a reply nor a refusal."""
    assert read_reply(_record(value), COMMAND) is None
    assert read_refusal(_record(value), (TOPIC, *PLACE)) is None
