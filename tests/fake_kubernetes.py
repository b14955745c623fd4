"""A Kubernetes API server as far as the operator uses one: objects in memory, watches, server-side apply, rights.

Apply is the real one's for a single manager: what the manifest says replaces what is there, fields of others stay.
Generations, uids and resourceVersions move as on the real one.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from kubernetes.aio import client

from wallet_operator.api import Api
from wallet_operator.kinds import CHILD_KINDS, EVENT, LEASE, POD, WALLETS, Kind

Object = dict[str, Any]
_KINDS = {kind.plural: kind for kind in (*CHILD_KINDS, WALLETS, POD, EVENT, LEASE)}
_ONLY_DISCOVERED = (
    Kind("v1", "Namespace", "namespaces"),
    Kind("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions"),
)
"""What kopf wants to exist, and does not read."""
_NOT_COUNTED = {"metadata", "status", "apiVersion", "kind"}


class FakeKubernetes:
    """See the module."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        """By plural, namespace and name."""
        self.requests: list[tuple[str, str]] = []
        """Method and path of everything that was asked."""
        self.shown: set[tuple[str, str]] = set()
        """Plural and name of everything that was in a list or a watch."""
        self.denied: set[tuple[str, str]] = set()
        """Verb and resource (with its subresource) of rights that are not granted."""
        self.refusal: Callable[[str, str], tuple[int, str] | None] = lambda _method, _path: None
        """What is answered instead: status and message."""
        self._numbers = itertools.count(1)
        self._watches: list[tuple[str, str, Any, asyncio.Queue[Object]]] = []  # plural, namespace, query
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Api]:
        """A client of this server meanwhile."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        configuration = client.Configuration(host=self.url)
        api = Api(configuration)
        try:
            yield api
        finally:
            await api.close()
            await runner.cleanup()

    def put(self, document: Object) -> Object:
        """Make an object, as anybody else would."""
        plural = next(kind.plural for kind in _KINDS.values() if kind.kind == document["kind"])
        return self._store(plural, copy.deepcopy(document))

    def of(self, plural: str) -> dict[str, Object]:
        """All objects of a kind, by name."""
        return {name: each for (found, _, name), each in self.objects.items() if found == plural}

    def change(self, plural: str, namespace: str, name: str, change: Callable[[Object], None]) -> None:
        """Change an object, as anybody else would."""
        before = self.objects[plural, namespace, name]
        after = copy.deepcopy(before)
        change(after)
        self._store(plural, after)

    def _store(self, plural: str, document: Object) -> Object:
        metadata = document.setdefault("metadata", {})
        where = (plural, metadata.get("namespace", ""), metadata["name"])
        before = self.objects.get(where)
        number = next(self._numbers)
        metadata.setdefault("uid", before["metadata"]["uid"] if before else f"uid-{number}")
        metadata.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        metadata["resourceVersion"] = str(number)
        is_changed = before is None or _counted(before) != _counted(document)
        metadata["generation"] = (before["metadata"]["generation"] if before else 0) + is_changed
        if before is not None and _without_version(before) == _without_version(document):
            return before
        self.objects[where] = document
        self._announce("MODIFIED" if before else "ADDED", plural, document)
        return document

    def remove(self, plural: str, namespace: str, name: str) -> None:
        """Delete an object, as anybody else would."""
        self._announce("DELETED", plural, self.objects.pop((plural, namespace, name)))

    def is_watched(self, plural: str) -> bool:
        """Whether somebody watches that kind."""
        return any(watched == plural for watched, *_ in self._watches)

    def _announce(self, event: str, plural: str, document: Object) -> None:
        for watched, namespace, query, queue in self._watches:
            is_there = namespace in {"", document["metadata"].get("namespace", "")}
            if watched == plural and is_there and _matches(document, query):
                self.shown.add((plural, document["metadata"]["name"]))
                queue.put_nowait({"type": event, "object": document})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        if refused := self.refusal(request.method, request.path):
            return _status(*refused)
        body = await request.json() if request.can_read_body else None
        if request.path.endswith("/selfsubjectaccessreviews"):
            return self._review(body)
        if (found := _discovery(request.path)) is not None:
            return web.json_response(found)
        parts = request.path.strip("/").split("/")
        parts = parts[3:] if parts[0] == "apis" else parts[2:]
        namespace = ""
        if parts[0] == "namespaces":
            namespace, parts = parts[1], parts[2:]
        plural, name = parts[0], parts[1] if len(parts) > 1 else None
        if "watch" in request.query:
            return await self._watch(request, plural, namespace)
        if name is None:
            return self._collection(request, plural, namespace, body)
        return self._one(request, (plural, namespace, name), parts[2:] == ["status"], body)

    def _collection(self, request: web.Request, plural: str, namespace: str, body: Any) -> web.Response:
        if request.method == "POST":
            if (plural, namespace, body["metadata"]["name"]) in self.objects:
                return _status(409, "already exists")
            return web.json_response(self._store(plural, body), status=201)
        items = [
            {key: value for key, value in each.items() if key not in {"kind", "apiVersion"}}
            for (found, where, _), each in sorted(self.objects.items())
            if found == plural and namespace in {"", where} and _matches(each, request.query)
        ]
        self.shown |= {(plural, each["metadata"]["name"]) for each in items}
        start, limit = int(request.query.get("continue", 0)), int(request.query.get("limit", 500))
        rest = str(start + limit) if start + limit < len(items) else ""
        kind = _KINDS[plural]
        page = {"items": items[start : start + limit], "metadata": {"continue": rest, "resourceVersion": "1"}}
        return web.json_response({"kind": f"{kind.kind}List", "apiVersion": kind.api_version, **page})

    async def _watch(self, request: web.Request, plural: str, namespace: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        watch = (plural, namespace, request.query, asyncio.Queue[Object]())
        self._watches.append(watch)
        try:
            while True:
                await response.write(json.dumps(await watch[3].get()).encode() + b"\n")
        finally:
            self._watches.remove(watch)

    def _one(self, request: web.Request, where: tuple[str, str, str], is_status: bool, body: Any) -> web.Response:
        before = self.objects.get(where)
        if request.method == "PATCH" and not is_status:
            return self._apply(where, before, body)
        if before is None:
            return _status(404, f"{where[2]} not found")
        match request.method:
            case "GET":
                return web.json_response(before)
            case "PUT":
                if body["metadata"].get("resourceVersion") != before["metadata"]["resourceVersion"]:
                    return _status(409, "the object has been modified")
                return web.json_response(self._store(where[0], body))
            case "PATCH":
                if body.get("metadata", {}).get("resourceVersion") not in {None, before["metadata"]["resourceVersion"]}:
                    return _status(409, "the object has been modified")
                after = copy.deepcopy(before)
                after["status"] = _merged(after.get("status") or {}, body["status"])
                return web.json_response(self._store(where[0], after))
            case _:
                if (body or {}).get("preconditions", {}).get("uid") not in {None, before["metadata"]["uid"]}:
                    return _status(409, "the uid in the precondition is another one")
                self.remove(*where)
                return web.json_response({"kind": "Status", "status": "Success"})

    def _apply(self, where: tuple[str, str, str], before: Object | None, body: Any) -> web.Response:
        uid = body["metadata"].get("uid")
        if uid and (before is None or before["metadata"]["uid"] != uid):
            return _status(409, "uid mismatch")
        after = _merged(copy.deepcopy(before) if before else {}, body)
        return web.json_response(self._store(where[0], after), status=200 if before else 201)

    def _review(self, body: Any) -> web.Response:
        asked = body["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
        body["status"] = {"allowed": (asked["verb"], resource) not in self.denied}
        return web.json_response(body, status=201)


def _discovery(path: str) -> Object | None:
    """What the server says of the groups and kinds that it has; None for any other question."""
    kinds = [*_KINDS.values(), *_ONLY_DISCOVERED]
    if path == "/api":
        return {"versions": ["v1"]}
    if path == "/apis":
        groups = {kind.group: kind.version for kind in kinds if kind.group}
        return {
            "groups": [
                {"name": group, "versions": [{"version": version}], "preferredVersion": {"version": version}}
                for group, version in groups.items()
            ]
        }
    found = [kind for kind in kinds if path == kind.path().rpartition("/")[0]]
    verbs = ["get", "list", "watch", "patch", "create", "delete"]
    resources = [
        {"name": kind.plural, "kind": kind.kind, "singularName": "", "namespaced": True, "verbs": verbs}
        for kind in found
    ]
    return {"resources": resources} if found else None


def _counted(document: Object) -> Object:
    return {key: value for key, value in document.items() if key not in _NOT_COUNTED}


def _without_version(document: Object) -> Object:
    metadata = {key: value for key, value in document["metadata"].items() if key != "resourceVersion"}
    return {**document, "metadata": metadata}


def _merged(before: Any, change: Any) -> Any:
    if not isinstance(before, dict) or not isinstance(change, dict):
        return change
    found = dict(before)
    for key, value in change.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = _merged(before.get(key), value)
    return found


def _matches(document: Object, query: Any) -> bool:
    labels = document["metadata"].get("labels") or {}
    wanted = dict(each.split("=") for each in filter(None, query.get("labelSelector", "").split(",")))
    fields = dict(each.split("=") for each in filter(None, query.get("fieldSelector", "").split(",")))
    name = fields.get("metadata.name", document["metadata"]["name"])
    return name == document["metadata"]["name"] and all(labels.get(key) == value for key, value in wanted.items())


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "status": "Failure", "message": message, "code": code}, status=code)
