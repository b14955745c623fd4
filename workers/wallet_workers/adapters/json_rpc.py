"""One JSON-RPC endpoint over HTTP: a question, and an answer in time or an `EndpointFault`.

Whatever goes wrong here becomes an `EndpointFault` with a short word for metrics (`Fault`) and a text for people.
Foreign exceptions are translated by one table (`_FOREIGN`); their own texts are not used, for they may hold the URL.

**Secrets.** A provider's URL is a secret: its path, its query or its user part holds the API key. Only the origin
(`scheme://host:port`) is ever shown. What a node itself says in an error is shown with every part of its URL's
secrets cut out, and cut short.

**Time.** A request ends within `request_timeout_seconds`, connecting within `CONNECT_TIMEOUT_SECONDS` of it, whatever
the node does; an answer larger than `ANSWER_BYTES_MAX` is refused while it comes in.

**Depth.** A trace is as deep as the calls that it tells of: the EVM allows 1,024, each two levels of JSON, and anybody
can put such a transaction into a block. A decoder that gave up at the interpreter's recursion limit would stop the
wallet at that block, so the limit is raised while an answer is decoded. What is deeper than the EVM allows is refused.

**Refusals.** Some providers put a JSON-RPC error behind an HTTP status of 4xx, for a method that they do not offer for
example. It is read like any other, unless the status speaks of the asker or of the moment (`_NOT_OF_THE_QUESTION`).

**Kept connections.** A server may close an idle connection just as it is used again. Every question here only reads,
so one whose kept connection turned out dead is asked once more on a new one. Behind the same URL a new one may lead to
another node, so a channel has one connection at a time and counts those that it has made.
"""

from __future__ import annotations

import asyncio
import enum
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
CALL_DEPTH_MAX = 1_024
"""Of the EVM (Yellow Paper, 9.1)."""
ANSWER_DEPTH_MAX = 2 * (CALL_DEPTH_MAX + 8)
"""Levels of JSON: two for each call, and some around them."""
REFUSAL_BYTES_MAX = 64 * 1024
"""Of what comes with an HTTP status of 4xx."""
NODE_TEXT_LENGTH_MAX = 200
"""Characters shown of what a node says in an error."""
_READ_BUFFER_BYTES = 1024 * 1024
_SECRET_PART_LENGTH_MIN = 4
"""Shorter parts of a URL's path (`v2`, `eth`) are no keys, and cutting them out would garble texts."""
NOT_FOUND_CODES = frozenset({-32001, -39001})
"""JSON-RPC errors: resource not found (EIP-1474), unknown block (execution-apis)."""
_OK = 200
_REFUSALS = range(400, 500)
_NOT_OF_THE_QUESTION = frozenset({401, 402, 407, 408, 425, 429})
"""Of `_REFUSALS`: no key, no credits, too slow, too early, too often."""
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
    """Another HTTP status than 200, and no JSON-RPC error to be read with it."""
    NOT_JSON = "not_json"
    TOO_LARGE = "too_large"
    """An answer of more than `ANSWER_BYTES_MAX`."""
    RPC_ERROR = "rpc_error"
    """A JSON-RPC error."""
    ABSENT = "absent"
    """The node does not know what it was asked for."""
    INCONSISTENT = "inconsistent"
    """The answer contradicts the question, itself or the protocol."""
    OTHER_BLOCK = "other_block"
    """Another block, or something of another block, than was asked for."""
    BLOOM = "bloom"
    """Logs that the block's own bloom excludes, or a bloom that is none."""
    FORGED = "forged"
    """What was given does not have the hash that stands for it (`chain.verify`)."""
    DISAGREES = "disagrees"
    """Another hash than other endpoints have, for a block that may settle."""
    TIP_BACK = "tip_back"
    """A lower tip than before: a fork, or a late node behind the same URL."""
    FINALIZED_BACK = "finalized_back"
    """A lower finalized block than before, which finality excludes."""
    STALE = "stale"
    """A tip that is too old, or does not move."""
    UNTRACEABLE = "untraceable"
    """The endpoint has no traces, or none of that block any more. No failure: others are asked."""
    TRACE_TOO_LARGE = "trace_too_large"
    """Traces of some transactions are larger than any answer may be, or take too long. Others are asked; the endpoint
    is not to blame."""
    DECLINED = "declined"
    """It will not answer: it has no state that old, or the range is too large for it. No failure: others are asked."""
    WRONG_CHAIN = "wrong_chain"
    WRONG_GENESIS = "wrong_genesis"
    """Another chain with the same id."""


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
    (RecursionError, Fault.INCONSISTENT, "an answer that is nested too deeply"),
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


class _Refusal(msgspec.Struct, gc=False):
    """What comes with an HTTP status of 4xx, if it is a JSON-RPC error."""

    error: RpcError


