"""What a look costs, and that it changes nothing."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from dicom_node.db import now
from dicom_node.tables import StudyRow
from tests import monitored
from tests.monitored import fail_delivery, held_study, send_delivery
from worker.metrics.counts import Names
from worker.metrics.scraper import Scraper
from worker.metrics.tally import Tally
from worker.tables import ResultRow

SMALL = {"counter", "parked_slnd", "activation", "threshold", "drift_report"}
"""Tables whose rows do not grow with the studies."""

SUMMED_BEHIND = {"instance"}
"""Read whole, but by a thread that nobody waits for, every ten minutes at most."""


@pytest.fixture
def statements(bench):
    """What is sent to the database, with its parameters."""
    sent = []

    def keep(connection, cursor, statement, parameters, context, executemany):
        if statement.lstrip().upper().startswith("SELECT"):
            sent.append((statement, parameters))

    engine = bench.sessions.kw["bind"]
    sa.event.listen(engine, "before_cursor_execute", keep)
    yield sent
    sa.event.remove(engine, "before_cursor_execute", keep)


def scraper_of(bench) -> Scraper:
    return Scraper(bench.site.settings, bench.sessions.kw["bind"])


def copies(bench, count: int) -> None:
    """Put so many copies of the one study into the ledger."""
    with bench.sessions.begin() as session:
        row = session.scalars(sa.select(StudyRow)).first()
        names = [column.key for column in sa.inspect(StudyRow).columns]
        values = {name: getattr(row, name) for name in names}
        session.execute(
            sa.insert(StudyRow),
            [values | {"study_uid": f"1.2.{number}"} for number in range(count)],
        )


def test_no_query_reads_a_whole_table_that_grows(bench, study, source, statements):
    held_study(bench, source)
    scraper = scraper_of(bench)
    scraper.view()
    statements.clear()
    scraper_of(bench).view()

    scans = set()
    with bench.sessions.kw["bind"].connect() as connection:
        for statement, parameters in list(statements):
            plan = connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN {statement}", parameters
            )
            scans |= {row.detail for row in plan if row.detail.startswith("SCAN")}
    whole = {scan.split()[1] for scan in scans if "COVERING INDEX" not in scan}
    assert whole - SMALL - SUMMED_BEHIND == set(), scans


def test_as_many_queries_for_one_study_as_for_a_thousand(bench, study, statements):
    counted = []
    for number in (0, 1000):
        copies(bench, number) if number else None
        statements.clear()
        scraper_of(bench).view()
        counted.append(len([each for each in statements if "instance" not in each[0]]))

    assert counted[0] == counted[1] <= 25


def test_a_look_is_kept_for_all_who_ask_within_its_time(bench, statements):
    at = [0.0]
    settings, engine = bench.site.settings, bench.sessions.kw["bind"]
    scraper = Scraper(settings, engine, lambda: at[0])
    first = scraper.view()
    statements.clear()

    at[0] = 4.9
    assert scraper.view() is first
    assert statements == []
    at[0] = 5.1
    assert scraper.view() is not first


def test_a_look_changes_nothing(bench, study, source):
    held_study(bench, source)
    engine = bench.sessions.kw["bind"]

    def content():
        with engine.connect() as connection:
            return {
                table.name: connection.execute(sa.select(table)).all()
                for table in StudyRow.metadata.sorted_tables
            }

    before = content()
    scraper_of(bench).view()
    assert content() == before


def tally_of(bench) -> Tally:
    return Tally(Names.of(bench.site.settings))


def update(bench, tally: Tally) -> None:
    with bench.sessions() as session:
        tally.update(session)


def totals(tally: Tally) -> dict[str, int]:
    return {
        "results": sum(tally.parts.at("total").counts),
        "turnaround": sum(tally.turnaround.at().counts),
        "sent": sum(sum(one.counts) for one in tally.delivery.series.values()),
        "scores": sum(sum(one.counts) for one in tally.scores.series.values()),
    }


def test_distributions_count_each_row_once(bench, study):
    tally = tally_of(bench)
    update(bench, tally)
    first = totals(tally)
    update(bench, tally)
    assert totals(tally) == first
    assert first["results"] == first["turnaround"] == 1
    assert (first["scores"], first["sent"]) == (1, 0)

    send_delivery(bench)
    fail_delivery(bench)
    update(bench, tally)
    update(bench, tally)
    assert totals(tally) == first | {"sent": 1}


def test_a_row_that_is_committed_late_is_not_missed(bench, study):
    tally = tally_of(bench)
    update(bench, tally)
    with bench.sessions.begin() as session:
        row = session.scalars(sa.select(ResultRow)).one()
        names = [column.key for column in sa.inspect(ResultRow).columns]
        late = {name: getattr(row, name) for name in names} | {
            "result_id": "late",
            "version": 2,
            "created_at": row.created_at - timedelta(minutes=2),
        }
        session.execute(sa.insert(ResultRow), [late])
    update(bench, tally)

    assert totals(tally)["results"] == 2


def test_scores_are_told_apart_by_site_scanner_and_model(bench, study):
    tally = tally_of(bench)
    update(bench, tally)

    ((stage, site, scanner, model),) = tally.scores.series
    assert (stage, site, scanner) == ("SLN", "PACS", "other")
    assert "@" in model


def test_too_many_series_become_other(bench):
    tally = tally_of(bench)
    for number in range(400):
        tally.scores.at("SLN", "PACS", "Siemens Aera", f"m@{number}").add(0.5)

    assert len(tally.scores.series) == 301
    assert sum(tally.scores.at(*["other"] * 4).counts) == 100


def test_a_missing_drift_report_and_a_present_one(bench):
    assert scraper_of(bench).view().counts.drift == ()
    monitored.report_drift(bench)

    found = scraper_of(bench).view().counts.drift
    assert [(one.statistic, one.alarm) for one in found] == [
        ("score_ks", True),
        ("score_mean", False),
    ]
    assert abs((found[0].at - now()).total_seconds()) < 60


def test_without_a_database_the_rest_is_told(bench, study):
    with bench.sessions.begin() as session:
        session.execute(sa.text("alter table study rename to gone"))

    view = scraper_of(bench).view()
    assert view.counts is None
    assert view.free_bytes > 0
