"""Nothing of an erased study is left, in any table or folder, and nothing else goes."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from dicom_node import ledger
from dicom_node.audit import trail_of
from dicom_node.db import Base, now
from dicom_node.errors import StudyNotFoundError, StudyStateError
from dicom_node.study import StudyUid
from tests import dicom_objects
from worker.erasure import erase
from worker.tasks.analysis import analyze

UID = "study_uid"


def census(bench):
    """Count the rows of every table, and the files of the spool."""
    with bench.sessions() as session:
        rows = {
            table.name: session.scalar(sa.select(sa.func.count()).select_from(table))
            for table in Base.metadata.sorted_tables
        }
    root = bench.site.settings.spool
    files = {str(one.relative_to(root)) for one in root.rglob("*") if one.is_file()}
    return rows, files


def take_out(bench, uid):
    trail = trail_of(bench.site.settings)
    return erase(bench.sessions, bench.site.spool, uid, trail, "anna")


def receive(bench, source, name):
    slices = dicom_objects.fresh_study(name)
    uid = bench.receive(*slices, dicom_objects.gsps_rectangle([slices[4]]))
    bench.queue(uid)
    analyze(uid, bench.site, source)
    return uid


def test_an_erased_study_leaves_nothing_and_another_all(bench, source):
    receive(bench, source, "stays")
    before = census(bench)
    uid = receive(bench, source, "goes")
    between = census(bench)
    assert between[0]["result"] == before[0]["result"] + 1

    found = take_out(bench, uid)

    after = census(bench)
    changed = {
        name: (count, after[0][name])
        for name, count in before[0].items()
        if after[0][name] != count
    }
    assert set(changed) == {"audit", "audit_mark"}  # which only grow
    assert after[1] == before[1]
    assert found.files == len(between[1]) - len(after[1])
    gone = {
        name: between[0][name] - after[0][name]
        for name in between[0]
        if name not in {"audit", "audit_mark"}
    }
    assert found.rows == sum(gone.values())
    with bench.sessions() as session, pytest.raises(StudyNotFoundError):
        ledger.study(session, uid)


def test_what_is_being_analysed_stays(bench, slices, mark):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    with bench.sessions.begin() as session:
        ledger.claim(session, uid, "worker", timedelta(minutes=1), now())
    with pytest.raises(StudyStateError, match="being analysed"):
        take_out(bench, uid)


def test_an_unknown_study_is_not_found(bench):
    with pytest.raises(StudyNotFoundError):
        take_out(bench, StudyUid("1.2.3"))


def test_every_table_that_names_a_study_is_reached():
    """A table with the study's UID under another name would be forgotten."""
    study_uids = {
        table.name
        for table in Base.metadata.sorted_tables
        if UID in table.c and table.name != "study"
    }
    assert {"instance", "event", "document", "delivery", "result", "case"} <= study_uids
