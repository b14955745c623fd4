"""Each role's environment, made from the resource and read back."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from resources import FULL, GAS, MINIMAL, SECRET, SPEC
from wallet_core.addresses import Address, checksum_address
from wallet_core.errors import InvalidSetting
from wallet_core.resource import API_VERSION, KIND, WalletManager, parse_resource
from wallet_core.settings import (
    ROLE_SETTINGS,
    BootstrapSettings,
    CommandSettings,
    Role,
    SyncSettings,
    environment,
    settings_from_environment,
    settings_hash,
)

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
        "WALLET_CHAIN_QUORUM",
        "WALLET_CHAIN_RPC",
        "WALLET_CHAIN_CONFIRMATION_DEPTH",
        "WALLET_CHAIN_SETTLE_DEPTH",
        "WALLET_CHAIN_START_BLOCK",
        "WALLET_CHAIN_VERIFY",
        "WALLET_KAFKA_PARTITIONS",
        "WALLET_KAFKA_REPLICATION_FACTOR",
        "WALLET_KAFKA_CREATE_TOPICS",
        "WALLET_REDIS_URL",
        "WALLET_ACCOUNTS_FINGERPRINT",
        "WALLET_TUNING_TRANSACTION_TIMEOUT_SECONDS",
        "WALLET_BOOTSTRAPPED",
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
        "WALLET_CHAIN_QUORUM",
        "WALLET_CHAIN_RPC",
        "WALLET_CHAIN_CONFIRMATION_DEPTH",
        "WALLET_CHAIN_SETTLE_DEPTH",
        "WALLET_CHAIN_STALE_AFTER_SECONDS",
        "WALLET_CHAIN_VERIFY",
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
after_scheme = st.from_regex(r"node(:[1-9][0-9]{0,3})?/[!-~]{0,30}", fullmatch=True)
symbols = st.from_regex(r"[A-Za-z0-9.]{1,16}", fullmatch=True)
contracts = st.binary(min_size=20, max_size=20).map(Address).map(checksum_address)
natives: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries({"type": st.just("native"), "symbol": symbols})
tokens: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"type": st.just("erc20"), "symbol": symbols, "contract": contracts, "decimals": st.integers(0, 255)}
)
asset_items = natives | tokens


def _symbol(asset: dict[str, Any]) -> object:
    return asset["symbol"]


def _contract(asset: dict[str, Any]) -> object:
    return asset.get("contract")


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
                                    {"url": after_scheme.map("https://{}".format)},
                                    optional={"wsUrl": after_scheme.map("ws://{}".format)},
                                ),
                                st.fixed_dictionaries({"urlFrom": secret_sources}),
                            ),
                            min_size=1,
                            max_size=3,
                            unique_by=lambda endpoint: str(endpoint.get("url", endpoint.get("urlFrom"))),
                        ),
                    },
                    optional={
                        "confirmation": st.one_of(
                            st.fixed_dictionaries({"depth": st.integers(1, 10_000)}), st.just({"tag": "finalized"})
                        ),
                        "settleDepth": st.integers(1, 10_000),
                        "quorum": st.just(1),
                        "verify": st.booleans(),
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
                "assets": st.lists(asset_items, min_size=1, max_size=64, unique_by=(_symbol, _contract)),
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
        "bootstrapped": False,
    }
    return {name: whole[name] for name in ROLE_SETTINGS[role].model_fields}


@pytest.mark.parametrize("role", Role)
def test_what_concerns_pods_only_is_in_no_environment(role: Role) -> None:
    """Another number of replicas, image or node restarts no worker for its settings, and wants no new generation."""
    without = copy.deepcopy(FULL)
    for field in ("paused", "image", "imagePullSecrets", "pod"):
        del without["spec"][field]
    for section, field in (("accounts", "replicas"), ("accounts", "suspend"), ("accounts", "resources")):
        del without["spec"][section][field]
    del without["spec"]["sync"]
    assert environment(parse_resource(without), role) == environment(parse_resource(FULL), role)


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


def test_bootstrap_is_told_what_is_known_of_the_wallets_past() -> None:
    """It is no setting: the hash of the settings does not know it."""
    fresh, known = (
        environment(parse_resource(FULL), Role.BOOTSTRAP, bootstrapped=bootstrapped) for bootstrapped in (False, True)
    )
    read = [settings_from_environment(ROLE_SETTINGS[Role.BOOTSTRAP], each) for each in (fresh, known)]
    assert [each.bootstrapped for each in read if isinstance(each, BootstrapSettings)] == [False, True]
    assert settings_hash(fresh) == settings_hash(known)


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
