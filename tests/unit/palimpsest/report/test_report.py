"""What `palimpsest report` prints and the page it writes, over bills made for it."""

import itertools
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from click.testing import Result
from sqlalchemy import insert
from typer.testing import CliRunner

from palimpsest.cli import app
from palimpsest.commands.report import SPARK, sparkline
from palimpsest.machine.data_directory import LocalError
from palimpsest.report.chart import COLOURS, Series, chart, colours, join, ticks
from palimpsest.report.figures import number, start_of
from store import tenants
from store.database import Database
from store.tables.billing import Bill

GIB = 1024**3
NASTY = "<script>alert(1)</script>:car:\x1b[31m&\u202e"
Run = Callable[..., Result]


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    with database.session() as session:
        tenants.ensure(session)
        tenants.ensure(session, "ten_other", "other")
    yield database
    database.close()


@pytest.fixture
def book(db: Database) -> Callable[..., None]:
    """Books a bill of an hour ago; keyword arguments change it."""
    number = iter(range(1000))

    def add(**changes: object) -> None:
        bill: dict[str, object] = {
            "job_id": f"job_{next(number)}",
            "attempt": 1,
            "tenant_id": "ten_default",
            "booked_at": datetime.now(UTC) - timedelta(hours=1),
            "project": "alpha",
            "scorer": "namm@1",
            "outcome": "succeeded",
            "currency": "USD",
            "price_book_id": "prc_placeholder",
            "jobs": 1,
            "attempts": 1,
            "device_seconds": 100,
            "tokens_read": 5000,
            "kv_byte_seconds": GIB * 3600,
            "dense_byte_seconds": 4 * GIB * 3600,
            "cost": Decimal("2.5"),
            "waste_cost": Decimal("0.5"),
            "allocated_saving": Decimal("1.25"),
            "scorer_quality": Decimal("0.9"),
        }
        with db.session() as session:
            session.execute(insert(Bill).values(**(bill | changes)))

    return add


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Run:
    def invoke(*arguments: str) -> Result:
        env = {"DATABASE_URL": database_url, "PALIMPSEST_DATA_DIR": str(tmp_path), "COLUMNS": "80"}
        return CliRunner().invoke(app, list(arguments), env=env)

    return invoke


@pytest.mark.parametrize(
    ("last", "zone", "start"),
    [
        ("24h", "Europe/Berlin", "2026-03-29T12:00+00:00"),
        ("1d", "Europe/Berlin", "2026-03-29T12:00+00:00"),
        ("2d", "Europe/Berlin", "2026-03-28T13:00+00:00"),  # by the clock: one of these days has 23 hours
        ("2w", "UTC", "2026-03-16T12:00+00:00"),
        ("1mo", "UTC", "2026-02-28T12:00+00:00"),  # there is no 30th of February
        ("15mo", "UTC", "2024-12-30T12:00+00:00"),
    ],
)
def test_where_a_report_begins(last: str, zone: str, start: str) -> None:
    end = datetime(2026, 3, 30, 12, tzinfo=UTC)
    assert start_of(last, end, ZoneInfo(zone)) == datetime.fromisoformat(start)


@pytest.mark.parametrize(
    "last", ["", "0d", "d", "30", "3y", "-1d", "1.5h", "1d ", "1d\n", "٣d", "999999h", "99999w", "400mo"]
)
def test_other_stretches_are_refused_in_one_sentence(last: str) -> None:
    with pytest.raises(LocalError, match=r"^--last .*\.$"):
        start_of(last, datetime(2026, 3, 30, tzinfo=UTC), UTC)


def test_numbers_keep_four_digits_that_count() -> None:
    shown = [
        number(value and Decimal(value)) for value in ("1234.567", "0", "0.00013894", "-0.5", "1e-12", None)
    ]
    assert shown == ["1,234.57", "0.00", "0.0001389", "−0.5000", "0.0000000000", "–"]


def test_sparklines() -> None:
    assert sparkline([None, Decimal(0), Decimal(4), Decimal(8)]) == " ▁▅█"
    assert sparkline([]) == ""
    assert sparkline([Decimal(0)] * 3) == "▁▁▁"
    many = [Decimal(n == 61) for n in range(90)]
    assert sparkline(many).index("█") == 20
    assert len(sparkline(many)) == 30 <= SPARK


