"""The last days in numbers agree with what was put in."""

import json
from datetime import timedelta

from click.testing import CliRunner

from dicom_node.db import now
from tests import dicom_objects
from worker import activity
from worker.cli import main


def look(bench, days=3, at=None):
    with bench.sessions() as session:
        return activity.look(session, days, at or now())


def test_an_empty_site_has_days_and_nothing_else(bench):
    found = look(bench)
    assert [one.studies for one in found.days] == [0, 0, 0]
    assert (found.latency_s, found.processing_ms, found.delivery_s) == (None,) * 3


def test_a_study_and_its_result_are_counted_today(bench, study):
    bench.receive(*dicom_objects.fresh_study("waits"))
    found = look(bench)
    today = found.days[-1]
    assert (today.studies, today.analyzed, today.results) == (2, 1, 1)
    assert found.states == {"analyzed": 1, "receiving": 1}
    (result,) = bench.results(study)
    assert found.pathways == {result.pathway.value: 1}
    assert found.processing_ms.median == result.timings.total_ms
    assert found.latency_s.n == 1


def test_what_is_older_is_not_counted(bench, study):
    found = look(bench, days=1, at=now() + timedelta(days=2))
    assert found.days[0].studies == found.days[0].results == 0
    assert not found.states


def test_the_command_prints_tables_and_json(bench, study):
    def run(*arguments):
        data_dir = ("--data-dir", str(bench.site.settings.data_dir))
        return CliRunner().invoke(main, ["stats", *arguments, *data_dir]).stdout

    shown = json.loads(run("--days", "2", "--json"))
    assert len(shown["days"]) == 2
    assert shown["research_use_only"]
    assert "RESEARCH USE ONLY" in run()
