"""The resource, each role's environment, and the way between them."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from wallet_core.errors import InvalidSetting
from wallet_core.settings import (
    API_VERSION,
    KIND,
    ROLE_SETTINGS,
    BootstrapSettings,
    CommandSettings,
    Role,
    SyncSettings,
    WalletManager,
    environment,
    parse_resource,
    settings_from_environment,
    settings_hash,
)

GAS = "0x302FA11a6E784DFa89f96942a919C09B45559676"
FULL: dict[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": KIND,
    "metadata": {"name": "mainnet", "namespace": "wallets", "uid": "whatever the API server adds"},
    "spec": {
        "chain": {
            "id": 1,
            "rpc": [
                {"url": "http://geth:8545", "wsUrl": "ws://geth:8546"},
                {"urlFrom": {"secretKeyRef": {"name": "provider", "key": "url"}}},
            ],
            "confirmation": {"depth": 9},
            "settleDepth": 65,
            "startBlock": 17,
            "staleAfterSeconds": 121,
        },
        "kafka": {
            "bootstrapServers": "k1:9092,k2:9092",
            "topicPrefix": "eu.",
            "partitions": 13,
            "replicationFactor": 2,
            "createTopics": False,
        },
        "redis": {"url": "redis://redis:6379/0"},
        "accounts": {
            "replicas": 2,
            "fingerprint": "5c" * 20,
            "xpubFrom": {"secretKeyRef": {"name": "accounts", "key": "xpub"}},
        },
        "assets": [{"type": "native", "symbol": "ETH"}],
        "sync": {"shards": 2},
        "sweep": {"gasAddress": GAS},
        "tuning": {"lockTtlSeconds": 31, "transactionTimeoutSeconds": 16, "pollSeconds": 0.5},
    },
    "status": {"conditions": []},
}
SPEC = FULL["spec"]
MINIMAL: dict[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": KIND,
    "metadata": {"name": "mainnet"},
    "spec": {
        "chain": {"id": 1, "rpc": [{"url": "http://geth:8545"}]},
        "kafka": {"bootstrapServers": "kafka:9092"},
        "redis": {"url": "redis://redis:6379/0"},
        "accounts": {"fingerprint": "5c" * 20, "xpubFrom": {"secretKeyRef": {"name": "accounts", "key": "xpub"}}},
        "assets": [{"type": "native", "symbol": "ETH"}],
    },
}
MISSING = object()


def changed(path: str, value: object) -> dict[str, Any]:
    """The full document with one field set, or taken out."""
    document = copy.deepcopy(FULL)
    *parents, last = path.split(".")
    part: Any = document
    for step in parents:
        part = part[int(step)] if step.isdigit() else part[step]
    if value is MISSING:
        del part[last]
    else:
        part[int(last) if last.isdigit() else last] = value
    return document


# --- the resource --------------------------------------------------------------------------------------------------


def test_every_field_of_the_resource_is_read() -> None:
    """What a person writes is what the wallet does; what the API server adds is ignored."""
    wallet = parse_resource(FULL)
    assert wallet.qualified_name == "wallets.mainnet"
    assert wallet.spec.model_dump(by_alias=True, mode="json", exclude_none=True) == SPEC


def test_a_short_resource_gets_the_documented_defaults() -> None:
    """Nobody must write what nearly everybody wants."""
    wallet = parse_resource(MINIMAL)
    assert wallet.qualified_name == "default.mainnet"
    assert wallet.spec.model_dump(by_alias=True, mode="json", exclude_none=True) == {
        "chain": {
            "id": 1,
            "rpc": [{"url": "http://geth:8545"}],
            "confirmation": {"depth": 12},
            "settleDepth": 64,
            "startBlock": "latest",
            "staleAfterSeconds": 120,
        },
        "kafka": {
            "bootstrapServers": "kafka:9092",
            "topicPrefix": "",
            "partitions": 12,
            "replicationFactor": 3,
            "createTopics": True,
        },
        "redis": {"url": "redis://redis:6379/0"},
        "accounts": {"fingerprint": "5c" * 20, "xpubFrom": {"secretKeyRef": {"name": "accounts", "key": "xpub"}}},
        "assets": [{"type": "native", "symbol": "ETH"}],
        "sync": {"shards": 1},
        "sweep": {},
        "tuning": {"transactionTimeoutSeconds": 15, "lockTtlSeconds": 30, "pollSeconds": 1.0},
    }


@pytest.mark.parametrize(
    ("path", "value", "setting"),
    [
        ("apiVersion", "v1", "apiVersion"),
        ("kind", "Pod", "kind"),
        ("metadata.name", MISSING, "metadata.name"),
        ("metadata.name", "Main Net", "metadata.name"),
        ("metadata.name", "x" * 41, "metadata.name"),
        ("metadata.namespace", "", "metadata.namespace"),
        ("spec", MISSING, "spec"),
        ("spec", None, "spec"),
        ("spec.chain", MISSING, "spec.chain"),
        ("spec.chain.id", MISSING, "spec.chain.id"),
        ("spec.chain.id", "1", "spec.chain.id"),
        ("spec.chain.id", True, "spec.chain.id"),
        ("spec.chain.id", 0, "spec.chain.id"),
        ("spec.chain.rpc", [], "spec.chain.rpc"),
        ("spec.chain.rpc", "http://geth:8545", "spec.chain.rpc"),
        ("spec.chain.rpc.0.url", "geth:8545", "spec.chain.rpc.0.url"),
        ("spec.chain.rpc.0.url", "http://", "spec.chain.rpc.0.url"),
        ("spec.chain.rpc.0.url", "http://a\nb", "spec.chain.rpc.0.url"),
        ("spec.chain.rpc.0.wsUrl", "http://geth:8546", "spec.chain.rpc.0.wsUrl"),
        ("spec.chain.rpc.0", {}, "spec.chain.rpc.0"),
        ("spec.chain.rpc.1.url", "http://a", "spec.chain.rpc.1"),
        ("spec.chain.rpc.1.urlFrom.secretKeyRef.name", "../../etc", "spec.chain.rpc.1.urlFrom.secretKeyRef.name"),
        ("spec.chain.rpc.1.urlFrom.secretKeyRef.key", "..", "spec.chain.rpc.1.urlFrom.secretKeyRef.key"),
        ("spec.chain.confirmation", {}, "spec.chain.confirmation"),
        ("spec.chain.confirmation", {"depth": 3, "tag": "finalized"}, "spec.chain.confirmation"),
        ("spec.chain.confirmation.depth", 0, "spec.chain.confirmation.depth"),
        ("spec.chain.confirmation.tag", "safe", "spec.chain.confirmation.tag"),
        ("spec.chain.settleDepth", 0, "spec.chain.settleDepth"),
        ("spec.chain.startBlock", "newest", "spec.chain.startBlock"),
        ("spec.chain.startBlock", -1, "spec.chain.startBlock"),
        ("spec.chain.startBlock", True, "spec.chain.startBlock"),
        ("spec.chain.startBlock", None, "spec.chain.startBlock"),
        ("spec.chain.staleAfterSeconds", 1.5, "spec.chain.staleAfterSeconds"),
        ("spec.kafka.bootstrapServers", "kafka", "spec.kafka.bootstrapServers"),
        ("spec.kafka.topicPrefix", "a b", "spec.kafka.topicPrefix"),
        ("spec.kafka.partitions", 0, "spec.kafka.partitions"),
        ("spec.kafka.replicationFactor", "3", "spec.kafka.replicationFactor"),
        ("spec.kafka.createTopics", "false", "spec.kafka.createTopics"),
        ("spec.redis", {}, "spec.redis"),
        ("spec.redis.url", "http://redis", "spec.redis.url"),
        ("spec.redis.url", "redis://redis:notaport/0", "spec.redis.url"),
        ("spec.redis.url", "redis://:hun/ter2@redis", "spec.redis.url"),
        ("spec.redis.url", "redis://redis/zero", "spec.redis.url"),
        ("spec.kafka.bootstrapServers", "kafka:9092,kafka:99999", "spec.kafka.bootstrapServers"),
        ("spec.accounts.replicas", 0, "spec.accounts.replicas"),
        ("spec.accounts.fingerprint", "5C" * 20, "spec.accounts.fingerprint"),
        ("spec.accounts.fingerprint", "5c" * 20 + "\n", "spec.accounts.fingerprint"),
        ("spec.accounts.xpubFrom", MISSING, "spec.accounts.xpubFrom"),
        ("spec.assets", [], "spec.assets"),
        ("spec.assets", [{"type": "native", "symbol": "ETH"}] * 2, "spec.assets"),
        ("spec.assets.0.symbol", "", "spec.assets.0.symbol"),
        ("spec.sync.shards", 0, "spec.sync.shards"),
        ("spec.sweep.gasAddress", GAS[:-1], "spec.sweep.gasAddress"),
        ("spec.sweep.gasAddress", GAS.replace("FA", "fA"), "spec.sweep.gasAddress"),
        ("spec.tuning.lockTtlSeconds", 0, "spec.tuning.lockTtlSeconds"),
        ("spec.tuning.transactionTimeoutSeconds", 0, "spec.tuning.transactionTimeoutSeconds"),
        ("spec.tuning.pollSeconds", 0, "spec.tuning.pollSeconds"),
        ("spec.tuning.pollSeconds", "1", "spec.tuning.pollSeconds"),
        ("spec.tuning.pollSeconds", float("nan"), "spec.tuning.pollSeconds"),
        ("spec.colour", "red", "spec.colour"),
        ("spec.chain.confirmation.dept", 3, "spec.chain.confirmation.dept"),
        ("spec.kafka.topic_prefix", "eu.", "spec.kafka.topic_prefix"),
    ],
)
def test_a_missing_malformed_or_unknown_field_is_named_in_one_line(path: str, value: object, setting: str) -> None:
    """Whoever wrote the resource finds the place; nothing is guessed, corrected or passed over."""
    with pytest.raises(InvalidSetting) as raised:
        parse_resource(changed(path, value))
    assert raised.value.setting == setting
    assert len(str(raised.value).splitlines()) == 1
    assert str(raised.value).startswith(f"{setting}: ")


@pytest.mark.parametrize("document", [None, [], "x", 1, {"a": {1, 2}}, {}])
def test_what_is_no_resource_at_all_is_refused_in_one_line(document: object) -> None:
    """An empty file or another kind of YAML is a wrong setting, not a crash."""
    with pytest.raises(InvalidSetting) as raised:
        parse_resource(document)
    assert len(str(raised.value).splitlines()) == 1


def test_tokens_are_refused_by_name() -> None:
    """Somebody who lists a token must learn that this release does not follow it."""
    asset = {"type": "erc20", "symbol": "USDT", "contract": "0xdAC17F958D2ee523a2206206994597C13D831ec7", "decimals": 6}
    with pytest.raises(InvalidSetting, match=r"^spec\.assets\.0\.type: 'erc20' is not in this release"):
        parse_resource(changed("spec.assets.0", asset))


SECRET = "s3cret-t0ken"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.chain.rpc.0.url", f"ftp://user:{SECRET}@node"),
        ("spec.chain.rpc.0.url", f"https://node /{SECRET}"),
        ("spec.chain.rpc.0.url", f"https://node/{SECRET}" + "x" * 2048),
        ("spec.chain.rpc.0", f"https://node/{SECRET}"),
        ("spec.chain.rpc.1.url", f"https://node/{SECRET}"),
        ("spec.chain.rpc.0.wsUrl", f"https://node/{SECRET}"),
        ("spec.chain.rpc", {"url": f"https://node/{SECRET}"}),
        ("spec.chain.rpc.0.uri", f"https://node/{SECRET}"),
        ("spec.redis.url", f"http://:{SECRET}@redis"),
        ("spec.redis", f"redis://:{SECRET}@redis"),
        ("spec.redis", {"url": f"redis://:{SECRET}@redis", "urlFrom": {}}),
        ("spec.accounts.xpubFrom", SECRET),
    ],
)
def test_a_secret_in_a_wrong_place_is_not_repeated(path: str, value: object) -> None:
    """Errors are logged and end up in conditions that many may read."""
    with pytest.raises(InvalidSetting) as raised:
        parse_resource(changed(path, value))
    error: BaseException | None = raised.value
    assert SECRET not in str(error)
    assert error is not None
    assert error.__cause__ is None
    assert error.__suppress_context__, "a traceback would show the value"


def test_settings_cannot_be_changed_while_running() -> None:
    """A worker runs with what it was started with."""
    wallet = parse_resource(FULL)
    for part, field in ((wallet.spec, "chain"), (wallet.spec.chain, "id"), (wallet.spec.kafka, "topic_prefix")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, field, getattr(part, field))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(wallet.metadata, "name", "other")  # noqa: B010 - mypy knows already that it cannot be assigned


# --- environments --------------------------------------------------------------------------------------------------

COMMON = [
    "WALLET_NAMESPACE",
    "WALLET_NAME",
    "WALLET_CHAIN_ID",
    "WALLET_KAFKA_BOOTSTRAP_SERVERS",
    "WALLET_KAFKA_TOPIC_PREFIX",
]
VARIABLES = {
    Role.BOOTSTRAP: [
        *COMMON,
        "WALLET_CHAIN_RPC",
        "WALLET_CHAIN_CONFIRMATION_DEPTH",
        "WALLET_CHAIN_SETTLE_DEPTH",
        "WALLET_CHAIN_START_BLOCK",
        "WALLET_KAFKA_PARTITIONS",
        "WALLET_KAFKA_REPLICATION_FACTOR",
        "WALLET_KAFKA_CREATE_TOPICS",
        "WALLET_REDIS_URL",
        "WALLET_ACCOUNTS_FINGERPRINT",
        "WALLET_TUNING_TRANSACTION_TIMEOUT_SECONDS",
    ],
    Role.COMMAND: [
        *COMMON,
        "WALLET_ACCOUNTS_FINGERPRINT",
        "WALLET_ACCOUNTS_XPUB_FROM_SECRET_KEY_REF_NAME",
        "WALLET_ACCOUNTS_XPUB_FROM_SECRET_KEY_REF_KEY",
        "WALLET_TUNING_TRANSACTION_TIMEOUT_SECONDS",
    ],
    Role.SYNC: [
        *COMMON,
        "WALLET_CHAIN_RPC",
        "WALLET_CHAIN_CONFIRMATION_DEPTH",
        "WALLET_CHAIN_SETTLE_DEPTH",
        "WALLET_CHAIN_STALE_AFTER_SECONDS",
        "WALLET_KAFKA_PARTITIONS",
        "WALLET_REDIS_URL",
        "WALLET_ASSETS",
        "WALLET_SWEEP_GAS_ADDRESS",
        "WALLET_TUNING_TRANSACTION_TIMEOUT_SECONDS",
        "WALLET_TUNING_LOCK_TTL_SECONDS",
        "WALLET_TUNING_POLL_SECONDS",
        "WALLET_GENERATION",
    ],
}


@pytest.mark.parametrize("role", Role)
def test_a_role_gets_only_what_it_reads(role: Role) -> None:
    """A change that a role does not read must not restart it, and no role learns where others' keys are."""
    assert sorted(environment(parse_resource(FULL), role)) == sorted(VARIABLES[role])


