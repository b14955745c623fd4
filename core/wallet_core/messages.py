"""What the wallet says and hears on Kafka: the public topics' values, and the records that carry them.

Values are JSON. CloudEvents attributes travel as `ce_*` headers (the Kafka binding's binary mode), so a reader who
knows nothing of CloudEvents reads the value all the same. There is no `ce_time`: a record is made again after a crash,
and it must be the same bytes. Readers ignore fields that they do not know; a field, once released, keeps its name, unit
and meaning.

Only `address.created` is not written from its model: it repeats the caller's numbers as they were written, which no
number type would keep. `asyncapi.yaml` at the root of the repository is made from the models, by
`python -m wallet_cli.asyncapi`.
"""

from __future__ import annotations

import base64
import hashlib
import re
import traceback
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from wallet_core.addresses import Address, checksum_address, lower_hex
from wallet_core.canonical_json import CanonicalObject, canonical
from wallet_core.errors import BadCommand

EXCERPT_SIZE_MAX = 64 * 1024
"""Bytes of a command's key, and of its value, that an error event repeats."""
ERROR_MESSAGE_LENGTH_MAX = 2_000
"""Characters of an error event's message."""
STACK_FRAMES_MAX = 50
"""Innermost frames that an error event names for each exception of a chain."""
STACK_CAUSES_MAX = 5
"""Exceptions of a chain that an error event names."""
WATCH_PREFIX = "watch:"
"""What the key of a watched address begins with on `address.created`."""
_ADDRESS_KEY = re.compile(rb"(?:watch:)?0x([0-9a-f]{40})")


class Topic(StrEnum):
    """The wallet's topics by their logical names; on the broker each stands behind the wallet's prefix."""

    COMMAND = "command"
    ADDRESS_CREATED = "address.created"
    TRANSACTION = "transaction"
    ERRORS = "errors"
    ORDERS = "orders"
    STATE_SYNC = "state.sync"


@dataclass(frozen=True)
class Record:
    """One Kafka record to be written."""

    topic: Topic
    key: bytes
    value: bytes | None
    """None is a tombstone."""
    headers: tuple[tuple[str, bytes], ...] = ()


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, validate_by_name=True, validate_by_alias=True)


class CreateAccountCommand(_Value):
    """On `command`: asks for an address. The same id and meta give the same address, for ever."""

    type: Literal["create_account"]
    """The command."""
    id: str | None = Field(default=None, min_length=1)
    """The caller's name for the account, at most 256 bytes of UTF-8. The header `ce_id` may carry it instead. Where
    there is none, the message's place in the topic stands for it, and no later message can ask for the same account."""
    meta: dict[str, Any] = Field(default_factory=dict)
    """What the caller wants to find in the reply, at most 32 KiB of canonical JSON. Part of the account's identity."""


class WatchAddressCommand(_Value):
    """On `command`: asks to watch an address whose key is elsewhere, from the next block on."""

    type: Literal["watch_address"]
    """The command."""
    address: str = Field(pattern="^0x[0-9a-fA-F]{40}$")
    """The address; where its letters are of both cases, with EIP-55's checksum."""
    id: str | None = Field(default=None, min_length=1)
    """The caller's name for the command, at most 256 bytes of UTF-8. The header `ce_id` may carry it instead."""
    meta: dict[str, Any] = Field(default_factory=dict)
    """What the caller wants to find in the reply, at most 32 KiB of canonical JSON."""


class AddressCreated(_Value):
    """On `address.created`: the reply. Fields of `meta` stand at the top level too, where none below has their name."""

    model_config = ConfigDict(extra="allow")

    id: str | None
    """The command's id; null where it had none."""
    address: str = Field(pattern="^0x[0-9a-fA-F]{40}$")
    """The account's address, or the watched one, with EIP-55's checksum."""
    chain_id: int = Field(ge=1)
    """The chain that is watched for deposits, by EIP-155."""
    path: str | None = Field(pattern=r"^m/44'/60'/[0-9]+'/[0-9]+/[0-9]+/[0-9]+$")
    """BIP-32 path of the account's key, from the seed; null where the address is only watched."""
    fingerprint: str | None = Field(pattern="^[0-9a-f]{40}$")
    """The account key's BIP-32 identifier (20 bytes, hex): the seed that the path starts from; null likewise."""
    meta: dict[str, Any]
    """The command's meta, numbers as they were written."""


