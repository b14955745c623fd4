"""What a message on `command` asks for, or why it cannot be carried out.

A command is one JSON object: `{"id": …, "type": "create_account", "meta": {…}}`, or `{"id": …, "type": "watch_address",
"address": "0x…", "meta": {…}}`. Fields that are not named here are ignored, whatever they hold. The checks run in one
order, and the first that fails is the verdict: names of headers, value, UTF-8, JSON, `type`, `id`, `meta`, `address`.
A verdict depends on the message alone, never on the worker.

The id may come as CloudEvents' `ce_id` header instead, for producers that write their ids there. Where both are there
they must be the same: a command has one identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wallet_core.addresses import Address, parse_address
from wallet_core.canonical_json import CanonicalObject, Flaw, Json, Number, canonical_object, parse
from wallet_core.errors import (
    BadAddress,
    BadId,
    BadJson,
    BadMeta,
    IdMismatch,
    MetaTooLarge,
    NotCanonical,
    NotUtf8,
    NullValue,
    UnknownType,
    Unreadable,
)

ID_SIZE_MAX = 256
"""Bytes of a command's id in UTF-8."""
META_SIZE_MAX = 32 * 1024
"""Bytes of a command's meta in its canonical form."""
ID_HEADER = "ce_id"
CREATE_ACCOUNT = "create_account"
WATCH_ADDRESS = "watch_address"
SUBSTITUTE = "\x1a"
"""SUB, ASCII's substitute for a character in error: stands in a header's name for what is not UTF-8."""
_NAMED_LENGTH_MAX = 64
# Characters of what a caller wrote that an error's message repeats.


@dataclass(frozen=True, slots=True)
class CreateAccount:
    """Asks for an account of its own."""

    id: str | None
    """The caller's name for the account; None where the message's place in the topic stands for it."""
    meta: CanonicalObject
    """What the reply shall repeat."""


@dataclass(frozen=True, slots=True)
class WatchAddress:
    """Asks to report transfers to an address whose key is elsewhere.

    Any address may be watched, the wallet's gas address and cold address too: watching reports and does nothing else.
    """

    id: str | None
    """The caller's name for the command, repeated in the reply."""
    meta: CanonicalObject
    """What the reply shall repeat."""
    address: Address


def decode_command(value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> CreateAccount | WatchAddress:
    """Read one message. Raises the BadCommand that names the first thing wrong with it."""
    if any(SUBSTITUTE in name for name, _ in headers):
        raise Unreadable("the name of a header is not UTF-8")
    if value is None:
        raise NullValue("the message has no value")
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise NotUtf8(f"not UTF-8 at byte {error.start}") from None
    command = parse(text)
    if not isinstance(command, dict):
        raise BadJson(
            f"the command is no object: {command.reason}" if isinstance(command, Flaw) else "not a JSON object"
        )
    kind = command.get("type")
    _check_type(kind)
    identifier, meta = _identifier(command, headers), _meta(command.get("meta", {}))
    if kind == WATCH_ADDRESS:
        return WatchAddress(identifier, meta, _address(command.get("address")))
    return CreateAccount(identifier, meta)


def _check_type(kind: Json) -> None:
    if kind in (CREATE_ACCOUNT, WATCH_ADDRESS):
        return
    takes = f'this release takes "{CREATE_ACCOUNT}" and "{WATCH_ADDRESS}"'
    if kind is None:
        raise UnknownType(f"the command has no type; {takes}")
    if not isinstance(kind, str) or isinstance(kind, Number):
        raise UnknownType(f"type is no string; {takes}")
    name = kind if len(kind) <= _NAMED_LENGTH_MAX else kind[:_NAMED_LENGTH_MAX] + "…"
    raise UnknownType(f'"{name}" is no known type; {takes}')


def _identifier(command: dict[str, Json], headers: Sequence[tuple[str, bytes | None]]) -> str | None:
    found = {_header_id(content) for name, content in headers if name == ID_HEADER}
    if "id" in command:
        found.add(_checked_id(command["id"]))
    if len(found) > 1:
        raise IdMismatch(f"the command's ids differ ({ID_HEADER} headers and id)")
    return found.pop() if found else None


def _header_id(content: bytes | None) -> str:
    try:
        return _checked_id((content or b"").decode())
    except UnicodeDecodeError:
        raise BadId(f"the {ID_HEADER} header is not UTF-8") from None


def _checked_id(identifier: Json) -> str:
    if not isinstance(identifier, str) or isinstance(identifier, Number):
        raise BadId("id is no string")
    try:
        size = len(identifier.encode())
    except UnicodeEncodeError:
        raise BadId("id has a lone surrogate") from None
    if not 0 < size <= ID_SIZE_MAX:
        raise BadId(f"id has {size} bytes of UTF-8; 1 to {ID_SIZE_MAX} are allowed")
    return identifier


def _meta(meta: Json) -> CanonicalObject:
    if not isinstance(meta, dict):
        raise BadMeta(f"meta is no object: {meta.reason}" if isinstance(meta, Flaw) else "meta is no object")
    try:
        written = canonical_object(meta)
    except NotCanonical as error:
        raise BadMeta(f"meta has no canonical form: {error}") from None
    if written.size > META_SIZE_MAX:
        raise MetaTooLarge(f"meta has {written.size} bytes; {META_SIZE_MAX} are allowed")
    return written


def _address(text: Json) -> Address:
    if not isinstance(text, str) or isinstance(text, Number):
        raise BadAddress("the command has no address" if text is None else "address is no string")
    try:
        return parse_address(text)
    except ValueError as error:
        raise BadAddress(f"address: {error}") from None
