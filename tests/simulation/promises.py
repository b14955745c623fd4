"""The promises of the design's section 1, checked by code that shares nothing with the wallet's.

It sees two things: what really happened on the chain (`history.py`), and the topics as a `read_committed` reader sees
them. It reads on after every committed transaction; whatever is wrong there ends the simulation at once. What can only
be judged at the end (nothing is missing) is judged by `what_is_missing`, once the faults are over.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import coincurve
from bip32 import BIP32

from simulation.history import History, Movement
from simulation.steps import FINAL, Order, Steps, require
from wallet_core.addresses import address_of_public_key, checksum_address
from wallet_core.testing.fake_broker import FakeBroker, StoredRecord

FOLLOWS = {
    None: {"detected", "confirmed"},
    "detected": {"confirmed", "orphaned"},
    "confirmed": {"orphaned"},
    "orphaned": {"detected", "confirmed"},
}
"""What may be said of a transfer after what was said last."""


@dataclass(frozen=True)
class Terms:
    """What the wallet was told to promise."""

    prefix: str
    chain_id: int
    xpub: str
    fingerprint: str
    confirmation_depth: int | None
    """None: by the finalized tag."""
    symbols: Mapping[str, str]
    """What each asset is called, by its key in the checkpoint."""
    gas_address: str
    """Lower-case hex."""
    settle_depth: int


@dataclass
class _Transfer:
    """All that was said of one event id."""

    movement: Movement
    partition: int
    status: str
    block_hash: str


class Promises:
    """See the module."""

    def __init__(self, broker: FakeBroker, history: History, terms: Terms) -> None:
        self._broker = broker
        self._history = history
        self._terms = terms
        self._positions: Counter[tuple[str, int]] = Counter()
        self._values_of_address: dict[str, bytes] = {}
        self.published: dict[str, int] = {}
        """Every published address (lower-case hex), and how many were published before it."""
        self._replies: Counter[tuple[str | None, str]] = Counter()
        self._sent: Counter[tuple[str | None, str]] = Counter()
        self._refused = 0
        self._bad_sent = 0
        self._transfers: dict[str, _Transfer] = {}
        self._ids_of: dict[Movement, set[str]] = {}
        self._sequence = 0
        self._ce_ids: set[str] = set()
        self._balances: Counter[str] = Counter()
        self.steps = Steps(history, dict(terms.symbols), terms.gas_address, terms.settle_depth)

    # --- what the users did ---------------------------------------------------------------------------------------

    def command_sent(self, command_id: str | None, meta: object) -> None:
        """A good command is on its topic."""
        self._sent[command_id, _canonical(meta)] += 1

    def watch_sent(self, address: str, command_id: str, meta: object) -> None:
        """A good `watch_address` is on its topic."""
        self._sent[f"watch {address} {command_id}", _canonical(meta)] += 1

    def bad_command_sent(self) -> None:
        """A message that no wallet can carry out is on the topic."""
        self._bad_sent += 1

    def order_sent(self, order_id: str, place: int, content: dict[str, Any]) -> None:
        """An order is on its topic, at that offset."""
        self.steps.order_sent(Order(order_id, place, content, len(self.published)))

    def state_lost(self) -> None:
        """The state topic is gone."""
        self.steps.state_lost()
        del self._positions[self._terms.prefix + "state.sync", 0]

    @property
    def events(self) -> int:
        """How many events were seen on `transaction`."""
        return self._sequence

    # --- after every step -----------------------------------------------------------------------------------------

    def look(self) -> None:
        """Read on in every topic, if there is a broker. Raises Broken."""
        if not self._broker.reachable:
            return
        for record in self._new("address.created"):
            self._address_created(record)
        self._refused += sum(1 for _ in self._new("errors"))
        require(self._refused <= self._bad_sent, "Once", "a command was refused twice, or a good one was refused")
        said = sorted(self._new("transaction"), key=lambda record: _json(record)["sequence"])
        for record in said:
            self._event(record)
        if changes := list(self._new("state.sync")):
            self.steps.step(changes)
        require(
            self.steps.sequence in (None, self._sequence),
            "Leader",
            f"the checkpoint does not go with the {self._sequence} events that are visible",
        )
        if self.steps.sequence is not None:
            for value in {_json(record)["event_id"]: _json(record) for record in said}.values():
                require(
                    value["status"] == "orphaned" or self.steps.follows(value["block_hash"]),
                    "Credit",
                    f"event {value['sequence']} is of block {value['block_number']}, which the wallet does not follow",
                )

    def _new(self, topic: str) -> Iterator[StoredRecord]:
        name = self._terms.prefix + topic
        if name not in self._broker.topics():
            return
        for partition in range(self._broker.partitions(name)):
            for record in self._broker.read_committed(name, partition, self._positions[name, partition]):
                self._positions[name, partition] = record.offset + 1
                yield record

    def _address_created(self, record: StoredRecord) -> None:
        value = _json(record)
        key = (record.key or b"").decode()
        if key.startswith("watch:"):
            self._watched(key.removeprefix("watch:"), value)
            return
        command = value["id"], _canonical(value["meta"])
        require(value["address"].lower() == key, "Address", f"{value['address']} stands under the key {key}")
        require(
            self._values_of_address.setdefault(key, record.value or b"") == record.value,
            "Address",
            f"two different commands share {key}, or one got two replies",
        )
        self._replies[command] += 1
        require(self._replies[command] <= self._sent[command], "Once", f"more replies than commands {command}")
        if command[0] is not None:
            path = _path(value["id"], command[1])
            require(value["path"] == path, "Address", f"the path of {command} is {value['path']}, not {path}")
        require(value["fingerprint"] == self._terms.fingerprint, "Address", "another seed's fingerprint")
        expected = _derived(self._terms.xpub, value["path"])
        require(value["address"] == expected, "Address", f"{value['path']} is {expected}, not {value['address']}")
        self.published.setdefault(key, len(self.published))

    def _watched(self, address: str, value: dict[str, Any]) -> None:
        require(value["address"].lower() == address, "Address", f"{value['address']} stands under watch:{address}")
        command = f"watch {address} {value['id']}", _canonical(value["meta"])
        self._replies[command] += 1
        require(self._replies[command] <= self._sent[command], "Once", f"more replies than commands {command}")
        self.published.setdefault(address, len(self.published))

    def _event(self, record: StoredRecord) -> None:
        said = _json(record)
        event_id, status, block_hash = said["event_id"], said["status"], said["block_hash"]
        name = f"event {said['sequence']} ({status} {event_id[:8]} of {said['txid']} in block {said['block_number']})"
        self._sequence += 1
        require(said["sequence"] == self._sequence, "Once", f"{name} comes as number {self._sequence}")
        ce_id = dict(record.headers)["ce_id"].decode()
        require(ce_id == f"{event_id}.{said['sequence']}", "Once", f"{name} has the ce_id {ce_id}")
        require(ce_id not in self._ce_ids, "Once", f"{name}: its ce_id was used before")
        self._ce_ids.add(ce_id)

        movement = Movement(
            said["txid"],
            said["asset"]["symbol"],
            said["from"] and said["from"].lower(),
            said["to"].lower(),
            int(said["amount"]),
        )
        require((record.key or b"").decode() == movement.recipient, "Once", f"{name} stands under another key")
        require(movement.recipient in self.published, "Credit", f"{name}: nobody was told that address")
        self._check_place(name, said, movement)
        known = self._transfers.get(event_id)
        place = movement, record.partition  # a transaction that does something else in another block may change it
        require(
            known is None or known.status == "orphaned" or (known.movement, known.partition) == place,
            "Once",
            f"{name}: the id belongs to {known and known.movement}",
        )
        require(status in FOLLOWS[known.status if known else None], "Once", f"{name} follows {known and known.status}")
        if status == "orphaned" or (known and known.status == "detected"):
            require(known is not None and known.block_hash == block_hash, "Credit", f"{name} is of another block")
        ids = self._ids_of.setdefault(movement, set())
        ids.add(event_id)
        together = len(self._history.places[movement])
        require(len(ids) <= together, "Once", f"{name}: {together} such transfers have {len(ids)} ids")
        self._credit(name, known, movement, status)
        self._transfers[event_id] = _Transfer(movement, record.partition, status, block_hash)

    def _check_place(self, name: str, said: dict[str, Any], movement: Movement) -> None:
        """That the chain can have looked so to a node."""
        history, block_hash = self._history, said["block_hash"]
        require(block_hash in history.blocks, "Credit", f"{name}: there never was such a block")
        header = history.blocks[block_hash].header
        require(
            (said["block_number"], said["timestamp"]) == (header.number, header.timestamp),
            "Credit",
            f"{name}: the block is {header.number} at {header.timestamp}",
        )
        require(movement in history.movements[block_hash], "Credit", f"{name}: the block moved no such amount")
        wanted = self._terms.confirmation_depth
        match said["status"]:
            case "orphaned":
                require(history.was_contested(block_hash), "Credit", f"{name}: no fork ever touched the block")
            case "confirmed" if wanted is None:
                require(block_hash in history.finalized, "Credit", f"{name}: the block was never final")
            case "confirmed" if wanted is not None:
                depth = history.depth_ever(block_hash)
                require(depth >= wanted, "Credit", f"{name}: it was never deeper than {depth}")
                require(
                    said["confirmations"] >= wanted,
                    "Credit",
                    f"{name}: {said['confirmations']} confirmations",
                )
        if said["status"] != "orphaned":
            tip = header.number + said["confirmations"] - 1
            require(header.number <= tip <= history.tip_max, "Credit", f"{name}: there never was a block {tip}")

    def _credit(self, name: str, known: _Transfer | None, movement: Movement, status: str) -> None:
        """The reader who credits on `confirmed` and debits on `orphaned`."""
        if status == "confirmed":
            self._balances[movement.recipient] += movement.amount
        elif status == "orphaned" and known and known.status == "confirmed":
            self._balances[movement.recipient] -= movement.amount
        require(self._balances[movement.recipient] >= 0, "Credit", f"{name}: debited what was never credited")

    # --- at the end -----------------------------------------------------------------------------------------------

    def what_is_missing(self) -> str | None:
        """What the wallet has not yet said or done; None once it has caught up with the world."""
        tip = self._history.chain.tip
        if self._replies != self._sent or self._refused != self._bad_sent:
            return f"Recovery: {self._sent - self._replies} have no reply, {self._refused} of {self._bad_sent} refused"
        steps = self.steps
        if steps.before is None or steps.before.tip[1] != tip.hash:
            return (
                f"Recovery: the wallet is at {steps.before and steps.before.tip}, the chain at {tip.number} {tip.hash}"
            )
        for order_id in steps.orders:
            if steps.outcome(order_id)["status"] not in FINAL:
                return f"Recovery: at {steps.before.tip[0]}, settled {steps.before.base}: {steps.outcome(order_id)}"
        must: Counter[Movement] = Counter()
        may: Counter[Movement] = Counter()
        expected: dict[str, str] = {}
        balances: Counter[str] = Counter()
        for block in self._history.chain.blocks:
            block_hash = block.header.hash
            expected[block_hash] = self._expected_status(block.header.number, tip.number)
            for movement in self._history.movements[block_hash]:
                at = self.published.get(movement.recipient)
                may[movement] += at is not None and steps.allowed(block_hash, movement)
                must[movement] += steps.required(block_hash, movement, at)
        stands: Counter[Movement] = Counter()
        for event_id, transfer in self._transfers.items():
            wanted = expected.get(transfer.block_hash, "orphaned")
            if transfer.status == wanted or (
                transfer.status != "confirmed"
                and transfer.block_hash in expected
                and not steps.is_followed_up(transfer.block_hash, transfer.movement)
            ):
                stands[transfer.movement] += transfer.status != "orphaned"
            else:
                return (
                    f"Credit: {event_id[:8]} ({transfer.movement}) is {transfer.status} in {transfer.block_hash}, "
                    f"the chain says {wanted}"
                )
            if transfer.status == "confirmed":
                balances[transfer.movement.recipient] += transfer.movement.amount
        if missing := must - stands:
            return f"Detection: never published: {next(iter(missing))}"
        if extra := stands - may:
            return f"Once: published too often: {next(iter(extra))}"
        return None if +balances == +self._balances else "Credit: the credits do not add up"

    def _expected_status(self, number: int, tip: int) -> str:
        if self._terms.confirmation_depth is None:
            finalized = self._history.chain.finalized_number
            confirmed = finalized is not None and number <= finalized
        else:
            confirmed = tip - number + 1 >= self._terms.confirmation_depth
        return "confirmed" if confirmed else "detected"


def _json(record: StoredRecord) -> Any:
    return json.loads(record.value or b"null")


def _canonical(meta: object) -> str:
    return json.dumps(meta, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _path(command_id: str, meta: str) -> str:
    """The path by the design's section 5."""
    text = f'["wm1",{json.dumps(command_id)},{meta}]'
    bits = bin(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") | 1 << 256)[3:]
    return "m/44'/60'/0'/" + "/".join(str(int(bits[at : at + 31], 2)) for at in (0, 31, 62))


@cache
def _derived(xpub: str, path: str) -> str:
    """The EIP-55 address at a path, by the bip32 library."""
    key = BIP32.from_xpub(xpub).get_pubkey_from_path("m/" + path.removeprefix("m/44'/60'/0'/"))
    return checksum_address(address_of_public_key(_uncompressed(key)))


def _uncompressed(key: bytes) -> bytes:
    return coincurve.PublicKey(key).format(compressed=False)
