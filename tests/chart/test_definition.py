"""The definition of the resource: it takes and refuses what the wallet's own code does, and says what to do."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from definition_cases import IMMUTABLE, REFERENCE, REFUSED, SET, changed
from resource_definition import CHART, DEFINITION, SCHEMA, VERSION, defaulted, faults, schemas
from resources import FULL, GAS, MINIMAL
from wallet_core.errors import InvalidSetting
from wallet_core.resource import Spec, parse_resource
from wallet_core.settings import Role
from wallet_operator.pods import WorkerPod
from wallet_operator.reports import Report
from wallet_operator.status import View, next_status

SPEC_SCHEMA = SCHEMA["properties"]["spec"]
STATUS_SCHEMA = SCHEMA["properties"]["status"]
EXAMPLES = sorted((CHART.parents[2] / "examples").glob("*.yaml"))
LIMITS = {
    "minimum": "minimum", "maximum": "maximum", "minLength": "minLength", "maxLength": "maxLength",
    "minItems": "minItems", "maxItems": "maxItems", "maxProperties": "maxProperties", "pattern": "pattern",
    "enum": "enum",
}  # fmt: skip
OTHER = {"secretKeyRef": {**REFERENCE["secretKeyRef"], "key": "c"}}
CHECKED_BY_CODE = {"assets[].contract", "sweep.gasAddress", "accounts.fingerprint"}
"""Where the definition has a limit that the wallet's code states as a function, or states twice."""


def facts(schema: dict[str, Any]) -> dict[str, Any]:
    """What a schema demands of one value, in the words of both."""
    found = {ours: schema[theirs] for theirs, ours in LIMITS.items() if theirs in schema}
    if "const" in schema:
        found["enum"] = [schema["const"]]
    if "enum" in found:
        found["enum"] = sorted(found["enum"])
    if schema.get("type") in {"integer", "number", "boolean", "string", "array", "object"}:
        found["type"] = schema["type"]
    if isinstance(schema.get("default"), str | int | float):  # of whole parts: a test of its own
        found["default"] = schema["default"]
    return found


def fields_of_the_code() -> dict[str, dict[str, Any]]:
    """Every field of the wallet's own model, with what it demands. Both branches of a union are merged."""
    whole = TypeAdapter(Spec).json_schema(by_alias=True)
    found: dict[str, dict[str, Any]] = {}

    def walk(schema: dict[str, Any], path: str, required: bool) -> None:
        inherited = {key: schema[key] for key in ("default",) if key in schema}
        if "$ref" in schema:
            schema = {**whole["$defs"][schema["$ref"].rpartition("/")[2]], **inherited}
        branches = [each for each in schema.get("anyOf", schema.get("oneOf", ())) if each.get("type") != "null"]
        if path == "chain.startBlock":  # `latest` or a number: a test of its own
            return
        if branches:
            for branch in branches:
                walk({**branch, **inherited}, path, required)
            return
        known = found.setdefault(path, {"required": required})
        new = facts(schema)
        if "enum" in known and "enum" in new:
            new["enum"] = sorted({*known["enum"], *new["enum"]})
        known |= new
        for name, part in schema.get("properties", {}).items():
            below = f"{path}.{name}" if path else name
            walk(part, below, name in schema.get("required", ()))
        if "items" in schema:
            walk(schema["items"], f"{path}[]", required=False)
        if isinstance(schema.get("additionalProperties"), dict):
            walk(schema["additionalProperties"], path + "{}", required=False)

    walk(whole, "", required=False)
    del found[""]
    return found


def fields_of_the_definition() -> dict[str, dict[str, Any]]:
    """The same of the definition."""
    found: dict[str, dict[str, Any]] = {}
    for path, schema in schemas(SPEC_SCHEMA):
        parent, _, name = path.rpartition(".")
        owner = dict(schemas(SPEC_SCHEMA))[parent]
        found[path] = {"required": name in owner.get("required", ()), **facts(dict(schema))}
    del found[""]
    return found


