"""The resource: every field is read, and every fault is named in one line that repeats no value."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from resources import FULL, GAS, MINIMAL, SECRET, SPEC, USDT
from wallet_core.errors import InvalidSetting
from wallet_core.resource import parse_resource

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
            "quorum": 1,
            "verify": False,
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
        "accounts": {
            "fingerprint": "5c" * 20,
            "xpubFrom": {"secretKeyRef": {"name": "accounts", "key": "xpub"}},
            "suspend": False,
            "resources": {"requests": {}, "limits": {}},
        },
        "assets": [{"type": "native", "symbol": "ETH"}],
        "sync": {"shards": 1, "resources": {"requests": {}, "limits": {}}},
        "sweep": {},
        "tuning": {"transactionTimeoutSeconds": 15, "lockTtlSeconds": 30, "pollSeconds": 1.0},
        "paused": False,
        "imagePullSecrets": [],
        "pod": {"nodeSelector": {}, "tolerations": [], "affinity": {}, "annotations": {}},
    }


@pytest.mark.parametrize("quantity", ["1", "500m", "0.5", "256Mi", "1e3", "10G", 2])
def test_amounts_of_compute_resources_are_kubernetes_own(quantity: object) -> None:
    """Whatever `kubectl` takes is taken, a plain number too."""
    wallet = parse_resource(changed("spec.sync.resources.limits.cpu", quantity))
    assert wallet.spec.sync.resources.limits == {"cpu": str(quantity)}


@pytest.mark.parametrize(
    "image", ["workers", "workers:v1", "ghcr.io/a/b-c/workers:1.2_3", "localhost:5000/w", "w@sha256:" + "0" * 64]
)
def test_an_image_is_named_by_tag_or_digest(image: str) -> None:
    """A registry's port is no tag."""
    assert parse_resource(changed("spec.image", image)).spec.image == image


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
        ("spec.chain.rpc.0.url", "http://geth:99999", "spec.chain.rpc.0.url"),
        ("spec.chain.rpc.0.url", "http://geth:hunter2", "spec.chain.rpc.0.url"),
        ("spec.chain.rpc.0.wsUrl", "ws://geth:0", "spec.chain.rpc.0.wsUrl"),
        ("spec.accounts.replicas", 0, "spec.accounts.replicas"),
        ("spec.accounts.fingerprint", "5C" * 20, "spec.accounts.fingerprint"),
        ("spec.accounts.fingerprint", "5c" * 20 + "\n", "spec.accounts.fingerprint"),
        ("spec.accounts.xpubFrom", MISSING, "spec.accounts.xpubFrom"),
        ("spec.assets", [], "spec.assets"),
        ("spec.assets", [{"type": "native", "symbol": "ETH"}] * 2, "spec.assets"),
        ("spec.assets", [{"type": "native", "symbol": "A"}, {"type": "native", "symbol": "B"}], "spec.assets"),
        ("spec.assets", [USDT, {**USDT, "symbol": "USDT2"}], "spec.assets"),
        ("spec.assets", [{"type": "native", "symbol": "USDT"}, USDT], "spec.assets"),
        ("spec.assets", [{**USDT, "symbol": f"T{n}", "contract": f"0x{n:040}"} for n in range(65)], "spec.assets"),
        ("spec.assets.0", {"type": "erc721", "symbol": "APE"}, "spec.assets.0"),
        ("spec.assets.0", {"symbol": "ETH"}, "spec.assets.0"),
        ("spec.assets.0.decimals", 18, "spec.assets.0.decimals"),
        ("spec.assets.1.contract", MISSING, "spec.assets.1.contract"),
        ("spec.assets.1.contract", USDT["contract"][:-1], "spec.assets.1.contract"),
        ("spec.assets.1.contract", USDT["contract"].lower(), "spec.assets.1.contract"),
        ("spec.assets.1.contract", USDT["contract"].replace("dAC", "dac"), "spec.assets.1.contract"),
        ("spec.assets.1.decimals", MISSING, "spec.assets.1.decimals"),
        ("spec.assets.1.decimals", -1, "spec.assets.1.decimals"),
        ("spec.assets.1.decimals", 256, "spec.assets.1.decimals"),
        ("spec.assets.1.decimals", "6", "spec.assets.1.decimals"),
        ("spec.assets.1.symbol", "US DT", "spec.assets.1.symbol"),
        ("spec.assets.0.symbol", "", "spec.assets.0.symbol"),
        ("spec.sync.shards", 0, "spec.sync.shards"),
        ("spec.sweep.gasAddress", GAS[:-1], "spec.sweep.gasAddress"),
        ("spec.sweep.gasAddress", GAS.replace("FA", "fA"), "spec.sweep.gasAddress"),
        ("spec.tuning.lockTtlSeconds", 0, "spec.tuning.lockTtlSeconds"),
        ("spec.tuning.transactionTimeoutSeconds", 0, "spec.tuning.transactionTimeoutSeconds"),
        ("spec.tuning.pollSeconds", 0, "spec.tuning.pollSeconds"),
        ("spec.tuning.pollSeconds", "1", "spec.tuning.pollSeconds"),
        ("spec.tuning.pollSeconds", float("nan"), "spec.tuning.pollSeconds"),
        ("spec.accounts.suspend", "yes", "spec.accounts.suspend"),
        ("spec.accounts.resources.limits.memory", "1 GB", "spec.accounts.resources.limits.memory"),
        ("spec.accounts.resources.limits.memory", True, "spec.accounts.resources.limits.memory"),
        ("spec.sync.resources.limit", {"cpu": "1"}, "spec.sync.resources.limit"),
        ("spec.paused", 1, "spec.paused"),
        ("spec.image", "Workers", "spec.image"),
        ("spec.image", "workers:", "spec.image"),
        ("spec.image", "workers@sha256:12", "spec.image"),
        ("spec.image", "https://registry/workers", "spec.image"),
        ("spec.imagePullSecrets", [{"name": f"s{n}"} for n in range(9)], "spec.imagePullSecrets"),
        ("spec.imagePullSecrets.0.name", "A b", "spec.imagePullSecrets.0.name"),
        ("spec.pod.nodeSelector", {"disk": 1}, "spec.pod.nodeSelector.disk"),
        ("spec.pod.tolerations.0.operator", "Is", "spec.pod.tolerations.0.operator"),
        ("spec.pod.tolerations.0.effect", "Never", "spec.pod.tolerations.0.effect"),
        ("spec.pod.annotations", {"a": "x" * 4097}, "spec.pod.annotations.a"),
        ("spec.pod.labels", {}, "spec.pod.labels"),
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