def test_environments_are_text_that_a_person_can_read() -> None:
    """Text as it is, everything else as JSON."""
    variables = environment(parse_resource(FULL), Role.SYNC, generation=5)
    assert variables["WALLET_CHAIN_CONFIRMATION_DEPTH"] == "9"
    assert variables["WALLET_KAFKA_TOPIC_PREFIX"] == "eu."
    assert variables["WALLET_TUNING_POLL_SECONDS"] == "0.5"
    assert variables["WALLET_GENERATION"] == "5"
    assert json.loads(variables["WALLET_CHAIN_RPC"]) == SPEC["chain"]["rpc"]
    assert environment(parse_resource(FULL), Role.BOOTSTRAP)["WALLET_CHAIN_START_BLOCK"] == "17"
    assert environment(parse_resource(MINIMAL), Role.BOOTSTRAP)["WALLET_CHAIN_START_BLOCK"] == "latest"


names = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True)
namespaces = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
secret_sources = st.fixed_dictionaries(
    {
        "secretKeyRef": st.fixed_dictionaries(
            {"name": names, "key": st.from_regex(r"[A-Za-z0-9._-]{0,5}[A-Za-z0-9_-]", fullmatch=True)}
        )
    }
)
hosts = st.from_regex(r"[!-~]{1,30}", fullmatch=True)
redis_urls = st.from_regex(r"rediss?://(:[A-Za-z0-9%]{1,20}@)?[a-z]{1,10}(:[1-9][0-9]{0,3})?(/[0-9]?)?", fullmatch=True)
documents = st.fixed_dictionaries(
    {
        "apiVersion": st.just(API_VERSION),
        "kind": st.just(KIND),
        "metadata": st.fixed_dictionaries({"name": names}, optional={"namespace": namespaces}),
        "spec": st.fixed_dictionaries(
            {
                "chain": st.fixed_dictionaries(
                    {
                        "id": st.integers(1, 2**53 - 1),
                        "rpc": st.lists(
                            st.one_of(
                                st.fixed_dictionaries(
                                    {"url": hosts.map("https://{}".format)},
                                    optional={"wsUrl": hosts.map("ws://{}".format)},
                                ),
                                st.fixed_dictionaries({"urlFrom": secret_sources}),
                            ),
                            min_size=1,
                            max_size=3,
                        ),
                    },
                    optional={
                        "confirmation": st.one_of(
                            st.fixed_dictionaries({"depth": st.integers(1, 10_000)}), st.just({"tag": "finalized"})
                        ),
                        "settleDepth": st.integers(1, 10_000),
                        "startBlock": st.just("latest") | st.integers(0, 2**53 - 1),
                        "staleAfterSeconds": st.integers(0, 86_400),
                    },
                ),
                "kafka": st.fixed_dictionaries(
                    {"bootstrapServers": st.sampled_from(["kafka:9092", "a:1,b:2"])},
                    optional={
                        "topicPrefix": st.from_regex(r"[A-Za-z0-9._-]{0,20}", fullmatch=True),
                        "partitions": st.integers(1, 1000),
                        "replicationFactor": st.integers(1, 15),
                        "createTopics": st.booleans(),
                    },
                ),
                "redis": st.one_of(
                    st.fixed_dictionaries({"url": redis_urls}),
                    st.fixed_dictionaries({"urlFrom": secret_sources}),
                ),
                "accounts": st.fixed_dictionaries(
                    {"fingerprint": st.from_regex(r"[0-9a-f]{40}", fullmatch=True), "xpubFrom": secret_sources},
                    optional={"replicas": st.integers(1, 1000)},
                ),
                "assets": st.from_regex(r"[A-Za-z0-9.]{1,16}", fullmatch=True).map(
                    lambda symbol: [{"type": "native", "symbol": symbol}]
                ),
            },
            optional={
                "sync": st.fixed_dictionaries({"shards": st.integers(1, 64)}),
                "sweep": st.fixed_dictionaries({}, optional={"gasAddress": st.just(GAS)}),
                "tuning": st.fixed_dictionaries(
                    {},
                    optional={
                        "lockTtlSeconds": st.integers(1, 600),
                        "transactionTimeoutSeconds": st.integers(1, 900),
                        "pollSeconds": st.floats(0.05, 60),
                    },
                ),
            },
        ),
    }
)


