"""How long an append to the ledger takes, with the next producer prepared ahead and without.

python bench/ledger.py --bootstrap-servers 127.0.0.1:9092 [--appends 200] [--pause-ms 0]

The two take turns on the same broker, each with a state topic of its own, so that a busy machine slows both. What
counts is the ratio: the numbers themselves are the machine's. A pause between appends gives the preparation time to
finish, as the time between two blocks does.
"""

import argparse
import asyncio
import statistics
import time
import uuid

from wallet_core.messages import Record, Topic
from wallet_core.ports import TopicPlan
from wallet_workers.adapters.kafka_clients import KafkaClients, quiet_client_logs
from wallet_workers.adapters.kafka_ledger import KafkaLedger
from wallet_workers.adapters.kafka_topics import KafkaTopicAdmin

TRANSACTION_TIMEOUT_MS = 15_000
WARM_UP_APPENDS = 10


def step(number: int) -> list[Record]:
    """A block with one deposit: its event, the block, the checkpoint."""
    return [
        Record(Topic.TRANSACTION, b"0x" + b"ab" * 20, b"x" * 700),
        Record(Topic.STATE_SYNC, b"block/%d" % number, b"x" * 500),
        Record(Topic.STATE_SYNC, b"checkpoint", b"x" * 300),
    ]


async def prepared_ledger(clients: KafkaClients, name: str, *, ahead: bool) -> tuple[KafkaLedger, int]:
    prefix = f"bench-{uuid.uuid4().hex[:8]}-{name}."
    plans = [TopicPlan(topic, 1, {}, replication_factor=1) for topic in (Topic.STATE_SYNC, Topic.TRANSACTION)]
    await KafkaTopicAdmin(clients, topic_prefix=prefix).create(plans)
    ledger = KafkaLedger(
        clients,
        topic_prefix=prefix,
        state_topic=Topic.STATE_SYNC,
        transactional_id=prefix + "sync",
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        prepare_ahead=ahead,
    )
    return ledger, (await ledger.recover()).position


async def measure(bootstrap_servers: str, appends: int, pause_seconds: float) -> dict[str, list[float]]:
    clients = KafkaClients(bootstrap_servers)
    ledgers = {
        name: await prepared_ledger(clients, name, ahead=name == "prepared") for name in ("prepared", "unprepared")
    }
    milliseconds: dict[str, list[float]] = {name: [] for name in ledgers}
    for number in range(WARM_UP_APPENDS + appends):
        for name, (ledger, position) in ledgers.items():
            began = time.perf_counter()
            next_position = await ledger.append(position, step(number))
            if number >= WARM_UP_APPENDS:
                milliseconds[name].append((time.perf_counter() - began) * 1000)
            ledgers[name] = (ledger, next_position)
            await asyncio.sleep(pause_seconds)
    for ledger, _ in ledgers.values():
        await ledger.close()
    return milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--appends", type=int, default=200)
    parser.add_argument("--pause-ms", type=float, default=0.0)
    arguments = parser.parse_args()
    quiet_client_logs()
    results = asyncio.run(measure(arguments.bootstrap_servers, arguments.appends, arguments.pause_ms / 1000))
    medians = {}
    for name, milliseconds in results.items():
        cuts = statistics.quantiles(milliseconds, n=100)
        medians[name] = cuts[49]
        print(f"{name:>10}: p50 {cuts[49]:6.1f} ms   p99 {cuts[98]:6.1f} ms   appends {len(milliseconds)}")
    print(f"     ratio: {medians['unprepared'] / medians['prepared']:.2f} (unprepared / prepared, p50)")


if __name__ == "__main__":
    main()
