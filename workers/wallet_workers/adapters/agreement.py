"""What a quorum of endpoints agrees on.

All usable endpoints are asked for the same header at once; where they are fewer than the quorum needs, everybody. The
answer is there as soon as `quorum` of them gave the same hash
and every usable one has spoken: an endpoint that does not answer delays this once, and is not usable from then on.

Who gave another hash than the quorum is not usable until it has the agreed block too, for it would lead the wallet down
its own branch (`chain_proof.py`). Without a quorum nobody is blamed, since nobody knows who is right. Nor is anybody
held to a block that the chain may still leave, of which only the agreement is asked (`may_settle`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from wallet_core.blocks import Header
from wallet_core.errors import NodeInconsistent, RpcUnreachable
from wallet_workers.adapters.chain_proof import dissent, with_quorum
from wallet_workers.adapters.endpoints import Endpoints, Member, Question
from wallet_workers.adapters.json_rpc import EndpointFault, Fault


async def agree(
    endpoints: Endpoints, question: Question[Header], number: int, quorum: int, *, may_settle: bool
) -> Header:
    """The header of that number on which `quorum` endpoints agree. Raises NodeInconsistent or RpcUnreachable."""
    answers, faults = await _answers(endpoints, question, quorum)
    agreed = with_quorum(list(answers.values()), quorum)
    if agreed is not None:
        if may_settle:
            endpoints.proof.note_agreed(agreed)
        for member, found in answers.items():
            if found.hash != agreed.hash:
                if may_settle:
                    endpoints.note_fault(member, dissent(agreed, found))
                else:
                    endpoints.note_suspicion(member, Fault.DISAGREES)
        return agreed
    said = {**{member: found.hash for member, found in answers.items()}, **faults}
    told = [f"{member.name}: {said[member]}" for member in endpoints.members if member in said]
    if len({found.hash for found in answers.values()}) > 1:
        for member in answers:
            endpoints.note_suspicion(member, Fault.DISAGREES)
        raise NodeInconsistent(f"no {quorum} endpoints agree on block {number}: {'; '.join(told)}")
    raise RpcUnreachable(f"{len(answers)} of {quorum} endpoints needed gave block {number}: {'; '.join(told)}")


async def _answers(
    endpoints: Endpoints, question: Question[Header], quorum: int
) -> tuple[Mapping[Member, Header], Mapping[Member, EndpointFault]]:
    usable = [member for member in endpoints.members if member.is_usable]
    others = [member for member in endpoints.members if not member.is_usable] if len(usable) < quorum else []
    asked = {
        asyncio.create_task(endpoints.from_one(member, question, on_any_branch=True)): member
        for member in [*usable, *others]
    }
    needed = {task for task, member in asked.items() if member in usable}
    answers: dict[Member, Header] = {}
    faults: dict[Member, EndpointFault] = {}
    pending = set(asked)
    try:
        while pending and not (with_quorum(list(answers.values()), quorum) and not needed & pending):
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                try:
                    answers[asked[task]] = task.result()
                except EndpointFault as fault:
                    faults[asked[task]] = fault
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    return answers, faults