def expected_settings(wallet: WalletManager, role: Role, generation: int) -> dict[str, Any]:
    """The part of the spec that a role's model has fields for, taken field by field."""
    spec = wallet.spec
    whole = {
        "namespace": wallet.metadata.namespace,
        "name": wallet.metadata.name,
        "chain": spec.chain,
        "kafka": spec.kafka,
        "redis": spec.redis,
        "accounts": spec.accounts,
        "assets": spec.assets,
        "sweep": spec.sweep,
        "tuning": spec.tuning,
        "generation": generation,
    }
    return {name: whole[name] for name in ROLE_SETTINGS[role].model_fields}


@given(documents, st.sampled_from(Role), st.integers(1, 2**31))
def test_a_worker_reads_back_what_the_resource_says(document: dict[str, Any], role: Role, generation: int) -> None:
    """Spec → environment → settings loses and changes nothing, for any resource and role."""
    wallet = parse_resource(document)
    found = settings_from_environment(ROLE_SETTINGS[role], environment(wallet, role, generation))
    for name, expected in expected_settings(wallet, role, generation).items():
        part = getattr(found, name)
        if isinstance(part, BaseModel):
            for field in type(part).model_fields:
                assert getattr(part, field) == getattr(expected, field), (name, field)
        else:
            assert part == expected, name