class TransactionAsset(_Value):
    """A coin or token."""

    symbol: str
    """As the resource names it."""
    contract: str | None
    """The token's contract, with EIP-55's checksum; null for the chain's own coin."""
    decimals: int = Field(ge=0)
    """Base units in a whole one, as a power of ten."""


class TransactionEvent(_Value):
    """On `transaction`: what happened to one transfer. The last event of an `event_id` says what the chain says."""

    event_id: str = Field(pattern="^[0-9a-f]{64}$")
    """The transfer's own name: stays the same when a fork moves it to another block."""
    sequence: int = Field(ge=0)
    """Running number of the writer's events, over all addresses: later is larger."""
    type: Literal["deposit"]
    """What kind of transfer it is."""
    status: Literal["detected", "confirmed", "orphaned"]
    """`detected`: in the chain. `confirmed`: deep enough to credit. `orphaned`: taken back by the chain; debit what was
    credited."""
    txid: str | None = Field(pattern="^0x[0-9a-f]{64}$")
    """Transaction hash; null for a withdrawal from the beacon chain (EIP-4895), which no transaction carries."""
    value: str = Field(pattern=r"^[0-9]+(\.[0-9]+)?$")
    """Amount in whole units, a decimal number."""
    amount: str = Field(pattern="^[0-9]+$")
    """Amount in base units, an integer."""
    to: str = Field(pattern="^0x[0-9a-fA-F]{40}$")
    """The account's address, with EIP-55's checksum."""
    from_: str | None = Field(alias="from", pattern="^0x[0-9a-fA-F]{40}$")
    """Who paid, with EIP-55's checksum: an account, a contract, or whom a token's log names; null for a withdrawal."""
    asset: TransactionAsset
    """Of what the amount is."""
    chain_id: int = Field(ge=1)
    """The chain, by EIP-155."""
    block_number: int = Field(ge=0)
    """Height of the block that holds the transfer; of `orphaned`, that held it."""
    block_hash: str = Field(pattern="^0x[0-9a-f]{64}$")
    """Hash of that block."""
    timestamp: int = Field(ge=0)
    """That block's time, in seconds since the Unix epoch."""
    confirmations: int = Field(ge=0)
    """Blocks from that block to the tip when this was written, both included; 0 for `orphaned`."""


class ErrorRequest(_Value):
    """The message that an error is about, as it came, cut where it is large."""

    topic: str
    """Full name of the topic."""
    partition: int = Field(ge=0)
    """Partition of the message."""
    offset: int = Field(ge=0)
    """Offset of the message."""
    key: str | None
    """The message's key, at most the first 64 KiB; null where it had none."""
    key_encoding: Literal["utf-8", "base64"]
    """How `key` is written here."""
    value: str | None
    """The message's value, at most the first 64 KiB; null where it had none."""
    encoding: Literal["utf-8", "base64"]
    """How `value` is written here: base64 unless it is UTF-8 with no control characters but tab and line ends."""
    size: int = Field(ge=0)
    """Bytes of the whole value."""
    sha256: str | None
    """SHA-256 of the whole value, hex; null where there is none."""
    truncated: bool
    """Whether key or value was cut."""


class ErrorEvent(_Value):
    """On `errors`: a message that was not carried out, and why."""

    type: Literal["command"]
    """What failed: a message on `command`."""
    request: ErrorRequest
    """The message."""
    error_code: str
    """A stable word to match on."""
    error_message: str
    """A sentence for a person; may change."""
    error_stack: str | None
    """Where in the program it happened, for unexpected errors only: places and names of classes, never a value."""


class ReceivedMessage(Protocol):
    """What an error event needs to know of the message that it is about; `ports.CommandMessage` has it."""

    @property
    def topic(self) -> str:
        """Full name of the topic."""

    @property
    def partition(self) -> int:
        """Partition of the message."""

    @property
    def offset(self) -> int:
        """Offset of the message."""

    @property
    def key(self) -> bytes | None:
        """Its key as it came."""

    @property
    def value(self) -> bytes | None:
        """Its value as it came."""


def event_source(namespace: str, name: str) -> str:
    """The wallet as CloudEvents' `source`."""
    return f"/{namespace}/{name}"


