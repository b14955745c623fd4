"""The AsyncAPI document: current, whole, and true of the records that are really written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from wallet_cli.asyncapi import document, examples, text
from wallet_core.commands import decode_command
from wallet_core.messages import (
    AddressCreated,
    CreateAccountCommand,
    ErrorEvent,
    Topic,
    TransactionEvent,
    WatchAddressCommand,
)

COMMITTED = Path(__file__).parents[2] / "asyncapi.yaml"
MODELS: dict[str, type[BaseModel]] = {
    model.__name__: model
    for model in (CreateAccountCommand, WatchAddressCommand, AddressCreated, TransactionEvent, ErrorEvent)
}


def test_the_committed_document_is_current() -> None:
    """Who changes a message makes it again: python -m wallet_cli.asyncapi > asyncapi.yaml."""
    assert COMMITTED.read_text(encoding="utf-8") == text()
    assert yaml.safe_load(text()) == document()


def test_every_public_topic_has_its_channel() -> None:
    """State topics are nobody's business, and orders walletctl's."""
    addresses = {channel["address"] for channel in document()["channels"].values()}
    assert addresses == {topic.value for topic in Topic if not topic.value.startswith(("state.", "orders"))}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_example_fits_its_model_and_names_each_field(name: str) -> None:
    """An example is what most readers read first."""
    message = document()["components"]["messages"][name]
    assert message["examples"]
    for example in message["examples"]:
        read = MODELS[name].model_validate(example["payload"])
        assert json.loads(read.model_dump_json(by_alias=True)) == example["payload"]
        required = document()["components"]["schemas"][message["headers"]["$ref"].rsplit("/", 1)[1]].get("required", [])
        assert set(required) <= set(example["headers"])


def test_the_example_of_a_command_is_one() -> None:
    """Sent as it stands it gets an address."""
    for record in examples()[Topic.COMMAND]:
        assert decode_command(record.value, record.headers).id == record.key.decode()


def test_every_field_is_described() -> None:
    """With its unit, where it has one."""
    for name, schema in document()["components"]["schemas"].items():
        for field, described in schema["properties"].items():
            assert described.get("description") or "const" in described, f"{name}.{field}"


def test_every_reference_leads_somewhere() -> None:
    """A tool that reads the document must not stumble."""
    whole = document()

    def follow(part: Any) -> None:
        if isinstance(part, dict):
            if "$ref" in part:
                target: Any = whole
                for step in part["$ref"].removeprefix("#/").split("/"):
                    target = target[step]
            for inner in part.values():
                follow(inner)
        elif isinstance(part, list):
            for inner in part:
                follow(inner)

    follow(whole)