@given(documents, st.sampled_from(Role))
def test_surroundings_do_not_matter(document: dict[str, Any], role: Role) -> None:
    """A pod's other variables change neither the settings nor their hash."""
    variables = environment(parse_resource(document), role)
    with_others = variables | {"PATH": "/bin", "WALLET_SECRETS_DIR": "/secrets", "WALLET_HTTP_ADDRESS": "0.0.0.0:8080"}
    model = ROLE_SETTINGS[role]
    assert settings_from_environment(model, with_others) == settings_from_environment(model, variables)
    assert settings_hash(with_others) == settings_hash(variables)


def test_the_hash_tells_settings_apart_but_not_generations() -> None:
    """A new generation with the same settings is no change; every other variable is."""
    variables = environment(parse_resource(FULL), Role.SYNC, generation=1)
    assert settings_hash(variables) == settings_hash(environment(parse_resource(FULL), Role.SYNC, generation=2))
    for name in variables.keys() - {"WALLET_GENERATION"}:
        assert settings_hash(variables | {name: "other"}) != settings_hash(variables), name
        assert settings_hash({key: value for key, value in variables.items() if key != name}) != settings_hash(
            variables
        ), name


@pytest.mark.parametrize(
    ("model", "variable"),
    [
        *((BootstrapSettings, name) for name in (*COMMON[:4], "WALLET_CHAIN_RPC", "WALLET_ACCOUNTS_FINGERPRINT")),
        *((CommandSettings, name) for name in VARIABLES[Role.COMMAND] if "TUNING" not in name and "PREFIX" not in name),
        *((SyncSettings, name) for name in (*COMMON[:4], "WALLET_CHAIN_RPC", "WALLET_ASSETS", "WALLET_GENERATION")),
    ],
)
def test_a_missing_variable_is_named_in_one_line(
    model: type[BootstrapSettings | CommandSettings | SyncSettings], variable: str
) -> None:
    """Exit code 2 comes with the one thing to mend."""
    role = next(role for role, settings in ROLE_SETTINGS.items() if settings is model)
    variables = environment(parse_resource(FULL), role)
    del variables[variable]
    with pytest.raises(InvalidSetting) as raised:
        settings_from_environment(model, variables)
    assert str(raised.value) == f"{variable}: is missing"


