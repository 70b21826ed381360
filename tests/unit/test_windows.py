"""Windows of the week: how they are written, and when they are shut, over changes of the clocks too."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.repo import windows
from hub.repo.windows import parse, shut

BERLIN = ZoneInfo("Europe/Berlin")
WEEKEND = parse("Fri 16:00-Mon 08:00 Europe/Berlin", deny=True)


def at(text: str, zone: str = "Europe/Berlin") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("moment", "until"),
    [
        pytest.param("2026-11-20T15:59:59", None, id="a second before"),
        pytest.param("2026-11-20T16:00:00", "2026-11-23T08:00", id="as it begins"),
        pytest.param("2026-11-22T23:59:59", "2026-11-23T08:00", id="on Sunday night"),
        pytest.param("2026-11-23T00:00:00", "2026-11-23T08:00", id="on Monday, in the next week"),
        pytest.param("2026-11-23T08:00:00", None, id="as it ends"),
        pytest.param("2026-03-28T12:00:00", "2026-03-30T08:00", id="over the hour that is left out"),
        pytest.param("2026-10-24T12:00:00", "2026-10-26T08:00", id="over the hour that comes twice"),
    ],
)
def test_a_window_that_denies_is_shut_by_the_clock_on_the_wall(moment: str, until: str | None) -> None:
    found = shut([WEEKEND], at(moment))
    assert (found.until if found else None) == (at(until) if until else None)
    assert found is None or found.text == "no moves Fri 16:00-Mon 08:00 Europe/Berlin"


def test_outside_every_window_that_allows_it_is_shut_until_the_next_begins() -> None:
    night = parse("22:00-06:00 Europe/Berlin", deny=False)
    noon = parse("Wed 12:00-13:00 UTC", deny=False)
    found = shut([night, noon], at("2026-11-25T09:00"))
    assert found is not None
    assert found.text == "moves only 22:00-06:00 Europe/Berlin or Wed 12:00-13:00 UTC"
    assert found.until == at("2026-11-25T12:00", "UTC")
    assert shut([night, noon], at("2026-11-25T05:59")) is None


def test_what_denies_wins_over_what_allows_and_the_end_is_when_both_let_moves_start() -> None:
    found = shut([parse("22:00-06:00 Europe/Berlin", deny=False), WEEKEND], at("2026-11-21T23:00"))
    assert found is not None
    assert found.until == at("2026-11-23T22:00")


def test_a_window_that_leaves_no_time_is_looked_at_again_in_a_week() -> None:
    now = at("2026-11-21T23:00")
    found = shut([parse("00:00-24:00 UTC", deny=True)], now)
    assert found is not None
    assert found.until - now == 7 * 86400


def test_in_the_hour_that_the_clock_leaves_out_a_window_begins_when_it_is_left_out() -> None:
    window = parse("Sun 02:30-05:00 Europe/Berlin", deny=True)
    just_before = datetime(2026, 3, 29, 1, 59, tzinfo=BERLIN).timestamp()
    assert shut([window], just_before) is None
    assert shut([window], just_before + 60) is not None, "two o'clock is three o'clock"
    found = shut([window], just_before + 60)
    assert found is not None
    assert found.until == at("2026-03-29T05:00")


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        pytest.param("Mon 00:00-Mon 01:00 UTC", ((0, 60),), id="one span"),
        pytest.param("Sun 23:00-Mon 01:00 UTC", ((10020, 60),), id="over the end of the week"),
        pytest.param("Mon,Wed 10:00-11:00 UTC", ((600, 660), (3480, 3540)), id="some days"),
        pytest.param("Sat-Mon 00:00-01:00 UTC", ((0, 60), (7200, 7260), (8640, 8700)), id="days over the week's end"),
        pytest.param("Sun 20:00-24:00 UTC", ((9840, 10080),), id="until midnight"),
        pytest.param("Sun 22:00-06:00 UTC", ((9960, 360),), id="a night over the end of the week"),
        pytest.param("00:00-24:00 UTC", ((0, 10080),), id="always"),
        pytest.param("Mon 08:00-Mon 08:00 UTC", ((0, 10080),), id="a whole week"),
    ],
)
def test_windows_as_people_write_them(text: str, spans: tuple[tuple[int, int], ...]) -> None:
    assert parse(text, deny=True).spans == spans


@pytest.mark.parametrize(
    "text",
    [
        "",
        "UTC",
        "Fri 16-Mon 8 UTC",
        "25:00-26:00 UTC",
        "Mon 08:00-09:00",
        "08:00-09:00 Mars/X",
        "Mon-Tue-Wed 10:00-11:00 UTC",
        "fri 16:00-mon 08:00 UTC",
        "08:00-09:00 ../../etc/passwd",
    ],
)
def test_what_is_no_window_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="write such as 'Fri 16:00-Mon 08:00 Europe/Berlin'"):
        parse(text, deny=True)


MINUTES = st.integers(0, 7 * 24 * 60 - 1)


@given(
    st.lists(st.tuples(MINUTES, MINUTES, st.booleans()), min_size=1, max_size=4),
    st.sampled_from(
        [
            *("UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kolkata"),
            *("Pacific/Apia", "Africa/Casablanca", "Antarctica/Troll"),
        ]
    ),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)),
)
def test_until_is_the_first_minute_at_which_moves_may_start(
    spans: list[tuple[int, int, bool]], zone: str, moment: datetime
) -> None:
    def day(minute: int) -> str:
        return f"{windows.DAYS[minute // 1440]} {minute % 1440 // 60:02d}:{minute % 60:02d}"

    found = [parse(f"{day(start)}-{day(end)} {zone}", deny=deny) for start, end, deny in spans]
    now = moment.replace(second=0, microsecond=0, tzinfo=ZoneInfo("UTC")).timestamp()
    first = shut(found, now)
    if first is None:
        return
    assert first.until > now
    if first.until - now < 7 * 86400:
        assert shut(found, first.until) is None
    step = timedelta(minutes=97).total_seconds()
    inside = now
    while inside < min(first.until, now + 7 * 86400):
        assert shut(found, inside) is not None
        inside += step
