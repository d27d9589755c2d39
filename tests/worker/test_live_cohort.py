"""Freezing the analysed cases of a site, and making the same snapshot again."""

import json
from datetime import timedelta

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from dicom_node import purge
from dicom_node.db import now
from dicom_node.errors import SettingsError
from dicom_node.findings import Deposit, Laterality, Slnd, SlndResult, Stage
from dicom_node.settings import patient_secret
from tests import dicom_objects
from training import live, snapshot
from training.cli import main
from worker import outcomes, pathology, retention
from worker.clinical import Variable
from worker.pathology import Entry, Label, Statement
from worker.retention import Store
from worker.tables import LabelValue, SnapshotRow


@pytest.fixture
def site(bench):
    settings = bench.site.settings
    return live.Installation(
        bench.sessions, bench.site.spool, patient_secret(settings), False
    )


def collect(site, at=None, **plan):
    return live.collect(site, live.Plan(at or now(), **plan), lambda: None)


def say(bench, study, slnd=None, nsln=None, **clinical):
    at = now()
    with bench.sessions.begin() as session:
        if slnd is not None:
            said = SlndResult(slnd, None, None, "board", at)
            outcomes.record_slnd(session, study, Laterality.LEFT, said, "me")
        label = None if nsln is None else Label(nsln, None, "board", at)
        variables = {Variable(name): value for name, value in clinical.items()}
        side = (study, Laterality.LEFT)
        pathology.record(
            session, side, Statement(label, variables), Entry("me", "board", at)
        )


def test_a_case_without_pathology_is_unknown_whatever_the_model_said(site, study):
    found = collect(site)

    (row,) = found.rows
    assert (row.sln, row.nsln) == (-1, -1)
    assert row.laterality == "L"
    assert found.cases[0]["sln_verified"] == "no"
    assert found.stage_one[row.case_id].risk in {"low", "high"}


def test_labels_and_variables_come_from_pathology(site, bench, study):
    say(bench, study, Slnd.POSITIVE, LabelValue.NEGATIVE, size_cm="1.8", grade="II")
    (row,) = collect(site).rows

    assert (row.sln, row.nsln, row.size_cm, row.grade) == (1, 0, 1.8, "II")


def test_a_past_snapshot_is_made_again(site, bench, study):
    say(bench, study, Slnd.NEGATIVE, size_cm="1.8")
    at = now()
    before = collect(site, at)
    say(bench, study, Slnd.POSITIVE, LabelValue.POSITIVE, size_cm="2.2")

    after = collect(site)
    again = collect(site, at)

    assert (before.rows[0].sln, after.rows[0].sln) == (0, 1)
    assert again.id == before.id != after.id


def test_the_command_freezes_and_enters_what_it_froze(bench, study, tmp_path):
    say(bench, study, Slnd.POSITIVE)
    settings = bench.site.settings
    options = ["--data-dir", str(settings.data_dir), "--out", str(tmp_path / "s")]
    if settings.database_url:
        options += ["--database-url", settings.database_url]
    done = CliRunner().invoke(main, ["cohort", "freeze", *options])

    assert done.exit_code == 0, done.output
    frozen = snapshot.load(tmp_path / "s")
    with bench.sessions() as session:
        (row,) = session.scalars(select(SnapshotRow)).all()
    assert (row.snapshot_id, row.cases, row.sln_positive) == (frozen.id, 1, 1)
    assert row.results == frozen.sources["results"]
    shown = CliRunner().invoke(main, ["cohort", "show", str(tmp_path / "s"), "--json"])
    verified = json.loads(shown.stdout)["flowchart"]["verified"]
    assert sum(one["verified"] for one in verified) == 1


def test_the_kept_slice_serves_when_the_images_are_purged(site, bench, study):
    before = collect(site)
    store = Store(bench.sessions, bench.site.spool)
    retention.purge_study(store, study, now())
    with bench.sessions() as session:
        assert purge.purged(session, study) is not None

    assert collect(site).id == before.id


def test_therapy_before_surgery_is_an_exclusion(site, bench, study):
    say(bench, study, Slnd.NEGATIVE, neoadjuvant="yes")
    with pytest.raises(SettingsError, match="no case is left"):
        collect(site)


def test_a_held_study_is_counted_with_its_reason(site, bench, study):
    other = dicom_objects.dynamic_series()
    for number, one in enumerate(other, start=1):
        one.StudyInstanceUID, one.SOPInstanceUID = "1.2.99", f"1.2.99.{number}"
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    bench.receive(*other)

    found = collect(site)
    assert [(one.case_id, one.reason) for one in found.exclusions] == [
        ("1.2.99", "not_analysed")
    ]
    assert found.sources["screened_studies"] == 2


def test_a_whole_centre_is_external(site, study):
    (row,) = collect(site, external={"PACS"}).rows
    assert (row.role, row.centre, row.cohort) == ("external", "PACS", "ext PACS")
    (again,) = collect(site).rows
    assert again.role == "external"


def test_isolated_cells_follow_the_rule_of_the_site(bench, site, study):
    cells = SlndResult(Slnd.NEGATIVE, Deposit.ITC, None, "board", now())
    with bench.sessions.begin() as session:
        outcomes.record_slnd(session, study, Laterality.LEFT, cells, "me")
    strict = live.Installation(site.sessions, site.spool, site.secret, True)

    assert [collect(one).rows[0].sln for one in (site, strict)] == [0, 1]


def test_a_mark_drawn_after_the_dissection_is_flagged(bench, site, study):
    marked = bench.results(study)[0].roi.marked_at
    assert marked is not None
    said = SlndResult(
        Slnd.POSITIVE, None, marked.date() - timedelta(days=1), "board", now()
    )
    with bench.sessions.begin() as session:
        outcomes.record_slnd(session, study, Laterality.LEFT, said, "me")

    (row,) = collect(site).rows
    assert row.flags == "roi_after_label"


def test_stage_two_is_learnt_from_positive_cases_only(bench, site, study):
    say(bench, study, Slnd.NEGATIVE, LabelValue.POSITIVE)
    assert len(collect(site).crops.for_stage(Stage.NSLN)) == 0
