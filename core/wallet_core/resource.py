"""The `WalletManager` resource: the only configuration, one wallet on one chain.

`parse_resource` checks a whole document, as YAML or the API server gives it. Parts that several roles read in different
breadth are built on each other (`ChainId`, `ChainEndpoints`, … `Chain`), so that `settings` can give each role its part
and no more. An error is one `InvalidSetting`: one line that names the field and what it should be, and never repeats a
value, which could be a secret.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from wallet_core.addresses import checksum_address, parse_address
from wallet_core.errors import InvalidSetting

API_VERSION = "wallet-manager.dev/v1alpha1"
KIND = "WalletManager"
PORT_MAX = 65_535
KUBERNETES_NAME = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"
NAMESPACE = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
"""A DNS label: without dots, `<namespace>.<name>` can be read in one way only."""
IMAGE = (
    r"^[a-z0-9]([a-z0-9._-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]([a-z0-9._-]*[a-z0-9])?)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$"
)
"""A container image: repository, and tag or digest or both."""
_SYMBOL = r"^[A-Za-z0-9.]+$"


def _exactly_one(model: BaseModel, *names: str) -> None:
    if sum(getattr(model, name) is not None for name in names) != 1:
        raise ValueError("needs exactly one of " + " and ".join(map(to_camel, names)))


class SpecModel(BaseModel):
    """A frozen part of the spec: camelCase outside, unknown fields refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        strict=True,
        hide_input_in_errors=True,
    )


class SecretKeyRef(SpecModel):
    """One key of a Kubernetes Secret; for a worker always the file `<name>/<key>` below its secrets directory."""

    name: str = Field(min_length=1, max_length=253, pattern=KUBERNETES_NAME)
    key: str = Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9._-]*[A-Za-z0-9_-][A-Za-z0-9._-]*$")


class SecretSource(SpecModel):
    """Where a secret value comes from."""

    secret_key_ref: SecretKeyRef


class RpcEndpoint(SpecModel):
    """One Ethereum JSON-RPC endpoint: `url`, or `urlFrom` where the URL carries a key."""

    url: str | None = Field(default=None, max_length=2048, pattern=r"^https?://\S+$")
    url_from: SecretSource | None = None
    ws_url: str | None = Field(default=None, max_length=2048, pattern=r"^wss?://\S+$")
    """Optional WebSocket endpoint of the same node: new heads without polling."""

    @field_validator("url", "ws_url")
    @classmethod
    def _port_exists(cls, value: str | None) -> str | None:
        try:
            is_port = value is None or urlsplit(value).port != 0
        except ValueError:  # its own text repeats what was written
            is_port = False
        if not is_port:
            raise ValueError(f"a port is a number from 1 to {PORT_MAX}")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        _exactly_one(self, "url", "url_from")
        return self


class Confirmation(SpecModel):
    """When a deposit is final: `depth` blocks (in the newest block it has depth 1), or the `finalized` tag."""

    depth: int | None = Field(default=None, ge=1, le=10_000)
    tag: Literal["finalized"] | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        _exactly_one(self, "depth", "tag")
        return self


class ChainId(SpecModel):
    """The chain's number by EIP-155."""

    id: int = Field(ge=1, le=2**53 - 1)


class ChainEndpoints(ChainId):
    """How to reach the chain."""

    rpc: tuple[RpcEndpoint, ...] = Field(min_length=1, max_length=8)
    """Tried in order."""
    quorum: int = Field(default=1, ge=1, le=8)
    """How many endpoints must agree on a block's hash before it may settle."""
    verify: bool = False
    """Whether block hashes, transactions, receipts and withdrawals are recomputed from what they are made of."""

    @field_validator("rpc")
    @classmethod
    def _distinct(cls, value: tuple[RpcEndpoint, ...]) -> tuple[RpcEndpoint, ...]:
        sources = [each.url or each.url_from for each in value]
        for place, source in enumerate(sources):
            if source in sources[:place]:
                first = sources.index(source)
                raise ValueError(f"endpoints {first + 1} and {place + 1} are one; it would have two votes in a quorum")
        return value

    @model_validator(mode="after")
    def _reachable_quorum(self) -> Self:
        if self.quorum > len(self.rpc):
            raise ValueError(f"quorum {self.quorum} needs as many rpc endpoints, and there are {len(self.rpc)}")
        return self


