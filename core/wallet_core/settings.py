"""Each worker's environment, made from the resource, and read back.

Each role gets a *projection* of the spec, the model named after it (`SyncSettings`, …), and only that: what a role's
model does not have is not in its environment. A projection is flattened into variables by the path of each field,

    spec.chain.confirmation.depth: 12   ⇄   WALLET_CHAIN_CONFIRMATION_DEPTH=12

where text stays as it is and everything else (numbers, lists) is JSON. Both whoever starts a worker (`environment`) and
the worker itself (`settings_from_environment`) use this module, so what one writes the other reads, wherever the worker
runs.

An error is one `InvalidSetting`: one line that names the variable and what it should be.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError

from wallet_core.errors import InvalidSetting
from wallet_core.resource import (
    KUBERNETES_NAME,
    NAMESPACE,
    AccountFingerprint,
    AccountKeySource,
    Assets,
    ChainFollowing,
    ChainId,
    ChainStart,
    Kafka,
    KafkaConnection,
    KafkaTopics,
    Redis,
    SpecModel,
    Sweep,
    TransactionTuning,
    Tuning,
    WalletManager,
    first_fault,
    qualified_name,
)

GENERATION_VARIABLE = "WALLET_GENERATION"
BOOTSTRAPPED_VARIABLE = "WALLET_BOOTSTRAPPED"


class Role(StrEnum):
    """What a worker process does."""

    BOOTSTRAP = "bootstrap"
    COMMAND = "command"
    SYNC = "sync"


class RoleSettings(SpecModel):
    """What every role reads."""

    namespace: str = Field(min_length=1, pattern=NAMESPACE)
    name: str = Field(min_length=1, pattern=KUBERNETES_NAME)

    @property
    def qualified_name(self) -> str:
        """`<namespace>.<name>`."""
        return qualified_name(self.namespace, self.name)


class BootstrapSettings(RoleSettings):
    """The environment of `bootstrap`."""

    chain: ChainStart
    kafka: Kafka
    redis: Redis
    accounts: AccountFingerprint
    tuning: TransactionTuning
    bootstrapped: bool
    """Whether somebody knows that the wallet has had its checkpoint: then an empty Kafka is not where it begins."""


class CommandSettings(RoleSettings):
    """The environment of `command`."""

    chain: ChainId
    kafka: KafkaConnection
    accounts: AccountKeySource
    tuning: TransactionTuning


class SyncSettings(RoleSettings):
    """The environment of `sync`."""

    chain: ChainFollowing
    kafka: KafkaTopics
    redis: Redis
    assets: Assets
    sweep: Sweep
    tuning: Tuning
    generation: int = Field(ge=1)
    """The resource's generation when this environment last changed; one lower than the checkpoint's never leads."""


ROLE_SETTINGS: Mapping[Role, type[RoleSettings]] = {
    Role.BOOTSTRAP: BootstrapSettings,
    Role.COMMAND: CommandSettings,
    Role.SYNC: SyncSettings,
}

_S = TypeVar("_S", bound=RoleSettings)


def environment(
    wallet: WalletManager, role: Role, generation: int = 1, *, bootstrapped: bool = False
) -> dict[str, str]:
    """The environment variables of one role's workers.

    `generation` is used by `sync` only; it starts at 1. `bootstrapped` is used by `bootstrap` only.
    """
    whole = wallet.spec.model_dump(by_alias=True, mode="json", exclude_none=True)
    whole |= {"namespace": wallet.metadata.namespace, "name": wallet.metadata.name, "generation": generation}
    whole["bootstrapped"] = bootstrapped
    variables: dict[str, str] = {}
    _flatten(ROLE_SETTINGS[role], whole, "WALLET", variables)
    return variables


def settings_from_environment(model: type[_S], environ: Mapping[str, str]) -> _S:
    """A role's settings as a worker finds them. Raises InvalidSetting, which names the variable.

    No default applies here: whoever wrote the environment wrote every value, and a lost one must not become another.
    """
    try:
        return model.model_validate_json(json.dumps(_unflatten(model, environ, "WALLET")))
    except ValidationError as error:
        raise first_fault(error, lambda path: _variable(model, path)) from None


def settings_hash(variables: Mapping[str, str]) -> str:
    """What makes two environments of one role alike: a hash of all the variables that the resource decides."""
    relevant = {
        name: value
        for name, value in variables.items()
        if name.startswith("WALLET_") and name not in {*HISTORY_VARIABLES, *PROCESS_VARIABLES}
    }
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]


HISTORY_VARIABLES = frozenset({GENERATION_VARIABLE, BOOTSTRAPPED_VARIABLE})
"""What became of the wallet so far: no setting of its own."""
PROCESS_VARIABLES = frozenset({"WALLET_SECRETS_DIR", "WALLET_HTTP_ADDRESS"})
"""Where a process finds its files and serves its status: its surroundings, not the wallet's settings."""


def _part(annotation: object) -> type[BaseModel] | None:
    """The model behind a field of type `Model` or `Model | None`; None for a leaf."""
    candidates = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    models = [each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)]
    return models[0] if models else None


def _variable_name(prefix: str, alias: str) -> str:
    return f"{prefix}_{re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', alias).upper()}"


def _flatten(model: type[BaseModel], values: Mapping[str, Any], prefix: str, variables: dict[str, str]) -> None:
    for name, field in model.model_fields.items():
        alias = field.alias or name
        if alias not in values:
            continue
        variable, value = _variable_name(prefix, alias), values[alias]
        if part := _part(field.annotation):
            _flatten(part, value, variable, variables)
        else:
            variables[variable] = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _unflatten(model: type[BaseModel], environ: Mapping[str, str], prefix: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        alias = field.alias or name
        variable = _variable_name(prefix, alias)
        may_be_absent = field.default is None
        if part := _part(field.annotation):
            if not may_be_absent or any(name.startswith(f"{variable}_") for name in environ):
                values[alias] = _unflatten(part, environ, variable)
        elif variable in environ:
            values[alias] = _decode(environ[variable], field.annotation)
        elif not may_be_absent:
            raise InvalidSetting(variable, "is missing")
    return values


def _decode(text: str, annotation: object) -> object:
    """Text stays text where the field may be text; else JSON, and what is no JSON stays for the validator to name."""
    if annotation is str or str in get_args(annotation):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _variable(model: type[BaseModel], path: tuple[str, ...]) -> str:
    """The variable that holds the field at a validation error's path."""
    variable, current = "WALLET", model
    for step in path:
        fields = {field.alias or name: field for name, field in current.model_fields.items()}
        if step not in fields:
            break
        variable = _variable_name(variable, step)
        part = _part(fields[step].annotation)
        if part is None:
            break
        current = part
    return variable