def address_created_record(
    *,
    command_id: str | None,
    meta: CanonicalObject,
    address: Address,
    chain_id: int,
    path: str | None,
    fingerprint: str | None,
    source: str,
) -> Record:
    """The reply to a command: always the same bytes for the same command.

    Without a path the address is only watched, and its key says so: `watch:<address>`. So neither record of an address
    that is both can take the other's place when the topic is compacted.
    """
    own = {
        "id": canonical(command_id),
        "address": canonical(checksum_address(address)),
        "chain_id": str(chain_id),
        "path": canonical(path),
        "fingerprint": canonical(fingerprint),
        "meta": meta.text,
    }
    members = meta.members | own
    value = "{" + ",".join([f"{canonical(name)}:{text}" for name, text in members.items()]) + "}"
    key = lower_hex(address) if path is not None else WATCH_PREFIX + lower_hex(address)
    return Record(Topic.ADDRESS_CREATED, key.encode(), value.encode(), _headers("address.created", key, source))


def address_of_key(key: bytes | None) -> Address | None:
    """The address, created or watched, that a record of `address.created` is about; None for a key of another form."""
    found = _ADDRESS_KEY.fullmatch(key or b"")
    return Address(bytes.fromhex(found[1].decode())) if found else None


def transaction_record(event: TransactionEvent, source: str) -> Record:
    """An event about a transfer, keyed by the account's address so that an address's events stay in order."""
    kind = f"transaction.{event.type}.{event.status}"
    headers = _headers(kind, f"{event.event_id}.{event.sequence}", source)
    return Record(Topic.TRANSACTION, event.to.lower().encode(), event.model_dump_json(by_alias=True).encode(), headers)


def error_record(message: ReceivedMessage, error: Exception, source: str) -> Record:
    """The answer to a message that was not carried out: below 400 kB, however large the message was.

    A `BadCommand` speaks for itself. Of any other error only its class and places are told: its text may hold a value
    that is nobody's business.
    """
    key, key_encoding = _excerpt(message.key)
    value, encoding = _excerpt(message.value)
    expected = isinstance(error, BadCommand)
    text = str(error) if expected else f"unexpected {type(error).__name__}"
    event = ErrorEvent(
        type="command",
        request=ErrorRequest(
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            key=key,
            key_encoding=key_encoding,
            value=value,
            encoding=encoding,
            size=len(message.value or b""),
            sha256=None if message.value is None else hashlib.sha256(message.value).hexdigest(),
            truncated=max(len(message.key or b""), len(message.value or b"")) > EXCERPT_SIZE_MAX,
        ),
        error_code=error.error_code if isinstance(error, BadCommand) else "internal_error",
        error_message=text.encode(errors="backslashreplace").decode()[:ERROR_MESSAGE_LENGTH_MAX],
        error_stack=None if expected else _stack(error),
    )
    headers = _headers("error.command", f"{message.topic}-{message.partition}-{message.offset}", source)
    record_key = (message.key or b"")[:EXCERPT_SIZE_MAX]
    return Record(Topic.ERRORS, record_key, event.model_dump_json(by_alias=True).encode(), headers)


def _headers(kind: str, ce_id: str, source: str) -> tuple[tuple[str, bytes], ...]:
    return (
        ("ce_specversion", b"1.0"),
        ("ce_id", ce_id.encode()),
        ("ce_source", source.encode()),
        ("ce_type", f"dev.wallet-manager.{kind}".encode()),
        ("content-type", b"application/json"),
    )


_CONTROL_CHARACTERS = bytes(set(range(0x20)) - set(b"\t\n\r"))
# JSON writes each in six bytes, and many a reader stumbles over them: what holds one is no text to show.


def _excerpt(content: bytes | None) -> tuple[str | None, Literal["utf-8", "base64"]]:
    if content is None:
        return None, "utf-8"
    cut = content[:EXCERPT_SIZE_MAX]
    try:
        content.decode()
    except UnicodeDecodeError:
        return base64.b64encode(cut).decode(), "base64"
    if len(cut.translate(None, _CONTROL_CHARACTERS)) < len(cut):
        return base64.b64encode(cut).decode(), "base64"
    return cut.decode(errors="ignore"), "utf-8"  # all is UTF-8: only a character that the cut went through is dropped


def _stack(error: BaseException) -> str:
    lines: list[str] = []
    cause: BaseException | None = error
    for _ in range(STACK_CAUSES_MAX):
        if cause is None:
            break
        lines.append(f"{type(cause).__name__} at")
        frames = list(traceback.walk_tb(cause.__traceback__))[-STACK_FRAMES_MAX:]
        lines += [f"  {frame.f_globals.get('__name__')}:{line} {frame.f_code.co_name}" for frame, line in frames]
        cause = cause.__cause__ or cause.__context__
    return "\n".join(lines)
