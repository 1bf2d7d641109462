"""Times on a command line."""

import datetime as dt

import click
import pytest

from lockstep_client.cli.spans import Since, Span


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("5m", 300), ("12h", 43_200), ("7d", 604_800)])
def test_a_span(text: str, seconds: int) -> None:
    assert Span().convert(text, None, None) == dt.timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "m", "5w", "-5m", "1.5h", "999999999999d", "5m "])
def test_no_span(text: str) -> None:
    with pytest.raises(click.BadParameter, match="a number and s, m, h or d"):
        Span().convert(text, None, None)


def test_how_long_ago_and_a_moment() -> None:
    before = dt.datetime.now(dt.UTC) - dt.timedelta(days=7)
    found = Since().convert("7d", None, None)
    assert before <= found <= dt.datetime.now(dt.UTC) - dt.timedelta(days=7)
    assert Since().convert("2026-11-28T10:52:07Z", None, None) == dt.datetime(
        2026, 11, 28, 10, 52, 7, tzinfo=dt.UTC
    )
    assert Since().convert("2026-11-28", None, None).tzinfo is dt.UTC
    east = Since().convert("2026-11-28T10:52:07+02:00", None, None)
    assert east == dt.datetime(2026, 11, 28, 8, 52, 7, tzinfo=dt.UTC)


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "7"])
def test_no_moment(text: str) -> None:
    with pytest.raises(click.BadParameter, match="how long ago"):
        Since().convert(text, None, None)
