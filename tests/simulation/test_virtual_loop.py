"""The loop that the simulation runs on."""

import asyncio
import random

import pytest

from simulation.virtual_loop import OutOfSteps, Pause, Process, VirtualLoop


def run(loop: VirtualLoop, seconds: float = 1000.0) -> None:
    """Run the loop for so long, by its own time."""
    over = asyncio.Event()
    loop.later(seconds, over.set)
    loop.run_while(lambda: not over.is_set(), 100_000)


@pytest.fixture
def loop() -> VirtualLoop:
    return VirtualLoop(random.Random(1))  # type: ignore[abstract]  # see its end


def test_time_jumps_to_the_next_timer(loop: VirtualLoop) -> None:
    """An hour passes without waiting, and exactly."""
    seen = []

    async def sleeper() -> None:
        await asyncio.sleep(3600)
        seen.append(loop.time())

    loop.start_in_world(sleeper(), "sleeper")
    run(loop, 4000)
    assert seen == [3600]


def test_the_seed_decides_what_runs_next() -> None:
    """Tasks that do not wait for one another run in every order, and in the same one for the same seed."""

    def order(seed: int) -> tuple[int, ...]:
        loop = VirtualLoop(random.Random(seed))  # type: ignore[abstract]  # see its end
        ran: list[int] = []

        async def task(number: int) -> None:
            await Pause()
            ran.append(number)

        for number in range(3):
            loop.start_in_world(task(number), str(number))
        run(loop)
        return tuple(ran)

    assert len({order(seed) for seed in range(100)}) == 6
    assert order(7) == order(7)


def test_a_frozen_process_goes_on_where_it_was(loop: VirtualLoop) -> None:
    """Nothing of a frozen process runs, tasks that it made included, while others and the time go on."""
    process = Process(loop, "frozen")
    seen: list[tuple[str, float]] = []

    async def tick(name: str) -> None:
        for _ in range(3):
            await asyncio.sleep(10)
            seen.append((name, loop.time()))

    async def work() -> None:
        await asyncio.gather(tick("child"), asyncio.ensure_future(tick("other child")))

    process.start(work())
    loop.start_in_world(tick("world"), "world")
    loop.later(15, process.freeze)
    loop.later(50, process.thaw)
    run(loop)
    times = {name: [at for each, at in seen if each == name] for name, _ in seen}
    assert times == {"child": [10, 50, 60], "other child": [10, 50, 60], "world": [10, 20, 30]}


def test_a_crashed_process_runs_no_finally_block(loop: VirtualLoop) -> None:
    """A crash is kill -9: nothing of the process ever runs again, until the world is over."""
    process = Process(loop, "crashed")
    cleaned: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            cleaned.append("finally")

    process.start(work())
    loop.later(5, process.crash)
    loop.later(20, process.thaw)
    run(loop)
    assert cleaned == []
    process.bury()
    loop.end_all_tasks()
    assert cleaned == ["finally"]


def test_a_loop_without_end_is_found(loop: VirtualLoop) -> None:
    """Code that never waits for time to pass ends the simulation instead of hanging it."""

    async def busy() -> None:
        while True:
            await Pause()

    loop.start_in_world(busy(), "busy")
    with pytest.raises(OutOfSteps):
        run(loop)
    loop.end_all_tasks()


def test_waiting_for_nothing_is_found(loop: VirtualLoop) -> None:
    """So does a world in which nothing can ever happen again."""
    with pytest.raises(OutOfSteps):
        loop.run_while(lambda: True, 10)