def test_the_definition_has_the_fields_of_the_code() -> None:
    """A field that only one of them knows could be set and do nothing, or not be set at all."""
    assert set(fields_of_the_definition()) == {*fields_of_the_code(), "chain.startBlock"}


@pytest.mark.parametrize("path", sorted(fields_of_the_code()))
def test_a_field_has_the_limits_and_default_of_the_code(path: str) -> None:
    """What a cluster takes, `walletctl` takes, with the same meaning."""
    definition, code = fields_of_the_definition()[path], fields_of_the_code()[path]
    if path in {"assets[].contract", "assets[].decimals"}:
        code["required"] = False  # one of two kinds of assets has it: rules say so
    if path in CHECKED_BY_CODE:
        definition.pop("pattern", None)
        code.pop("pattern", None)
        definition.pop("maxLength")
        code.pop("maxLength", None)
    if "{}" in path or path.endswith("tolerationSeconds"):
        definition.pop("type", None)
        code.pop("type", None)
    assert definition == code


@pytest.mark.parametrize("document", [FULL, MINIMAL], ids=["full", "minimal"])
def test_a_good_document_is_taken_and_means_the_same(document: dict[str, Any]) -> None:
    """The defaults that the API server writes into a resource are those that `walletctl run` would use."""
    assert faults(document) == []
    assert parse_resource(defaulted(document)).spec == parse_resource(document).spec


def without_empty(value: Any) -> Any:
    """An empty part means the same as none."""
    if isinstance(value, dict):
        parts = {name: without_empty(part) for name, part in value.items()}
        return {name: part for name, part in parts.items() if part not in ({}, [])}
    return value


def test_a_short_document_is_stored_with_all_of_its_defaults() -> None:
    """`kubectl get -o yaml` shows what the wallet goes by."""
    spec = parse_resource(MINIMAL).spec.model_dump(by_alias=True, mode="json", exclude_none=True)
    assert without_empty(defaulted(MINIMAL)["spec"]) == without_empty(spec)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_each_example_is_taken_by_both(path: Any) -> None:
    """A newcomer's first `kubectl apply` works."""
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        if document["kind"] == DEFINITION["spec"]["names"]["kind"]:
            assert faults(document) == []
            parse_resource(document)


@pytest.mark.parametrize(("path", "value", "words"), REFUSED)
def test_a_bad_document_is_refused_by_both(path: str, value: object, words: str) -> None:
    """What is wrong is said at `kubectl apply`, not minutes later in a log, and `walletctl` agrees."""
    document = changed(FULL, path, value)
    assert any(words in fault for fault in faults(document)), faults(document)
    with pytest.raises(InvalidSetting):
        parse_resource(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(("spec.kafka.bootstrapServers", f"[::1]:{port},kafka:{port}") for port in ("1", "09092", 9999, 60000, 65535)),
        *(("spec.redis.url", f"redis://{rest}") for rest in ("r", "r:65535/0", "u:99999@r:6379", "[::1]:6379/1")),
        ("spec.chain.rpc.0.url", "https://key:70000@node.example/v2/x:99999/?a=:99999"),
        ("spec.chain.rpc", [{"url": "http://a"}, {"url": "http://b"}, {"urlFrom": REFERENCE}, {"urlFrom": OTHER}]),
    ],
)
def test_a_rule_does_not_refuse_what_is_right(path: str, value: object) -> None:
    """Any port that there is, a password of digits, and keys of one Secret for several endpoints."""
    document = changed(FULL, path, value)
    assert faults(document) == []
    parse_resource(document)


@pytest.mark.parametrize(("path", "value", "words"), IMMUTABLE)
def test_what_never_changes_cannot_be_changed_nor_removed(path: str, value: object, words: str) -> None:
    """A wallet that lost its chain, topics or key would begin another history in the old one's place."""
    new = changed(SET, path, value)
    assert faults(new) == []
    assert any(words in fault for fault in faults(new, old=SET)), faults(new, old=SET)