def test_an_empty_environment_names_the_first_variable() -> None:
    """A worker started by hand says what it needs first."""
    for model in ROLE_SETTINGS.values():
        with pytest.raises(InvalidSetting, match=r"^WALLET_NAMESPACE: is missing"):
            settings_from_environment(model, {})


@pytest.mark.parametrize("role", Role)
def test_a_malformed_variable_is_named_in_one_line_and_not_repeated(role: Role) -> None:
    """The value may be a URL with a key in it."""
    variables = environment(parse_resource(FULL), role)
    free_text = {"WALLET_KAFKA_TOPIC_PREFIX", "WALLET_ACCOUNTS_XPUB_FROM_SECRET_KEY_REF_KEY"}
    for name in variables.keys() - free_text:
        for value in (f"?{SECRET}", f'{{"url": "{SECRET}"}}', f'["{SECRET}"]'):
            with pytest.raises(InvalidSetting) as raised:
                settings_from_environment(ROLE_SETTINGS[role], variables | {name: value})
            assert raised.value.setting == name
            assert len(str(raised.value).splitlines()) == 1
            assert SECRET not in str(raised.value)


def test_a_part_that_needs_one_of_two_variables_is_named() -> None:
    """Neither `url` nor `urlFrom`: the line says which two there are."""
    variables = environment(parse_resource(FULL), Role.SYNC)
    del variables["WALLET_REDIS_URL"]
    with pytest.raises(InvalidSetting, match=r"^WALLET_REDIS: needs exactly one of url and urlFrom$"):
        settings_from_environment(SyncSettings, variables)
