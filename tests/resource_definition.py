"""What the API server makes of a WalletManager by its definition: defaults, the schema, and the rules in CEL.

Only the parts of it that the definition uses. Unknown fields are named as `kubectl apply` does under its strict
validation; the API server itself would drop them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cel
import jsonschema
import yaml

CHART = Path(__file__).resolve().parents[1] / "deploy/helm/wallet-manager"
DEFINITION: dict[str, Any] = yaml.safe_load((CHART / "files/walletmanagers.yaml").read_text(encoding="utf-8"))
VERSION: dict[str, Any] = DEFINITION["spec"]["versions"][0]
SCHEMA: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]
_MISSING = object()


def defaulted(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document as it is stored."""
    whole = copy.deepcopy(dict(document))
    _set_defaults(whole, SCHEMA)
    return whole


def faults(document: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> list[str]:
    """Why the API server refuses to make it, or to change `old` into it; empty if it does not."""
    whole = defaulted(document)
    found = [f"unknown field {path}" for path in _unknown(whole, SCHEMA, "")]
    validator = jsonschema.Draft202012Validator(_plain(SCHEMA))
    found += [f"{error.json_path}: {error.message}" for error in validator.iter_errors(whole)]
    found += _broken_rules(SCHEMA, whole, defaulted(old) if old is not None else _MISSING, "")
    return found


def schemas(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema in a schema, with its path."""
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from schemas(part, f"{path}.{name}" if path else name)
    for keyword, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if keyword in schema:
            yield from schemas(schema[keyword], path + mark)


def _set_defaults(value: Any, schema: Mapping[str, Any]) -> None:
    if isinstance(value, dict):
        for name, part in schema.get("properties", {}).items():
            if name not in value and "default" in part:
                value[name] = copy.deepcopy(part["default"])
            if name in value:
                _set_defaults(value[name], part)
    elif isinstance(value, list):
        for each in value:
            _set_defaults(each, schema["items"])


def _unknown(value: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    if isinstance(value, list):
        for place, each in enumerate(value):
            yield from _unknown(each, schema["items"], f"{path}[{place}]")
    elif isinstance(value, dict) and "properties" in schema:
        for name, each in value.items():
            if name in schema["properties"]:
                yield from _unknown(each, schema["properties"][name], f"{path}.{name}".lstrip("."))
            elif "additionalProperties" not in schema:
                yield f"{path}.{name}".lstrip(".")


def _plain(schema: Any) -> Any:
    """As a JSON schema: Kubernetes' own keywords say nothing there, but a type that may be two."""
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {name: _plain(part) for name, part in schema.items() if not name.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        plain["type"] = ["integer", "string"]
    return plain


def _broken_rules(schema: Mapping[str, Any], value: Any, old: Any, path: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" in rule["rule"] and old is _MISSING:
            continue
        context = cel.Context()
        context.add_function("lowerAscii", str.lower)
        context.add_variable("self", value)
        if old is not _MISSING:
            context.add_variable("oldSelf", old)
        if cel.evaluate(rule["rule"], context) is not True:
            yield f"{path}{rule.get('fieldPath', '')}: {rule['message']}"
    if isinstance(value, dict):
        for name, part in schema.get("properties", {}).items():
            if name in value:
                before = old[name] if isinstance(old, dict) and name in old else _MISSING
                yield from _broken_rules(part, value[name], before, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for place, each in enumerate(value):  # a list is one value: its items have no earlier selves
            yield from _broken_rules(schema["items"], each, _MISSING, f"{path}[{place}]")
