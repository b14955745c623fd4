"""The board of spans on Redis (port `SpanBoard`): a stream with a consumer group for each cut.

| Key | What it is |
|-|-|
| `<prefix>` | hash: name and terms of the cut that stands |
| `<prefix>:<cut>` | stream of offers; its group `scanners` remembers who holds which, and since when |
| `<prefix>:<cut>:results` | hash: what was put back for each offer, and by whom |

The prefix carries the wallet's hash tag, so all keys of a wallet lie in one slot of a Redis Cluster. Every key of a
cut has a time to live, renewed by the sequencer: a cut that nobody looks after goes by itself.

Each method is one script and so one atomic step: a wipe or another leader's cut comes before it or after it, and then
nothing of the old cut can be touched any more. An offer
stays in the stream until its result is taken, so the stream is as long as there are open offers, and a late answer to
an offer that has ended finds nothing to answer. A holder that is idle for `claim_ttl_ms` loses its claim to the next
scanner that asks (XAUTOCLAIM, so Redis 6.2 or newer); renewing sets its idle time to nought, if the claim is still its
own.

Nothing is retried here. A lost answer costs time: a claim nobody knows of is taken over, a taken result nobody got is
scanned again.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from wallet_core.ports import PutBack, SpanClaim
from wallet_core.spans import SPANS_POSTED_MAX
from wallet_workers.adapters.redis import PING_TIMEOUT_SECONDS, close_client, connect, redis_errors

_OPEN = """
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'cut', ARGV[1], 'terms', ARGV[2])
redis.call('XGROUP', 'CREATE', KEYS[2], 'scanners', '0', 'MKSTREAM')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
"""
_WHERE_THE_CUT_STANDS = """
if redis.call('HGET', KEYS[1], 'cut') ~= ARGV[1] or redis.call('EXISTS', KEYS[2]) == 0 then return false end
"""
_ANNOUNCE = """
redis.call('HSET', KEYS[1], 'terms', ARGV[2])
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[3]) end
return 1
"""
_POST = """
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[3]) then return false end
return redis.call('XADD', KEYS[2], '*', 'span', ARGV[2])
"""
_TAKE = """
local found = redis.call('HMGET', KEYS[3], ARGV[2], ARGV[2] .. ':by')
if not found[1] or not found[2] then return false end
redis.call('HDEL', KEYS[3], ARGV[2], ARGV[2] .. ':by')
redis.call('XDEL', KEYS[2], ARGV[2])
return found
"""
_WITHDRAW = """
redis.call('HDEL', KEYS[3], ARGV[2], ARGV[2] .. ':by')
redis.call('XACK', KEYS[2], 'scanners', ARGV[2])
redis.call('XDEL', KEYS[2], ARGV[2])
"""
_CLOSE = """
redis.call('DEL', unpack(KEYS))
"""
_CLAIM = """
local cursor = '0-0'
repeat -- one call looks at ten pending entries only, and with a larger COUNT it would claim more than one
  local late = redis.call('XAUTOCLAIM', KEYS[2], 'scanners', ARGV[2], ARGV[3], cursor, 'COUNT', 1)
  if late[2][1] then return late[2][1] end
  cursor = late[1]
