"""A misbehaving node, and what watches the adapter, for each test its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from stub_node import Make, Seen, Stub, new_chain
from wallet_core.testing.fake_chain import FakeChain
from wallet_core.testing.fake_clock import FakeClock


@pytest.fixture
async def make_stub() -> AsyncIterator[Make]:
    made: list[Stub] = []

    async def make(chain: FakeChain | None = None) -> Stub:
        stub = await Stub(chain or new_chain()).start()
        made.append(stub)
        return stub

    yield make
    for stub in made:
        await stub.stop()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
