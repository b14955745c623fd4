"""The public topics as an AsyncAPI 3.0 document, made from the models: `python -m wallet_cli.asyncapi > asyncapi.yaml`.

Every example was written by the same functions that write the real records, so it cannot drift from them.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import yaml
from mnemonic import Mnemonic
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from wallet_core.accounts import AccountKey, command_reply
from wallet_core.amounts import ETH_DECIMALS, BaseUnits, format_units
from wallet_core.commands import CREATE_ACCOUNT, WATCH_ADDRESS, decode_command
from wallet_core.errors import BadCommand
from wallet_core.keys import derive_account_keys
from wallet_core.messages import (
    AddressCreated,
    CreateAccountCommand,
    ErrorEvent,
    Record,
    Topic,
    TransactionAsset,
    TransactionEvent,
    WatchAddressCommand,
    error_record,
    event_source,
    transaction_record,
)
from wallet_core.ports import CommandMessage

VERSION = "0.1.0"
"""Of the messages, not of the program: the first number moves when a reader must change."""
EXAMPLE_SEED = "test test test test test test test test test test test junk"
"""The seed phrase that every Ethereum test chain shares: nobody's money."""
_SOURCE = event_source("wallets", "mainnet")
_MODELS: dict[Topic, dict[str, type[BaseModel]]] = {
    Topic.COMMAND: {CREATE_ACCOUNT: CreateAccountCommand, WATCH_ADDRESS: WatchAddressCommand},
    Topic.ADDRESS_CREATED: {"": AddressCreated},
    Topic.TRANSACTION: {"": TransactionEvent},
    Topic.ERRORS: {"": ErrorEvent},
}
"""By topic, and there by the value's `type` where it tells them apart."""
_KEYS = {
    Topic.COMMAND: "Whatever the caller chose; commands of one key are served in their order.",
    Topic.ADDRESS_CREATED: "The account's address: 0x and 40 lower-case hex digits; one that is only watched has "
    "`watch:` before it.",
    Topic.TRANSACTION: "The account's address: 0x and 40 lower-case hex digits. Events of one address are in order.",
    Topic.ERRORS: "The message's own key, at most its first 64 KiB; empty where it had none.",
}


def examples() -> dict[Topic, list[Record]]:
    """One wallet's story: a command and its reply, a deposit that a fork took back after all, and a command refused."""
    command = Record(
        Topic.COMMAND, b"user-17", b'{"id": "user-17", "type": "create_account", "meta": {"user": 17, "desk": "emea"}}'
    )
    watch = Record(
        Topic.COMMAND,
        b"treasury",
        b'{"id": "treasury", "type": "watch_address", "address": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", '
        b'"meta": {"desk": "emea"}}',
    )
    refused = Record(Topic.COMMAND, b"user-18", b'{"id": "user-18", "type": "close_account"}')
    keys = derive_account_keys(Mnemonic.to_seed(EXAMPLE_SEED), 0)
    key = AccountKey.from_xpub(keys.xpub, keys.fingerprint)
    reply, watched = (
        command_reply(key, _received(each, offset), chain_id=1, source=_SOURCE)
        for offset, each in ((41, command), (43, watch))
    )
    return {
        Topic.COMMAND: [command, watch],
        Topic.ADDRESS_CREATED: [reply, watched],
        Topic.TRANSACTION: _deposit_examples(json.loads(reply.value or b"")["address"]),
        Topic.ERRORS: [error_record(_received(refused, 42), _verdict(refused), _SOURCE)],
    }


def _received(record: Record, offset: int) -> CommandMessage:
    return CommandMessage(
        topic=record.topic,
        partition=3,
        offset=offset,
        timestamp_ms=1_767_225_600_000,
        key=record.key,
        value=record.value,
        headers=(),
    )


def _verdict(record: Record) -> BadCommand:
    try:
        decode_command(record.value, record.headers)
    except BadCommand as error:
        return error
    raise AssertionError("the example of an error is a good command")


