"""A cluster for the tests; and plain lines of logs: drawing the frames of each expected error takes half a second."""

from collections.abc import AsyncIterator

import pytest
import structlog

from fake_cluster import Cluster, make_cluster

structlog.configure(
    processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()],
    logger_factory=structlog.PrintLoggerFactory(),
)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with make_cluster() as made:
        yield made