class ChainFinality(ChainEndpoints):
    """When a block is final."""

    confirmation: Confirmation = Confirmation(depth=12)
    settle_depth: int = Field(default=64, ge=1, le=10_000)
    """Blocks; a block leaves the window of unsettled blocks when it is confirmed and this deep."""


class ChainStart(ChainFinality):
    """Where the wallet's history begins."""

    start_block: Literal["latest"] | Annotated[int, Field(ge=0, le=2**53 - 1)] = "latest"
    """Deposits are reported from this block on at the latest; `latest`: from the one after the newest settled block,
    where scanning begins at the latest in any case. Resolved once, by bootstrap."""

    @field_validator("start_block", mode="before")
    @classmethod
    def _latest_or_a_number(cls, value: object) -> object:
        is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
        if value != "latest" and not is_number:  # one sentence instead of pydantic's one for each branch of the union
            raise ValueError("Input should be 'latest' or a block number")
        return value


class ChainFollowing(ChainFinality):
    """How the chain is followed."""

    stale_after_seconds: int = Field(default=120, ge=0, le=86_400)
    """Age of the node's newest block beyond which it is not trusted to be current; 0: never."""


class Chain(ChainStart, ChainFollowing):
    """The chain of this wallet."""


class KafkaConnection(SpecModel):
    """How to reach Kafka."""

    bootstrap_servers: str = Field(min_length=1, max_length=2048, pattern=r"^[^,\s]+:\d+(,[^,\s]+:\d+)*$")
    topic_prefix: str = Field(default="", max_length=100, pattern=r"^[A-Za-z0-9._-]*$")

    @field_validator("bootstrap_servers")
    @classmethod
    def _ports_exist(cls, value: str) -> str:
        if any(not 0 < int(server.rpartition(":")[2]) <= PORT_MAX for server in value.split(",")):
            raise ValueError(f"a port is a number from 1 to {PORT_MAX}")
        return value


class KafkaTopics(KafkaConnection):
    """Kafka, and how many partitions must have been read for all addresses to be known."""

    partitions: int = Field(default=12, ge=1, le=1000)
    """Partitions of each public topic."""


class Kafka(KafkaTopics):
    """Kafka, and how the wallet's topics are made."""

    replication_factor: int = Field(default=3, ge=1, le=15)
    create_topics: bool = True
    """False: bootstrap checks the topics and creates none."""


def check_redis_url(text: str) -> str:
    """The URL itself. Raises ValueError, which repeats nothing of it, for what redis-py could not connect to."""
    try:
        parts = urlsplit(text)
        database = parts.path.removeprefix("/")
        usable = parts.scheme in {"redis", "rediss"} and bool(parts.hostname) and parts.port != 0
        usable = usable and (not database or database.isdecimal())
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(
            "should be redis://[user:password@]host[:port][/database], with special characters of the password as %xx"
        )
    return text


class Redis(SpecModel):
    """Redis: `url`, or `urlFrom` where the URL carries a password."""

    url: str | None = Field(default=None, max_length=2048, pattern=r"^rediss?://\S+$")
    url_from: SecretSource | None = None

    @field_validator("url")
    @classmethod
    def _usable(cls, value: str | None) -> str | None:
        return value if value is None else check_redis_url(value)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        _exactly_one(self, "url", "url_from")
        return self


class AccountFingerprint(SpecModel):
    """Which account key is meant."""

    fingerprint: str = Field(pattern=r"^[0-9a-f]{40}$")
    """The account key's 20-byte BIP-32 identifier, 40 lower-case hex digits."""


