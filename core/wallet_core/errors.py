"""Every error that the wallet raises on purpose, in one small tree.

Each class has a stable `error_code`: users match on it in the `errors` topic and in alerts, so a code, once released,
keeps its meaning. Where an error becomes a reason in `/status` or in a condition, the reason is the class's own name.

- `BadCommand`: what a caller sent; answered on `errors`, never stops a partition.
- `Unavailable`: the world is not there at the moment; retried with back-off, for ever, with the reason in `/status`.
- `Halt`: going on could be wrong. The process lives, keeps its lock, writes nothing, and looks again every minute.
- `InvalidSetting`: the configuration cannot work; exit code 2.
- the rest (`Superseded`, `OutcomeUnknown`, `NodeInconsistent`, `NotCanonical`, `OrderRefused`, `NodeDeclined`,
  `AuditImpossible`, `IllegalMove`): answers of one port or automaton.
"""

from __future__ import annotations

from typing import ClassVar


class WalletError(Exception):
    """The root of the tree."""

    error_code: ClassVar[str] = "internal_error"


# --- what a caller sent -------------------------------------------------------------------------------------------


class BadCommand(WalletError):
    """A message on `command` that cannot be carried out."""

    error_code = "bad_command"


class Unreadable(BadCommand):
    """A header's name is not UTF-8, which Kafka's protocol asks for."""

    error_code = "unreadable"


class NullValue(BadCommand):
    """The message has no value (a tombstone)."""

    error_code = "null_value"


class NotUtf8(BadCommand):
    """The value is not UTF-8."""

    error_code = "not_utf8"


class BadJson(BadCommand):
    """The value is not one JSON object, has a key twice, or is nested too deeply."""

    error_code = "bad_json"


class UnknownType(BadCommand):
    """`type` is missing or names no command of this release."""

    error_code = "unknown_type"


class BadId(BadCommand):
    """`id` is no string, is empty or too long, or cannot be written as UTF-8."""

    error_code = "bad_id"


class IdMismatch(BadCommand):
    """`id` and the `ce_id` header are both there and differ."""

    error_code = "id_mismatch"


class BadMeta(BadCommand):
    """`meta` is no object, or has duplicate keys, NaN or a lone surrogate."""

    error_code = "bad_meta"


class MetaTooLarge(BadCommand):
    """`meta` is larger than the limit."""

    error_code = "meta_too_large"


class BadAddress(BadCommand):
    """`address` is missing, is no address, or fails EIP-55's checksum."""

    error_code = "bad_address"


# --- configuration ------------------------------------------------------------------------------------------------


class InvalidSetting(WalletError):
    """A setting is missing or malformed. `str()` is one line that names it."""

    error_code = "invalid_setting"

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(f"{setting}: {problem}")
        self.setting = setting
        self.problem = problem


class AddressTaken(WalletError):
    """Another process serves on this one's address; with another address, or later, it may work. Exit code 1."""

    error_code = "address_taken"


class InvalidKey(WalletError):
    """A key, seed or fingerprint is not of the form that its use asks for."""

    error_code = "invalid_key"


# --- the world is not there at the moment -------------------------------------------------------------------------


class Unavailable(WalletError):
    """Something outside does not answer as it should; trying again may help."""

    error_code = "unavailable"


class SecretMissing(Unavailable):
    """The file of a `secretKeyRef` is not there. `str()` is `<name>/<key>`."""

    error_code = "secret_missing"


class KafkaUnreachable(Unavailable):
    """No broker answers, or not in time."""

    error_code = "kafka_unreachable"


class RedisUnreachable(Unavailable):
    """Redis does not answer, or not in time."""

    error_code = "redis_unreachable"


class RpcUnreachable(Unavailable):
    """No endpoint of the right chain answers."""

    error_code = "rpc_unreachable"


class WrongChain(Unavailable):
    """Every endpoint that answers belongs to another chain."""

    error_code = "wrong_chain"


class NodeInconsistent(Unavailable):
    """A node contradicts itself or an earlier answer. Never read as "no deposits"."""

    error_code = "node_inconsistent"


# --- going on could be wrong --------------------------------------------------------------------------------------


class Halt(WalletError):
    """A person must look: the process lives and writes nothing until the cause is gone."""

    error_code = "halted"


class KeyMismatch(Halt):
    """The key file holds another key than the resource's fingerprint names."""

    error_code = "key_mismatch"


class StateUnusable(Halt):
    """The state topic cannot be gone on from. Its message ends with what a person can do."""

    error_code = "state_unusable"

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}; restore state.sync from a backup, or start anew under another topicPrefix")


class CheckpointLost(StateUnusable):
    """The state topic holds no checkpoint, though the wallet has already spoken, or it lost records."""

    error_code = "checkpoint_lost"


class CheckpointCorrupt(StateUnusable):
    """The state topic's records contradict each other."""

    error_code = "checkpoint_corrupt"


class ForkBelowWindow(Halt):
    """The chain forked below the window of unsettled blocks."""

    error_code = "fork_below_window"


class GasAddressChanged(Halt):
    """The resource names another gas address than the wallet has recorded."""

    error_code = "gas_address_changed"


class TopicsOfAnotherWallet(Halt):
    """The state topic carries another wallet's identity."""

    error_code = "topics_of_another_wallet"


class TopicsMisconfigured(Halt):
    """Topics are missing or have settings that could lose records."""

    error_code = "topics_misconfigured"


# --- answers of a port or an automaton ----------------------------------------------------------------------------


class Superseded(WalletError):
    """The ledger grew since the state was read: another leader wrote. Nothing was sent."""

    error_code = "superseded"


class OutcomeUnknown(WalletError):
    """The ledger cannot say whether the records were written: read the state again."""

    error_code = "outcome_unknown"


class NotCanonical(WalletError):
    """A JSON text has no canonical form."""

    error_code = "not_canonical"


class OrderRefused(WalletError):
    """An order that cannot be carried out, and never will be as it stands. Nothing was changed."""

    error_code = "order_refused"


class NodeDeclined(WalletError):
    """No node answers that question, though they do answer: it is no archive, or the range is too large for it."""

    error_code = "node_declined"


class AuditImpossible(WalletError):
    """An audit that cannot be carried out as it was asked for. The text says what to do."""

    error_code = "audit_impossible"


class SettingsSuperseded(WalletError):
    """A worker with newer settings has written the checkpoint; this one must not lead."""

    error_code = "settings_superseded"

    def __init__(self, message: str, generation: int) -> None:
        super().__init__(message)
        self.generation = generation
        """Of the checkpoint's settings."""


class IllegalMove(WalletError):
    """A move that the automaton does not allow. Nothing was changed."""

    error_code = "illegal_move"