def test_a_group_a_row_and_currencies_apart(book: Callable[..., None], run: Run) -> None:
    book()
    book(scorer="namm@2", full_cache_cost=Decimal(7), realised_saving=Decimal("-0.75"))
    book(scorer="namm@2", currency="EUR", cost=Decimal(40), scorer_quality=Decimal("0.8"))
    result = run("report", "--by", "scorer_version")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines() if line.startswith(("namm", "all"))]
    assert [row[:2] for row in rows] == [
        ["namm@1", "USD"],
        ["namm@2", "EUR"],
        ["namm@2", "USD"],
        ["all", "EUR"],
        ["all", "USD"],
    ]
    first = "namm@1 USD 1 5,000 100.00 2.500* 0.5000 3.000 1.250 – 90.0%".replace("*", "")
    assert rows[0][:11] == first.split()
    assert rows[2][9:12] == ["−0.7500", "(1", "job)"]
    assert rows[3][5] == "40.00"
    assert rows[4][2:6] == ["2", "10,000", "200.00", "5.000"]
    assert "never added" in result.output
    assert "(m)" in result.output
    assert "(e)" in result.output


def test_time_without_a_price_is_told(book: Callable[..., None], run: Run) -> None:
    book()
    assert "no price" not in run("report").output
    book(cost=None, waste_cost=None, device_seconds=250)
    output = run("report").output
    assert "2.500*" in output
    assert "* 250.00 device-seconds are on devices without a price in their price book (USD)" in output


def test_documents_that_fit_claim_no_saving(book: Callable[..., None], run: Run) -> None:
    book(answers=4, answers_at_risk=1)
    book(fits=True, kv_byte_seconds=9 * GIB * 3600, allocated_saving=0, answers=2)
    result = run("report")
    [row] = [line for line in result.output.splitlines() if line.startswith("all")]
    assert " 3.000 " in row, "of the first alone"
    assert "1 of 2  1 of 6" in " ".join(row.split()).replace("1 of 2 ", "1 of 2  ")
    found = json.loads(run("report", "--json").stdout)["totals"][0]["values"]
    assert found["memory_saved_byte_seconds"] == f"{3 * GIB * 3600}.000000"
    assert found["jobs_without_eviction"] == "1"


def test_warnings_are_counted_by_job_and_explained(
    book: Callable[..., None], run: Run, tmp_path: Path
) -> None:
    assert "warning" not in run("report").output
    book(warnings=["slots_piled_up", "scorer_not_measured"])
    book(warnings=["slots_piled_up"])
    book(warnings=["slots_piled_up"], jobs=0)  # an attempt that did not end its job
    book(warnings=["slots_piled_up"], tenant_id="ten_other")
    book(warnings=["of_a_later_version"], booked_at=datetime.now(UTC) - timedelta(days=80))
    page = tmp_path / "page.html"
    result = run("report", "--tenant", "default", "--html", str(page))
    piled = "2 jobs with the warning slots_piled_up. Most of the slots kept"
    for text in (result.output, page.read_text()):
        assert piled in text
        assert "1 job with the warning scorer_not_measured." in text
        assert "of_a_later_version" not in text
    found = json.loads(run("report", "--json", "--last", "12w").stdout)["warnings"]
    assert found[0] == {"code": "slots_piled_up", "jobs": 3}
    assert {"code": "of_a_later_version", "jobs": 1} in found


def test_json_has_every_figure_exactly(book: Callable[..., None], run: Run) -> None:
    book(tags={"team": NASTY}, cost=Decimal("0.1234567891"))
    book(tenant_id="ten_other", tags={"team": "b"}, booked_at=datetime.now(UTC) - timedelta(days=8))
    everything = run(
        "report", "--by", "tag:team", "--json", "--bucket", "day", "--timezone", "Asia/Kathmandu"
    )
    found = json.loads(everything.stdout)
    assert [row["group"] for row in found["groups"]] == [{"tag:team": NASTY}, {"tag:team": "b"}]
    assert found["groups"][0]["values"]["cost"] == "0.1234567891"
    assert found["totals"][0]["values"]["memory_saved_byte_seconds"] == f"{6 * GIB * 3600}.000000"
    assert found["metrics"]["saving_realised"] == {"unit": "money", "measurement": "estimated"}
    assert found["metrics"]["jobs_with_full_cache_figure"] == {"unit": "job", "measurement": "derived"}
    steps = found["buckets"]
    assert all(one["end"] == other["start"] for one, other in itertools.pairwise(steps))
    assert all(step["start"].endswith("T00:00:00+05:45") for step in steps[1:])
    summed = sum(Decimal(row["values"]["cost"]) for step in steps for row in step["rows"])
    assert summed == Decimal(found["totals"][0]["values"]["cost"]) == Decimal("2.6234567891")
    one = json.loads(run("report", "--tenant", "other", "--json", "--last", "7d").stdout)
    assert (one["tenant_id"], one["totals"]) == ("ten_other", [])
    assert "Nothing was billed" in run("report", "--tenant", "other", "--last", "7d").output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--by", "colour"], "Unknown group 'colour'"),
        (["--last", "3y"], "24h, 30d, 12w or 6mo"),
        (["--timezone", "Europe"], "There is no time zone 'Europe'"),
        (["--timezone", "../etc"], "There is no time zone"),
        (["--tenant", "nobody"], "There is no tenant named 'nobody'"),
        (["--bucket", "minute"], "more than 1,500 buckets of one minute"),
        (["--html", "/no/such/folder/page.html"], "cannot be written"),
    ],
)
def test_what_cannot_be_reported_is_told_in_a_sentence(
    arguments: list[str], told: str, db: Database, run: Run
) -> None:
    result = run("report", *arguments)
    assert result.exit_code == 1
    assert told in result.output
    assert len(result.output.splitlines()) == 1