until cursor == '0-0'
local new = redis.call('XREADGROUP', 'GROUP', 'scanners', ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[2], '>')
if new then return new[1][2][1] end
return false
"""
_RENEW = """
if #redis.call('XPENDING', KEYS[2], 'scanners', ARGV[2], ARGV[2], 1, ARGV[3]) == 0 then return false end
redis.call('XCLAIM', KEYS[2], 'scanners', ARGV[3], 0, ARGV[2], 'JUSTID')
return 1
"""
_HAND_BACK = """
if #redis.call('XPENDING', KEYS[2], 'scanners', ARGV[2], ARGV[2], 1, ARGV[3]) == 0 then return false end
redis.call('XCLAIM', KEYS[2], 'scanners', ARGV[3], 0, ARGV[2], 'IDLE', ARGV[4], 'JUSTID')
"""
_PUT_BACK = """
if #redis.call('XRANGE', KEYS[2], ARGV[2], ARGV[2]) == 0 then return false end
if redis.call('HSETNX', KEYS[3], ARGV[2], ARGV[4]) == 0 then return false end
redis.call('HSET', KEYS[3], ARGV[2] .. ':by', ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[5])
redis.call('XACK', KEYS[2], 'scanners', ARGV[2])
return 1
"""
_SCRIPTS_OF_A_CUT = (_ANNOUNCE, _POST, _TAKE, _WITHDRAW, _CLOSE, _CLAIM, _RENEW, _HAND_BACK, _PUT_BACK)


class RedisSpanBoard:
    """See the module. For several tasks at once; `close_connections()` when done."""

    def __init__(self, url: str, *, prefix: str, claim_ttl_ms: int, cut_ttl_ms: int) -> None:
        self._prefix = prefix
        self._claim_ttl_ms = claim_ttl_ms
        self._cut_ttl_ms = cut_ttl_ms
        self._scanner = uuid.uuid4().hex
        self._client = connect(url)
        self._scripts = {
            script: self._client.register_script(_WHERE_THE_CUT_STANDS + script) for script in _SCRIPTS_OF_A_CUT
        }
        self._scripts[_OPEN] = self._client.register_script(_OPEN)

    @property
    def scanner(self) -> str:
        """See the port."""
        return self._scanner

    async def open(self, terms: bytes) -> str:
        """See the port."""
        cut = uuid.uuid4().hex
        await self._run(_OPEN, cut, terms, self._cut_ttl_ms)
        return cut

    async def announce(self, cut: str, terms: bytes) -> bool:
        """See the port."""
        return bool(await self._run(_ANNOUNCE, cut, terms, self._cut_ttl_ms))

    async def post(self, cut: str, span: bytes) -> str | None:
        """See the port."""
        task = await self._run(_POST, cut, span, SPANS_POSTED_MAX)
        return None if task is None else _text(task)

    async def take(self, cut: str, task: str) -> PutBack | None:
        """See the port."""
        found = await self._run(_TAKE, cut, task)
        return None if found is None else PutBack(_text(found[1]), found[0])

    async def withdraw(self, cut: str, task: str) -> None:
        """See the port."""
        await self._run(_WITHDRAW, cut, task)

    async def close(self, cut: str) -> None:
        """See the port."""
        await self._run(_CLOSE, cut)

    async def terms(self) -> tuple[str, bytes] | None:
        """See the port."""
        with redis_errors("reading the board of spans"):
            async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                cut, terms = await self._client.hmget(self._prefix, ["cut", "terms"])
        if not isinstance(cut, bytes) or not isinstance(terms, bytes):
            return None
        return _text(cut), terms

    async def claim(self, cut: str) -> SpanClaim | None:
        """See the port."""
        found = await self._run(_CLAIM, cut, self._scanner, self._claim_ttl_ms)
        if found is None:
            return None
        task, fields = found
        return SpanClaim(cut, _text(task), fields[1])

    async def renew(self, claim: SpanClaim) -> bool:
        """See the port."""
        return bool(await self._run(_RENEW, claim.cut, claim.task, self._scanner))

    async def hand_back(self, claim: SpanClaim) -> None:
        """See the port."""
        await self._run(_HAND_BACK, claim.cut, claim.task, self._scanner, self._claim_ttl_ms)

    async def put_back(self, claim: SpanClaim, result: bytes) -> bool:
        """See the port."""
        return bool(await self._run(_PUT_BACK, claim.cut, claim.task, self._scanner, result, self._cut_ttl_ms))

    async def close_connections(self) -> None:
        """For the end of the process. Claims and cuts end by their time to live."""
        await close_client(self._client)

    async def _run(self, script: str, cut: str, *values: str | bytes | int) -> Any:
        stream = f"{self._prefix}:{cut}"
        with redis_errors("using the board of spans"):
            async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                return await self._scripts[script](
                    keys=[self._prefix, stream, f"{stream}:results"], args=[cut, *values]
                )


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