def test_a_wallet_may_have_tokens_only() -> None:
    """The chain's own coin is an asset like any other."""
    assets = parse_resource(changed("spec.assets", [USDT])).spec.assets
    assert [(each.key, each.symbol, each.decimals) for each in assets] == [(USDT["contract"].lower(), "USDT", 6)]


def test_an_asset_is_known_by_what_it_is_and_not_by_its_symbol() -> None:
    """A token by its contract, the chain's own coin by being it: another symbol is no other asset."""
    before = parse_resource(changed("spec.assets.1.symbol", "USDT")).spec.assets
    after = parse_resource(changed("spec.assets.1.symbol", "Tether")).spec.assets
    assert [each.key for each in before] == [each.key for each in after] == ["native", USDT["contract"].lower()]


def test_a_contract_without_checksum_is_refused_with_the_right_one() -> None:
    """A mistyped contract would be another token, so its checksum is not optional; whoever is sure finds it here."""
    with pytest.raises(InvalidSetting, match=USDT["contract"]):
        parse_resource(changed("spec.assets.1.contract", USDT["contract"].lower()))


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


@pytest.mark.parametrize(
    "source",
    [{"url": f"https://node/{SECRET}"}, {"urlFrom": {"secretKeyRef": {"name": "provider", "key": SECRET}}}],
)
def test_an_endpoint_that_is_there_twice_is_refused(source: dict[str, object]) -> None:
    """One node would have two votes in a quorum; another `wsUrl` makes no other node of it."""
    twice = [source, {"url": "http://other"}, {**source, "wsUrl": "ws://node"}]
    with pytest.raises(InvalidSetting, match=r"^spec\.chain\.rpc: endpoints 1 and 3 are one") as raised:
        parse_resource(changed("spec.chain.rpc", twice))
    assert SECRET not in str(raised.value)


def test_settings_cannot_be_changed_while_running() -> None:
    """A worker runs with what it was started with."""
    wallet = parse_resource(FULL)
    for part, field in ((wallet.spec, "chain"), (wallet.spec.chain, "id"), (wallet.spec.kafka, "topic_prefix")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, field, getattr(part, field))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(wallet.metadata, "name", "other")  # noqa: B010 - mypy knows already that it cannot be assigned