def _deposit_examples(address: str) -> list[Record]:
    amount = BaseUnits(15 * 10 ** (ETH_DECIMALS - 1))
    detected = TransactionEvent(
        event_id="5f" * 32,
        sequence=1204,
        type="deposit",
        status="detected",
        txid="0x" + "a1" * 32,
        value=format_units(amount, ETH_DECIMALS),
        amount=str(amount),
        to=address,
        from_="0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        asset=TransactionAsset(symbol="ETH", contract=None, decimals=ETH_DECIMALS),
        chain_id=1,
        block_number=24_130_117,
        block_hash="0x" + "b2" * 32,
        timestamp=1_767_225_611,
        confirmations=1,
    )
    confirmed = detected.model_copy(update={"sequence": 1377, "status": "confirmed", "confirmations": 12})
    orphaned = detected.model_copy(update={"sequence": 1398, "status": "orphaned", "confirmations": 0})
    token = detected.model_copy(
        update={
            "event_id": "6a" * 32,
            "sequence": 1399,
            "status": "confirmed",
            "value": "25.5",
            "amount": "25500000",
            "asset": TransactionAsset(symbol="USDT", contract="0xdAC17F958D2ee523a2206206994597C13D831ec7", decimals=6),
            "confirmations": 12,
        }
    )
    withdrawal = confirmed.model_copy(
        update={
            "event_id": "7e" * 32,
            "sequence": 1400,
            "txid": None,
            "from_": None,
            "value": "0.018250123",
            "amount": "18250123000000000",
        }
    )
    return [transaction_record(event, _SOURCE) for event in (detected, confirmed, orphaned, token, withdrawal)]


def document() -> dict[str, Any]:
    """The AsyncAPI document as plain data."""
    records = examples()
    _, schemas = models_json_schema(
        [
            (model, "validation" if topic is Topic.COMMAND else "serialization")
            for topic, models in _MODELS.items()
            for model in models.values()
        ],
        ref_template="#/components/schemas/{model}",
    )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "wallet-manager",
            "version": VERSION,
            "description": "What a wallet hears and says on Kafka. On the broker each topic's name stands behind the "
            "wallet's spec.kafka.topicPrefix. Readers ignore fields that they do not know, read `transaction` with "
            "isolation.level=read_committed, and drop repeats by ce_id.",
        },
        "defaultContentType": "application/json",
        "channels": {_name(topic): _channel(topic) for topic in _MODELS},
        "operations": {
            _name(topic): {
                "action": "receive" if topic is Topic.COMMAND else "send",
                "channel": {"$ref": f"#/channels/{_name(topic)}"},
            }
            for topic in _MODELS
        },
        "components": {
            "messages": {
                model.__name__: _message(topic, model, [record for record in records[topic] if _is_of(kind, record)])
                for topic, models in _MODELS.items()
                for kind, model in models.items()
            },
            "schemas": {"CommandHeaders": _COMMAND_HEADERS, "EventHeaders": _EVENT_HEADERS} | schemas["$defs"],
        },
    }


def _name(topic: Topic) -> str:
    return topic.value.replace(".", "_")


def _channel(topic: Topic) -> dict[str, Any]:
    names = [model.__name__ for model in _MODELS[topic].values()]
    return {
        "address": topic.value,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
    }


def _is_of(kind: str, record: Record) -> bool:
    return not kind or json.loads(record.value or b"")["type"] == kind


def _message(topic: Topic, model: type[BaseModel], records: list[Record]) -> dict[str, Any]:
    return {
        "headers": {"$ref": f"#/components/schemas/{'Command' if topic is Topic.COMMAND else 'Event'}Headers"},
        "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
        "bindings": {"kafka": {"key": {"type": "string", "description": _KEYS[topic]}}},
        "examples": [
            {
                "headers": {name: content.decode() for name, content in record.headers},
                "payload": json.loads(record.value or b""),
            }
            for record in records
        ],
    }


_COMMAND_HEADERS = {
    "type": "object",
    "properties": {"ce_id": {"type": "string", "description": "May carry the command's id instead of the field `id`."}},
}
_EVENT_HEADERS = {
    "type": "object",
    "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "content-type"],
    "properties": {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": {"type": "string", "description": "The same for each copy of one event, and for no other event."},
        "ce_source": {"type": "string", "description": "The wallet: /<namespace>/<name>."},
        "ce_type": {"type": "string", "description": "What happened, beginning with dev.wallet-manager."},
        "content-type": {"type": "string", "const": "application/json"},
    },
}


def text() -> str:
    """The document as it is committed."""
    head = "# Made by python -m wallet_cli.asyncapi; a test compares.\n"
    return head + yaml.safe_dump(document(), sort_keys=False, allow_unicode=True, width=100)


if __name__ == "__main__":
    sys.stdout.write(text())