def test_everything_else_can_be_changed() -> None:
    """A wallet is tuned, scaled and moved to other nodes while it runs."""
    new = changed(changed(SET, "spec.sync.shards", 5), "spec.chain.rpc.0.url", "http://other:8545")
    assert faults(changed(new, "spec.sweep.gasAddress", GAS.lower()), old=SET) == []
    without = changed(SET, "spec.sweep", {})
    assert faults(changed(without, "spec.sweep.gasAddress", GAS), old=without) == []


@pytest.mark.parametrize(
    ("value", "is_good"), [("latest", True), (0, True), (2**53 - 1, True), (2**53, False), ("7", False)]
)
def test_the_start_is_a_block_or_the_newest_settled_one(value: object, is_good: bool) -> None:
    """The one field of two types means the same to both."""
    document = changed(FULL, "spec.chain.startBlock", value)
    assert (faults(document) == []) is is_good
    if is_good:
        parse_resource(document)
    else:
        with pytest.raises(InvalidSetting):
            parse_resource(document)


def test_every_list_and_text_has_a_limit() -> None:
    """The API server refuses rules whose cost it cannot bound, and nobody can store a megabyte in a field."""
    limits = {"array": "maxItems", "string": "maxLength"}
    for path, schema in [*schemas(SPEC_SCHEMA), *schemas(STATUS_SCHEMA)]:
        kind = schema.get("type")
        if kind in limits and "enum" not in schema and schema.get("format") != "date-time":
            assert limits[kind] in schema, path
        if "additionalProperties" in schema:
            assert "maxProperties" in schema, path


def test_parents_of_defaults_have_one_themselves() -> None:
    """A default below a parent that is left out would not be written."""
    known = dict(schemas(SPEC_SCHEMA))
    for path, schema in known.items():
        parent = path.rpartition(".")[0]
        if "default" not in schema or not parent or "[]" in parent or "{}" in parent:
            continue
        owner, name = known[parent.rpartition(".")[0]], parent.rpartition(".")[2]
        assert "default" in known[parent] or name in owner.get("required", ()), path


def test_every_rule_says_what_to_do() -> None:
    """The default message would be the rule itself, which only its author can read."""
    for path, schema in schemas(SCHEMA):
        for rule in schema.get("x-kubernetes-validations", ()):
            assert re.search(r";|needs", rule["message"]), path


WORKER = WorkerPod(
    "mainnet-sync-0", "uid", Role.SYNC, "10.0.0.1", is_over=False, is_going=False, is_ready=True, trouble="",
    exit_code=None, last_words="",
)  # fmt: skip
LEADING = {"leading": True, "reason": "Working", "block": 9, "lag": 0, "traces_available": False}


@pytest.mark.parametrize(
    "view",
    [
        View(generation=3),
        View(generation=3, refusal="spec.chain.rpc is refused", paused=True),
        View(generation=3, bootstrapped=True, pods=(WORKER,), reports=(Report(WORKER, LEADING, 0.0),), shards=1),
    ],
    ids=["new", "refused", "working"],
)
def test_what_the_operator_says_is_kept_whole(view: View) -> None:
    """The API server drops what the definition does not know, and nobody is told."""
    status = {name: value for name, value in next_status(view, {}, 0.0).items() if value is not None}
    assert faults({**FULL, "status": status}) == []


def test_kubectl_get_shows_what_runs_and_what_is_wrong() -> None:
    """At a glance: how many, whether all is well, where it is, how far behind, and why not."""
    columns = VERSION["additionalPrinterColumns"]
    assert [each["name"] for each in columns] == ["Shards", "Ready", "Block", "Lag", "Reason", "Age", "Checked"]
    assert [each["name"] for each in columns if each.get("priority")] == ["Checked"]
    known = {path for path, _ in schemas(STATUS_SCHEMA)}
    for column in columns:
        path = column["jsonPath"].removeprefix(".status.").partition("[")[0]
        assert path in known or column["jsonPath"] == ".metadata.creationTimestamp"


def test_kubectl_scale_changes_the_shards() -> None:
    """`kubectl scale` and autoscalers reach the field, and find the pods that they count."""
    assert VERSION["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.sync.shards",
            "statusReplicasPath": ".status.shards",
            "labelSelectorPath": ".status.selector",
        },
    }
