"""One JSON-RPC endpoint over HTTP: a question, and an answer in time or an `EndpointFault`.

Whatever goes wrong here becomes an `EndpointFault` with a short word for metrics (`Fault`) and a text for people.
Foreign exceptions are translated by one table (`_FOREIGN`); their own texts are not used, for they may hold the URL.

**Secrets.** A provider's URL is a secret: its path, its query or its user part holds the API key. Only the origin
(`scheme://host:port`) is ever shown. What a node itself says in an error is shown with every part of its URL's
secrets cut out, and cut short.

**Time.** A request ends within `request_timeout_seconds`, connecting within `CONNECT_TIMEOUT_SECONDS` of it, whatever
the node does; an answer larger than `ANSWER_BYTES_MAX` is refused while it comes in.

**Kept connections.** A server may close an idle connection just as it is used again. Every question here only reads,
so one whose kept connection turned out dead is asked once more on a new one. An answer says whether its connection
was new: behind the same URL a new one may lead to another node.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Generic, TypeVar

import aiohttp
import msgspec
from yarl import URL

from wallet_core.errors import InvalidSetting

CONNECT_TIMEOUT_SECONDS = 3.0
ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""A full mainnet block is under 3 MB."""
CONNECTIONS_MAX = 32
"""Connections held at a time, to one endpoint."""
NODE_TEXT_LENGTH_MAX = 200
"""Characters shown of what a node says in an error."""
_READ_BUFFER_BYTES = 1024 * 1024
_SECRET_PART_LENGTH_MIN = 4
"""Shorter parts of a URL's path (`v2`, `eth`) are no keys, and cutting them out would garble texts."""
NOT_FOUND_CODES = frozenset({-32001, -39001})
"""JSON-RPC errors: resource not found (EIP-1474), unknown block (execution-apis)."""
_TIMEOUTS = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_SECONDS)
_HEADERS = {
    "Content-Type": "application/json",
    # inflating costs three times what decoding does, and the node is near
    "Accept-Encoding": "identity",
}

T = TypeVar("T")


@dataclass(frozen=True)
class Endpoint:
    """Where a node is reached. Both URLs may hold an API key, so neither is part of `repr()`."""

    url: str = field(repr=False)
    """http:// or https://"""
    ws_url: str | None = field(default=None, repr=False)
    """ws:// or wss://, where new heads are announced."""


class Fault(enum.StrEnum):
    """What was wrong with an endpoint, as metrics name it."""

    TIMEOUT = "timeout"
    CONNECT = "connect"
    """No connection, or it broke."""
    HTTP = "http"
    """Another HTTP status than 200."""
    NOT_JSON = "not_json"
    RPC_ERROR = "rpc_error"
    """A JSON-RPC error."""
    ABSENT = "absent"
    """The node does not know what it was asked for."""
    INCONSISTENT = "inconsistent"
    """The answer contradicts the question, itself or the protocol."""
    WRONG_CHAIN = "wrong_chain"


class EndpointFault(Exception):
    """An endpoint gave no usable answer. `str()` holds no secret."""

    def __init__(self, fault: Fault, text: str, rpc_code: int | None = None) -> None:
        super().__init__(text)
        self.fault = fault
        self.rpc_code = rpc_code
        """The JSON-RPC error's code."""


_FOREIGN: Sequence[tuple[type[Exception], Fault, str]] = (
    # the first that fits
    (aiohttp.ConnectionTimeoutError, Fault.TIMEOUT, "no connection in time"),
    (TimeoutError, Fault.TIMEOUT, "no answer in time"),
    (aiohttp.ClientConnectorDNSError, Fault.CONNECT, "the host's name is not known"),
    (aiohttp.ClientSSLError, Fault.CONNECT, "no TLS connection, or its certificate is not trusted"),
    (aiohttp.ClientConnectorError, Fault.CONNECT, "no connection"),
    (aiohttp.WSServerHandshakeError, Fault.HTTP, "refused to speak WebSocket"),
    (aiohttp.ClientResponseError, Fault.HTTP, "no proper HTTP"),
    (aiohttp.ClientError, Fault.CONNECT, "the connection broke"),
    (OSError, Fault.CONNECT, "the connection broke"),
    (msgspec.ValidationError, Fault.INCONSISTENT, "an answer of another shape"),
    (msgspec.DecodeError, Fault.NOT_JSON, "the answer is no JSON"),
    (UnicodeDecodeError, Fault.NOT_JSON, "the answer is no JSON"),
)
FOREIGN_ERRORS = tuple(kind for kind, _, _ in _FOREIGN)


def translate(error: Exception) -> EndpointFault:
    """The own error for one of `FOREIGN_ERRORS`."""
    fault, text = next((fault, text) for kind, fault, text in _FOREIGN if isinstance(error, kind))
    if isinstance(error, aiohttp.ClientConnectorError) and error.strerror:
        text = f"{text}: {error.strerror}"
    return EndpointFault(fault, text)


