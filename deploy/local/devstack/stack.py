"""The demo's services together: up, down, clean.

`up` starts Redis, Kafka and Ganache detached, each at once with the others, with data under `<local>/<service>` and a
record in `<local>/run/services/<service>.json`. One that runs already is used again if it is proved to be ours: its
record's process lives, it owns its ports, it answers. `down` stops what the records name, and only that: a recorded pid
that now belongs to another process is left alone. Whoever uses the services stops first: `walletctl run`, which the
demo records as `walletctl`; then all others at once.
"""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from devstack.errors import DevstackError
from devstack.processes import Record
from devstack.services import Ganache, Kafka, Redis, Service
from devstack.steps import Progress
from devstack.tools import Tools

STOPPED_FIRST = ("walletctl",)
"""Users of the services: stopped before them, in this order."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the demo's services listen on 127.0.0.1."""

    redis: int = 16379
    kafka: int = 19092
    kafka_controller: int = 19093
    ganache: int = 18545


@dataclass(frozen=True, slots=True)
class Stack:
    """The demo's services, running."""

    redis: Redis
    kafka: Kafka
    ganache: Ganache


def records_directory(local: Path) -> Path:
    """Where the records of detached processes lie."""
    return local / "run" / "services"


def up(local: Path, tools: Tools, ports: Ports, progress: Progress) -> Stack:
    """The three services, running and proved to be ours. Raises a `DevstackError` for the first that is not."""
    records = records_directory(local)
    redis = Redis(
        tools=tools, data=local / "redis", records=records,
        port=ports.redis, port_remedy=_remedy("DEVSTACK_REDIS_PORT"),
    )  # fmt: skip
    kafka = Kafka(
        tools=tools, data=local / "kafka", records=records, port=ports.kafka, controller_port=ports.kafka_controller,
        port_remedy=_remedy("DEVSTACK_KAFKA_PORT (or DEVSTACK_KAFKA_CONTROLLER_PORT)"),
    )  # fmt: skip
    ganache = Ganache(
        tools=tools, data=local / "ganache", records=records, block_time_seconds=1,
        port=ports.ganache, port_remedy=_remedy("DEVSTACK_GANACHE_PORT"),
    )  # fmt: skip
    with ThreadPoolExecutor(max_workers=3) as pool:
        for future in [pool.submit(_ensure, service, progress) for service in (redis, kafka, ganache)]:
            future.result()
    return Stack(redis, kafka, ganache)


def _remedy(variable: str) -> str:
    return f"stop that process, or set {variable} to a free port"


def _ensure(service: Service, progress: Progress) -> None:
    """Adopt the recorded process of `service`, or start one."""
    record = None if service.records is None else Record.read(service.records, service.name)
    where = f"127.0.0.1:{service.port}"
    if record is not None and record.process.alive():
        if record.ports != service.ports:
            raise DevstackError(
                f"{service.name} runs on ports {record.ports}, not {service.ports}: run 'make down' first"
            )
        service.adopt(record)
        progress(f"{service.name} runs already on {where} (pid {record.process.pid})")
        return
    if record is not None:
        progress(f"{service.name} (pid {record.process.pid}) has died since: starting it again, its data is kept")
    else:
        progress(f"starting {service.name} on {where}")
    service.start()
    progress(f"{service.name} answers on {where} (pid {service.process.pid})")


def down(local: Path, progress: Progress) -> None:
    """Stop every recorded process that is still the recorded one, users of the services first."""
    directory = records_directory(local)
    names = sorted(path.stem for path in directory.glob("*.json"))
    first = [name for name in STOPPED_FIRST if name in names]
    for name in first:
        _stop(directory, name, progress)
    rest = [name for name in names if name not in first]
    if rest:
        with ThreadPoolExecutor(max_workers=len(rest)) as pool:
            for future in [pool.submit(_stop, directory, name, progress) for name in rest]:
                future.result()
    if not names:
        progress("nothing is running")


def _stop(directory: Path, name: str, progress: Progress) -> None:
    record = Record.read(directory, name)
    if record is None:
        progress(f"{name}: its record says nothing; nothing to stop")
    elif record.process.alive():
        progress(f"stopping {name} (pid {record.process.pid})")
        record.process.stop()
    else:
        progress(f"{name} (pid {record.process.pid}) was gone already")
    Record.path(directory, name).unlink(missing_ok=True)


def clean(local: Path, progress: Progress) -> None:
    """`down`, then remove `local` with all data, tools, keys and logs."""
    down(local, progress)
    if local.exists():
        shutil.rmtree(local)
        progress(f"removed {local}")