class AccountKeySource(AccountFingerprint):
    """The account's public key."""

    xpub_from: SecretSource


def _quantity(value: object) -> object:
    """`cpu: 1` is as usual as `cpu: 500m`."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_QUANTITY = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
    r"(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)
Quantity = Annotated[str, Field(max_length=32, pattern=_QUANTITY), BeforeValidator(_quantity)]
"""An amount of a compute resource, as Kubernetes writes it: 500m, 1, 256Mi."""
Quantities = Annotated[dict[str, Quantity], Field(max_length=16)]


class Resources(SpecModel):
    """What one worker may use, in Kubernetes."""

    requests: Quantities = {}
    limits: Quantities = {}


class Accounts(AccountKeySource):
    """The workers that answer `create_account`."""

    replicas: int | None = Field(default=None, ge=1, le=1000)
    """Absent: somebody else, an autoscaler for example, decides."""
    suspend: bool = False
    """True: none run; commands wait on Kafka."""
    resources: Resources = Resources()


class NativeAsset(SpecModel):
    """The chain's own coin."""

    decimals: ClassVar[int] = 18
    contract: ClassVar[None] = None
    key: ClassVar[str] = "native"
    """What the asset is to the wallet and its checkpoint, whatever its symbol."""
    type: Literal["native"]
    symbol: str = Field(min_length=1, max_length=16, pattern=_SYMBOL)


class Erc20Asset(SpecModel):
    """A token, by its contract."""

    type: Literal["erc20"]
    symbol: str = Field(min_length=1, max_length=16, pattern=_SYMBOL)
    contract: str = Field(max_length=42)
    """With EIP-55's checksum: a mistyped contract would be another token."""
    decimals: int = Field(ge=0, le=255)
    """Base units in a whole one, as a power of ten; the contract's own `decimals()`."""

    @property
    def key(self) -> str:
        """Identity of the asset in the checkpoint: its contract, 0x and 40 lower-case hex digits."""
        return self.contract.lower()

    @field_validator("contract")
    @classmethod
    def _checksummed(cls, value: str) -> str:
        expected = checksum_address(parse_address(value))
        if value != expected:
            raise ValueError(f"an address without its checksum (EIP-55); if it is right, write {expected}")
        return value


Asset = Annotated[NativeAsset | Erc20Asset, Field(discriminator="type")]
ASSETS_MAX = 64
_ASSET_TYPES = ("native", "erc20")


def _distinct_assets(assets: tuple[NativeAsset | Erc20Asset, ...]) -> tuple[NativeAsset | Erc20Asset, ...]:
    for what, values in (("symbol", [each.symbol for each in assets]), ("asset", [each.key for each in assets])):
        if twice := next((value for place, value in enumerate(values) if value in values[:place]), None):
            raise ValueError(f"the {what} {twice} is there twice")
    return assets


Assets = Annotated[tuple[Asset, ...], Field(min_length=1, max_length=ASSETS_MAX), AfterValidator(_distinct_assets)]
"""What is reported. The chain's own coin may be left out."""


class Sync(SpecModel):
    """The workers that follow the chain."""

    shards: int = Field(default=1, ge=1, le=64)
    resources: Resources = Resources()


class Sweep(SpecModel):
    """What sync must know of sweeping."""

    gas_address: str | None = Field(default=None, max_length=42)
    """The account's gas address, m/44'/60'/<account>'/0'/0: ETH that its transactions send is never a deposit."""

    @field_validator("gas_address")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        if value is not None:
            parse_address(value)
        return value


class TransactionTuning(SpecModel):
    """Limits of a Kafka writer."""

    transaction_timeout_seconds: int = Field(default=15, ge=1, le=900)
    """A transaction left open by a dead process holds back readers for so long."""


class Tuning(TransactionTuning):
    """Time limits that tests shorten."""

    lock_ttl_seconds: int = Field(default=30, ge=1, le=600)
    poll_seconds: float = Field(default=1.0, ge=0.05, le=60)
    """How often the node is asked for its tip where nothing announces new heads."""


