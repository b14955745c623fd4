"""The Kubernetes API server, through `kubernetes.aio`: JSON documents in and out, and one table of errors.

The client's own `ApiClient` brings authentication, its renewal and TLS; requests are made of a kind's path, because
typed answers lose what the client's release does not know, and custom objects answer None where they were created.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import aiohttp
from kubernetes.aio import client, config

from wallet_core.errors import WalletError
from wallet_operator.kinds import Document, Kind

REQUEST_SECONDS_MAX = 15.0
PAGE_SIZE_MAX = 500
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
_JSON = "application/json"


class ApiFailure(WalletError):
    """The API server did not do what was asked."""

    error_code = "api_failure"


class ApiUnreachable(ApiFailure):
    """It does not answer, not in time, or not now (429, 5xx): trying again may help."""

    error_code = "api_unreachable"


class ApiRefused(ApiFailure):
    """It refuses the request as it stands."""

    error_code = "api_refused"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class NotThere(ApiRefused):
    """No such object (404, 410)."""

    error_code = "api_not_there"


class Conflict(ApiRefused):
    """The object has changed meanwhile, or exists already (409)."""

    error_code = "api_conflict"


class Invalid(ApiRefused):
    """The object is not well-formed (422)."""

    error_code = "api_invalid"


class Forbidden(ApiRefused):
    """Rights, a quota or an admission rule are against it (400, which admission webhooks like, 401, 403)."""

    error_code = "api_forbidden"


_ERROR_OF_STATUS: Mapping[int, type[ApiRefused]] = {
    400: Forbidden,
    401: Forbidden,
    403: Forbidden,
    404: NotThere,
    409: Conflict,
    410: NotThere,
    422: Invalid,
}


async def load_configuration() -> client.Configuration:
    """In a pod the service account's, else the kubeconfig's."""
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        await config.load_kube_config(client_configuration=configuration)
    return configuration


class Api:
    """Requests to the API server. Every method raises ApiUnreachable or an ApiRefused."""

    def __init__(self, configuration: client.Configuration, user_agent: str = "wallet-operator") -> None:
        self._client = client.ApiClient(configuration)
        self._client.user_agent = user_agent

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def get(self, kind: Kind, namespace: str, name: str) -> Document:
        """One object."""
        return await self._request("GET", kind.path(namespace, name))

    async def find_kind(self, kind: Kind, namespace: str | None) -> None:
        """Raises NotThere where the API server does not know the kind."""
        await self._request("GET", kind.path(namespace), {"limit": "1"})

    async def list(
        self, kind: Kind, namespace: str | None, *, labels: str = "", fields: str = "", limit: int = PAGE_SIZE_MAX
    ) -> list[dict[str, Any]]:
        """All objects that match, each with its kind, which lists leave out."""
        found: list[dict[str, Any]] = []
        query = {"limit": str(limit)}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        while True:
            page = await self._request("GET", kind.path(namespace), query)
            found += [{**item, "apiVersion": kind.api_version, "kind": kind.kind} for item in page.get("items") or ()]
            more = (page.get("metadata") or {}).get("continue")
            if not more:
                return found
            query["continue"] = more

    async def apply(self, kind: Kind, manifest: Mapping[str, Any], manager: str) -> Document:
        """Server-side apply, which takes over the fields of others."""
        metadata = manifest["metadata"]
        query = {"fieldManager": manager, "force": "true"}
        path = kind.path(metadata["namespace"], metadata["name"])
        return await self._request("PATCH", path, query, body=manifest, content_type=APPLY)

    async def merge_status(self, kind: Kind, read: Document, status: Mapping[str, Any]) -> Document:
        """A merge patch on `/status`: fields that the CRD does not know are left out by the API server.

        Raises Conflict where the object is not as it was read any more, or another one has its name. (A uid in such a
        patch is not looked at.)
        """
        metadata = read["metadata"]
        path = f"{kind.path(metadata['namespace'], metadata['name'])}/status"
        body = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": status}
        return await self._request("PATCH", path, body=body, content_type=MERGE)

    async def create(self, kind: Kind, namespace: str | None, document: Mapping[str, Any]) -> Document:
        """A new object."""
        return await self._request("POST", kind.path(namespace), body=document)

    async def replace(self, kind: Kind, namespace: str, name: str, document: Mapping[str, Any]) -> Document:
        """The whole object; raises Conflict where its resourceVersion is not the latest."""
        return await self._request("PUT", kind.path(namespace, name), body=document)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Delete that very object, and what it controls after it."""
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        await self._request("DELETE", kind.path(namespace, name), body=body)

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        content_type: str = _JSON,
    ) -> dict[str, Any]:
        headers = {"Accept": _JSON, "Content-Type": content_type}
        try:
            request = await self._client.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = await self._client.call_api(*request, _request_timeout=REQUEST_SECONDS_MAX)
            content = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiUnreachable(f"the API server does not answer: {error or type(error).__name__}") from error
        document = _document(content)
        if answer.status < 400:  # noqa: PLR2004 - HTTP's boundary of errors
            return document
        message = str(document.get("message") or content[:200].decode(errors="replace") or answer.reason)
        if kind := _ERROR_OF_STATUS.get(answer.status):
            raise kind(answer.status, message)
        raise ApiUnreachable(f"the API server answers {answer.status}: {message}")


def _document(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