def origin(url: URL) -> str:
    """`scheme://host:port`: all of a URL that may be shown."""
    host = f"[{url.host}]" if url.host and ":" in url.host else url.host
    return f"{url.scheme}://{host}:{url.port}"


def parse_url(text: str, setting: str, schemes: Sequence[str]) -> URL:
    """Read a URL. Raises InvalidSetting, without the text."""
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in schemes or not url.host:
        raise InvalidSetting(setting, f"not a URL of the form {' or '.join(f'{each}://host:port' for each in schemes)}")
    return url


class RpcError(msgspec.Struct, gc=False):
    """A JSON-RPC error object."""

    code: int
    message: str = ""


class RpcAnswer(msgspec.Struct, Generic[T], gc=False):
    """A JSON-RPC response object; `result` is checked to be a T while it is decoded."""

    id: int | str | None = None
    result: T | msgspec.UnsetType | None = msgspec.UNSET
    error: RpcError | None = None


Answer = msgspec.json.Decoder[RpcAnswer[T]]


@dataclass(frozen=True)
class Answered(Generic[T]):
    """What the node said."""

    result: T | None
    """None where it said null."""
    on_new_connection: bool


class JsonRpc:
    """One endpoint. Uses the session, which must have been made by `new_session`, and does not own it."""

    def __init__(self, url: URL, session: aiohttp.ClientSession, request_timeout_seconds: float) -> None:
        self._url = url
        self._session = session
        self._timeout_seconds = request_timeout_seconds
        self._last_id = 0
        self._secrets = _secret_parts(url)

    async def ask(self, method: str, params: Sequence[object], answer: Answer[T]) -> Answered[T]:
        """One question. Raises EndpointFault."""
        self._last_id += 1
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        try:
            async with asyncio.timeout(self._timeout_seconds):
                content, on_new_connection = await self._post(msgspec.json.encode(request))
            decoded = answer.decode(content)
        except FOREIGN_ERRORS as error:
            raise translate(error) from None
        if decoded.error is not None:
            said = self._without_secrets(decoded.error.message)
            fault = Fault.ABSENT if decoded.error.code in NOT_FOUND_CODES else Fault.RPC_ERROR
            raise EndpointFault(fault, f"error {decoded.error.code}: {said}", decoded.error.code)
        if isinstance(decoded.result, msgspec.UnsetType) or decoded.id != request["id"]:
            raise EndpointFault(Fault.INCONSISTENT, "an answer to no question of ours")
        return Answered(decoded.result, on_new_connection)

    async def _post(self, body: bytes) -> tuple[bytes, bool]:
        connection = SimpleNamespace(is_new=False)
        try:
            return await self._post_once(body, connection), connection.is_new
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if connection.is_new or isinstance(error, aiohttp.ClientConnectorError):
                raise
        return await self._post_once(body, connection), connection.is_new

    async def _post_once(self, body: bytes, connection: SimpleNamespace) -> bytes:
        async with self._session.post(
            self._url,
            data=body,
            headers=_HEADERS,
            timeout=_TIMEOUTS,
            allow_redirects=False,  # the key in the URL is for this host only
            trace_request_ctx=connection,
        ) as response:
            if response.status != 200:  # noqa: PLR2004 - HTTP's OK
                raise EndpointFault(Fault.HTTP, f"HTTP status {response.status}")
            content = bytearray()
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > ANSWER_BYTES_MAX:
                    raise EndpointFault(Fault.INCONSISTENT, f"an answer of more than {ANSWER_BYTES_MAX} bytes")
            return bytes(content)

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "…")
        text = "".join(each if each.isprintable() else " " for each in text)
        return text if len(text) <= NODE_TEXT_LENGTH_MAX else text[:NODE_TEXT_LENGTH_MAX] + "…"


def new_session() -> aiohttp.ClientSession:
    """A session for all endpoints. To be called, and closed, on the running loop."""
    trace = aiohttp.TraceConfig()

    async def note_new_connection(
        _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceConnectionCreateEndParams
    ) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx.is_new = True

    trace.on_connection_create_end.append(note_new_connection)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=CONNECTIONS_MAX),
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=_READ_BUFFER_BYTES,
        trace_configs=[trace],
    )


def _secret_parts(url: URL) -> Sequence[str]:
    """Every part of a URL that may be a key, longest first, as written and as sent."""
    parts = {url.user, url.password, url.raw_user, url.raw_password, url.query_string, url.raw_query_string}
    parts |= {*url.query.values(), url.path, url.raw_path, *url.parts, *url.raw_parts}
    return sorted((part for part in parts if part and len(part) >= _SECRET_PART_LENGTH_MIN), key=len, reverse=True)