Answer = msgspec.json.Decoder[RpcAnswer[T]]
_REFUSAL = msgspec.json.Decoder(_Refusal)


@dataclass(frozen=True)
class Answered(Generic[T]):
    """What the node said."""

    result: T | None
    """None where it said null."""


class Channel:
    """A way to one endpoint, with at most one connection at a time, for one question at a time.

    To be made, and closed, on the running loop.
    """

    def __init__(self, url: URL, request_timeout_seconds: float) -> None:
        self._url = url
        self._timeout_seconds = request_timeout_seconds
        self._last_id = 0
        self._secrets = _secret_parts(url)
        self._session = self._new_session()
        self.connection = 0
        """The number of the newest connection, which the last answer came over; 0: none yet."""
        self.is_closed = False
        """Whether the endpoint said with its last answer that it does not keep the connection."""

    async def close(self) -> None:
        """End the connection, and a question that waits for its answer."""
        await self._session.close()

    async def reconnect(self) -> None:
        """End the connection: the next question makes another one."""
        session, self._session = self._session, self._new_session()
        await session.close()

    async def ask(self, method: str, params: Sequence[object], answer: Answer[T]) -> Answered[T]:
        """One question. Raises EndpointFault."""
        self._last_id += 1
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        try:
            async with asyncio.timeout(self._timeout_seconds):
                content = await self._post(msgspec.json.encode(request))
            with _room_for_deep_answers():
                decoded = answer.decode(content)
        except FOREIGN_ERRORS as error:
            raise translate(error) from None
        if decoded.error is not None:
            raise self._error(decoded.error)
        if isinstance(decoded.result, msgspec.UnsetType) or decoded.id != request["id"]:
            raise EndpointFault(Fault.INCONSISTENT, "an answer to no question of ours")
        return Answered(decoded.result)

    async def _post(self, body: bytes) -> bytes:
        connection = self.connection
        try:
            return await self._post_once(body)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if self.connection != connection or isinstance(error, aiohttp.ClientConnectorError):
                raise
        return await self._post_once(body)

    async def _post_once(self, body: bytes) -> bytes:
        async with self._session.post(
            self._url,
            data=body,
            headers=_HEADERS,
            timeout=_TIMEOUTS,
            allow_redirects=False,  # the key in the URL is for this host only
        ) as response:
            self.is_closed = _closes(response)
            if response.status == _OK:
                return await _content(response, ANSWER_BYTES_MAX)
            fault = EndpointFault(Fault.HTTP, f"HTTP status {response.status}")
            if response.status in _REFUSALS and response.status not in _NOT_OF_THE_QUESTION:
                with suppress(EndpointFault, *FOREIGN_ERRORS):
                    refusal = _REFUSAL.decode(await _content(response, REFUSAL_BYTES_MAX))
                    fault = self._error(refusal.error, f"HTTP status {response.status}, ")
            raise fault

    def _error(self, error: RpcError, status: str = "") -> EndpointFault:
        fault = Fault.ABSENT if error.code in NOT_FOUND_CODES else Fault.RPC_ERROR
        return EndpointFault(fault, f"{status}error {error.code}: {self._without_secrets(error.message)}", error.code)

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "…")
        text = "".join(each if each.isprintable() else " " for each in text)
        return text if len(text) <= NODE_TEXT_LENGTH_MAX else text[:NODE_TEXT_LENGTH_MAX] + "…"

    def _new_session(self) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(self._count_connection)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1),
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=_READ_BUFFER_BYTES,
            trace_configs=[trace],
        )

    async def _count_connection(
        self,
        _session: aiohttp.ClientSession,
        _context: SimpleNamespace,
        _params: aiohttp.TraceConnectionCreateEndParams,
    ) -> None:
        self.connection += 1


def _closes(response: aiohttp.ClientResponse) -> bool:
    """Whether the connection ends with this answer (RFC 9112, 9.3)."""
    said = response.headers.get("Connection", "").lower()
    return "close" in said or (response.version == aiohttp.HttpVersion10 and "keep-alive" not in said)


async def _content(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > bytes_max:
            raise EndpointFault(Fault.TOO_LARGE, f"an answer of more than {bytes_max} bytes")
    return bytes(content)


@contextmanager
def _room_for_deep_answers() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(before + ANSWER_DEPTH_MAX)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _secret_parts(url: URL) -> Sequence[str]:
    """Every part of a URL that may be a key, longest first, as written and as sent."""
    parts = {url.user, url.password, url.raw_user, url.raw_password, url.query_string, url.raw_query_string}
    parts |= {*url.query.values(), url.path, url.raw_path, *url.parts, *url.raw_parts}
    return sorted((part for part in parts if part and len(part) >= _SECRET_PART_LENGTH_MIN), key=len, reverse=True)
