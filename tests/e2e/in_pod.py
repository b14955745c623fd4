"""What a backend team does, run in a pod of the workers' image: Kafka gives out an address that only pods can reach.

read <brokers> <topic>        every committed record to the topic's end, a line of JSON {key, value, offset} each
send <brokers> <topic>        a record for each line of stdin, its key and value as {"key": …, "value": …}
topics <brokers>              the name of each topic
delete <brokers> <topic>…     these topics
rpc <url>                     a call for each line of stdin, ["method", …parameters]; a line with its result each
pay <url> <seconds> <address>…  payments to the addresses in turn, so far apart, until stdin ends; a line of JSON
                              {txid, to, amount} each; no two have the same amount
"""

import asyncio
import itertools
import json
import select
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code

REQUEST_SECONDS_MAX = 30
REFUSED_PAUSE_SECONDS = 0.5


async def read(brokers: str, topic: str) -> None:
    # Without a group the consumer has every partition, from its start.
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=brokers, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        partitions = consumer.assignment()
        if not partitions:
            sys.exit(f"there is no topic {topic}")
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(each) < ends[each] for each in partitions]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    key, value = (part and part.decode() for part in (record.key, record.value))
                    print(json.dumps({"key": key, "value": value and json.loads(value), "offset": record.offset}))
    finally:
        await consumer.stop()


async def send(brokers: str, topic: str) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=brokers)
    await producer.start()
    try:
        for line in sys.stdin:
            record = json.loads(line)
            value = record["value"] if isinstance(record["value"], str) else json.dumps(record["value"])
            await producer.send_and_wait(topic, value.encode(), key=record["key"] and record["key"].encode())
    finally:
        await producer.stop()


async def topics(brokers: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        print(*await admin.list_topics(), sep="\n")
    finally:
        await admin.close()


async def delete(brokers: str, names: list[str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        answer = await admin.delete_topics(names)
        if failed := [name for name, code in answer.topic_error_codes if code]:
            sys.exit(f"not deleted: {failed}: {for_code(answer.topic_error_codes[0][1]).__name__}")
    finally:
        await admin.close()


def rpc(url: str) -> None:
    for line in sys.stdin:
        print(json.dumps(call(url, *json.loads(line))), flush=True)


def pay(url: str, seconds: float, addresses: list[str]) -> None:
    last: dict[str, str] = {}
    parties = zip(itertools.cycle(call(url, "eth_accounts")), itertools.cycle(addresses))
    for wei, (payer, address) in enumerate(parties, start=1):
        # While Ganache makes a block, it gives a payer's next transaction a nonce of that block, and then loses it.
        while payer in last and call(url, "eth_getTransactionReceipt", last[payer]) is None:
            time.sleep(seconds)
        txid = call(url, "eth_sendTransaction", {"from": payer, "to": address, "value": hex(wei)})
        last[payer] = txid
        print(json.dumps({"txid": txid, "to": address, "amount": str(wei)}), flush=True)
        if select.select([sys.stdin], [], [], seconds)[0]:
            return


def call(url: str, method: str, *parameters: Any) -> Any:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})  # noqa: S310 - the test's URL
    deadline = time.monotonic() + REQUEST_SECONDS_MAX
    while True:
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS_MAX) as response:  # noqa: S310 - the same
                answer = json.load(response)
            break
        except urllib.error.URLError as error:  # a pod that was just started is not behind its Service at once
            if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > deadline:
                raise
            time.sleep(REFUSED_PAUSE_SECONDS)
    if "error" in answer:
        sys.exit(f"{method}: {answer['error']}")
    return answer["result"]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["read", brokers, topic]:
            asyncio.run(read(brokers, topic))
        case ["send", brokers, topic]:
            asyncio.run(send(brokers, topic))
        case ["topics", brokers]:
            asyncio.run(topics(brokers))
        case ["delete", brokers, *names]:
            asyncio.run(delete(brokers, names))
        case ["rpc", url]:
            rpc(url)
        case ["pay", url, seconds, *addresses]:
            pay(url, float(seconds), addresses)
        case _:
            sys.exit(__doc__)