class Toleration(SpecModel):
    """Kubernetes' own."""

    key: str | None = Field(default=None, max_length=317)
    operator: Literal["Exists", "Equal"] | None = None
    value: str | None = Field(default=None, max_length=63)
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class PullSecret(SpecModel):
    """A Secret with credentials of a registry."""

    name: str = Field(min_length=1, max_length=253, pattern=KUBERNETES_NAME)


class Pod(SpecModel):
    """What all of the wallet's pods have besides, in Kubernetes."""

    node_selector: dict[str, Annotated[str, Field(max_length=63)]] = Field(default={}, max_length=64)
    tolerations: tuple[Toleration, ...] = Field(default=(), max_length=32)
    affinity: dict[str, Any] = {}
    """Kubernetes' own, checked by the API server."""
    annotations: dict[str, Annotated[str, Field(max_length=4096)]] = Field(default={}, max_length=64)


class Spec(SpecModel):
    """`spec` of a `WalletManager`."""

    chain: Chain
    kafka: Kafka
    redis: Redis
    accounts: Accounts
    assets: Assets
    sync: Sync = Sync()
    sweep: Sweep = Sweep()
    tuning: Tuning = Tuning()
    paused: bool = False
    """True: the operator changes nothing of what runs, and only reports."""
    image: str | None = Field(default=None, max_length=512, pattern=IMAGE)
    """The workers' image; absent: the operator's own choice."""
    image_pull_secrets: tuple[PullSecret, ...] = Field(default=(), max_length=8)
    pod: Pod = Pod()


class Metadata(BaseModel):
    """The part of a resource's metadata that the wallet uses."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    name: str = Field(min_length=1, max_length=40, pattern=KUBERNETES_NAME)
    namespace: str = Field(default="default", min_length=1, max_length=63, pattern=NAMESPACE)


class WalletManager(BaseModel):
    """The whole resource: one wallet on one chain."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, hide_input_in_errors=True)

    api_version: Literal["wallet-manager.dev/v1alpha1"]
    kind: Literal["WalletManager"]
    metadata: Metadata
    spec: Spec

    @property
    def qualified_name(self) -> str:
        """`<namespace>.<name>`, which Redis keys, consumer groups and transactional ids start with."""
        return qualified_name(self.metadata.namespace, self.metadata.name)


def qualified_name(namespace: str, name: str) -> str:
    """`<namespace>.<name>`, which Redis keys, consumer groups and transactional ids start with."""
    return f"{namespace}.{name}"


def parse_resource(document: object) -> WalletManager:
    """Check a `WalletManager` document, as YAML or the API server gives it. Raises InvalidSetting."""
    try:
        # Validation through JSON: lists become tuples, while strings and numbers still do not become each other.
        return WalletManager.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise first_fault(error, ".".join) from None
    except (TypeError, ValueError) as error:
        raise InvalidSetting("document", f"is no WalletManager resource: {error}") from None


def _path_in_resource(location: tuple[int | str, ...]) -> tuple[str, ...]:
    """The same without the names that pydantic puts in for the branch of a union that it took."""
    return tuple(
        str(step)
        for place, step in enumerate(location)
        if not (step in _ASSET_TYPES and isinstance(location[place - 1], int))
    )


def first_fault(error: ValidationError, name_of: Callable[[tuple[str, ...]], str]) -> InvalidSetting:
    """The first fault that pydantic found, in one line; `name_of` names the setting at a path."""
    faults = error.errors(include_url=False, include_input=False)
    fault = faults[0]
    path = _path_in_resource(fault["loc"])
    problem = {"missing": "is missing", "extra_forbidden": "is unknown"}.get(
        fault["type"], fault["msg"].removeprefix("Value error, ")
    )
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return InvalidSetting(name_of(path) or "document", problem + more)