class Checker(HTMLParser):
    """Fails at a tag that is closed wrongly, and collects tags and what is read aloud."""

    VOID = ("meta", "line", "rect")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_escaped_and_loads_nothing(
    book: Callable[..., None], run: Run, tmp_path: Path
) -> None:
    for n in range(COLOURS + 2):
        book(project=f"p{n}", cost=Decimal(n + 1), tags={"team": NASTY})
    book(project=NASTY, realised_saving=Decimal(-1), full_cache_cost=Decimal(1), cost=None)
    path = tmp_path / "page.html"
    result = run("report", "--by", "project", "--by", "tag:team", "--html", str(path))
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    text = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert not {"\x1b", "\u202e"} & set(text)
    assert not {"script", "link", "img", "iframe", "object"} & checker.tags
    assert not {"src", "href", "onload", "onclick"} & {name for name, _ in checker.attributes}
    assert "url(" not in text
    assert "@import" not in text
    assert "4 others" in text, "as many colours as there are"
    assert "devices without a price" in text
    assert ("role", "img") in checker.attributes
    assert ("scope", "row") in checker.attributes
    assert text.count("<figure>") == 3
    assert text.count("<summary>As a table</summary>") == 3
    assert "realised-2" in text


def test_a_page_of_nothing(run: Run, db: Database, tmp_path: Path) -> None:
    assert run("report", "--html", str(tmp_path / "page.html")).exit_code == 0
    assert "Nothing was billed." in (tmp_path / "page.html").read_text()


def test_bars_are_as_high_as_their_values_and_stand_on_each_other() -> None:
    series = [
        Series("a", [Decimal(4), Decimal(-2), None], 0),
        Series("b", [Decimal(2), Decimal(-1), Decimal(0)], 1),
    ]
    drawn = ET.fromstring(chart(series, ["mo", "tu", "we"], "t", "d"))
    bars = [{k: float(one.get(k, "")) for k in ("x", "y", "height")} for one in drawn.iter("rect")]
    a, b, c, d = bars
    assert a["height"] == pytest.approx(2 * b["height"], abs=0.02)
    assert c["height"] == pytest.approx(b["height"], abs=0.02)
    assert b["y"] + b["height"] == pytest.approx(a["y"], abs=0.02)
    zero = a["y"] + a["height"]
    assert c["y"] == pytest.approx(zero, abs=0.02)
    assert d["y"] == pytest.approx(c["y"] + c["height"], abs=0.02)
    assert next(one.text for one in drawn.iter("title")) == "mo: a, 4.000"


def test_ticks_are_round_and_enclose() -> None:
    for low, high in (("0", "0"), ("0", "0.00037"), ("-3", "11"), ("-5", "0"), ("0", "123456"), ("0", "4")):
        marks = ticks(Decimal(low), Decimal(high))
        assert Decimal(0) in marks
        assert marks[0] <= Decimal(low) <= Decimal(high) <= marks[-1]
        assert 2 <= len(marks) <= 7
        assert marks == sorted(set(marks))


def test_many_series_are_joined_without_loss() -> None:
    names = [str(n) for n in range(COLOURS + 5)]
    assert colours(names[:COLOURS] * 2) == {name: n for n, name in enumerate(names[:COLOURS])}
    series = [Series(name, [Decimal(name), None], colours(names)[name]) for name in names]
    joined = join(series)
    assert len(joined) == COLOURS
    assert joined[-1].name == "6 others"
    assert joined[-1].values[1] is None
    assert sum(one.values[0] or 0 for one in joined) == sum(one.values[0] or 0 for one in series)
