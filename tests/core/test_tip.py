"""When a tip counts as stale."""

from __future__ import annotations

from wallet_core.blocks import Header
from wallet_core.tip import TipWatch


def tip(number: int, timestamp: int) -> Header:
    return Header(number, f"0x{number:064x}", f"0x{number - 1:064x}", timestamp)


def test_a_tip_is_stale_once_its_timestamp_is_older_than_the_limit() -> None:
    """An old block is stale at first sight, and one of exactly the limit's age is not."""
    watch = TipWatch(120)
    assert watch.stale_seconds(tip(5, 1_000), unix_time=1_120, monotonic=7) is None
    assert watch.stale_seconds(tip(5, 1_000), unix_time=1_121, monotonic=8) == 121


def test_a_tip_that_stands_still_is_stale_whatever_its_timestamp_says() -> None:
    """A node that lies in its timestamps is found out by our own clock."""
    watch = TipWatch(120)
    assert watch.stale_seconds(tip(5, 10_000), unix_time=1_000, monotonic=0) is None
    assert watch.stale_seconds(tip(5, 10_000), unix_time=1_121, monotonic=121) == 121
    assert watch.stale_seconds(tip(6, 10_000), unix_time=1_122, monotonic=122) is None


def test_a_tip_that_goes_back_and_comes_again_has_not_risen() -> None:
    """Moving to and fro below the highest number seen is standing still."""
    watch = TipWatch(120)
    assert watch.stale_seconds(tip(5, 10_000), unix_time=0, monotonic=0) is None
    assert watch.stale_seconds(tip(4, 10_000), unix_time=0, monotonic=100) is None
    assert watch.stale_seconds(tip(5, 10_000), unix_time=0, monotonic=121) == 121


def test_without_a_limit_no_tip_is_stale() -> None:
    """0 stands for never: a chain that makes blocks on demand."""
    assert TipWatch(0).stale_seconds(tip(5, 0), unix_time=1e9, monotonic=1e9) is None
