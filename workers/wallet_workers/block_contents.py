"""What a node is asked about a block beside the block itself, and no more often than needed.

- **Token logs**: only where the header's bloom admits the `Transfer` logs of a reported token, and only of those
  tokens; one request.
- **Call frames**, for ETH moved inside contracts: only for the chain's own coin, and only of blocks that have
  transactions; one request, the most expensive of all for the node.

Where no endpoint has traces of a block, it is scanned without them: what contracts pay is not seen then. `/status`
(`traces_available`), a gauge and a counter of such blocks say so. Single transactions that nobody can trace are counted
by themselves, and the others of the block are seen.
"""

from __future__ import annotations

from collections.abc import Sequence

from wallet_core.blocks import Block, Log
from wallet_core.bloom import admitted
from wallet_core.errors import NodeInconsistent
from wallet_core.ports import Node
from wallet_core.tokens import TRANSFER_TOPIC
from wallet_core.traces import Movement, movements
from wallet_core.transfers import BlockContents, Reported
from wallet_workers.metrics import Metrics
from wallet_workers.status import WorkerStatus


class BlockContentsReader:
    """Reads blocks of one node."""

    def __init__(self, node: Node, status: WorkerStatus, metrics: Metrics) -> None:
        self._node = node
        self._status = status
        self._metrics = metrics

    async def read(self, wanted: tuple[Block, Reported]) -> BlockContents:
        """The block with what is reported of it. Raises NodeInconsistent where the node contradicts itself."""
        block, reported = wanted
        return BlockContents(block, await self._logs(block, reported), await self._movements(block, reported))

    async def _logs(self, block: Block, reported: Reported) -> Sequence[Log]:
        if not reported.tokens:
            return ()
        contracts = admitted(block.header, reported.tokens, TRANSFER_TOPIC)
        return await self._node.logs(block.header, contracts, TRANSFER_TOPIC) if contracts else ()

    async def _movements(self, block: Block, reported: Reported) -> Sequence[Movement]:
        if reported.native is None or not block.transactions:
            return ()
        frames = await self._node.frames(block)
        self._status.fact(traces_available=frames is not None)
        self._metrics.traces_available.set(frames is not None)
        if frames is None:
            self._metrics.untraced_blocks.inc()
            return ()
        found: list[Movement] = []
        for transaction in block.transactions:
            if transaction.hash not in frames:
                raise NodeInconsistent(f"the traces of block {block.header.number} leave out {transaction.hash}")
            of_transaction = frames[transaction.hash]
            if of_transaction is None:
                self._metrics.untraced_transactions.inc()
            else:
                found += movements(transaction, of_transaction)
        return found
