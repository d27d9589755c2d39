"""Every act of a person is in the audit trail with the act, and outlives its object."""

import json
import stat
from dataclasses import replace

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from dicom_node import audit, ledger, outbox, revisions, transfers
from dicom_node.db import now
from dicom_node.errors import PermanentError, StudyNotFoundError
from dicom_node.ledger import Association
from dicom_node.tables import AuditRow, DeliveryRow, DeliveryState
from dicom_node.transfers import Went
from tests.audit_messages import parsed, place
from worker import chronicle
from worker.cli import main, up
from worker.erasure import erase


@pytest.fixture
def run(bench):
    def call(*arguments: str, code: int | None = 0, stdin: str | None = None):
        data_dir = ("--data-dir", str(bench.site.settings.data_dir))
        environment = {"SENTINODE_MODELS_DIR": str(bench.site.settings.models)}
        runner = CliRunner(env=environment)
        done = runner.invoke(main, [*arguments, *data_dir], input=stdin)
        assert code is None or done.exit_code == code, done.output
        return json.loads(done.stdout) if "--json" in arguments else done.output

    return call


@pytest.fixture
def trail(bench):
    return audit.trail_of(bench.site.settings)


def entries(run, *options: str):
    return run("audit", "list", "--json", *options)


def said(run):
    return [one["what"] for one in entries(run)]


def test_what_a_person_does_to_a_study_is_entered(bench, run, slices, mark):
    uid = bench.receive(*slices, mark)
    run("studies", "complete", uid)
    run("studies", "hold", uid, "--why", "because of Somebody^Else")
    run("studies", "requeue", uid)
    run("studies", "ignore", uid, "--why", "a phantom")
    run("studies", "requeue", uid)
    run("studies", "reprocess", uid)
    run("queue", "pause", "analysis", "--why", "x")
    run("queue", "resume", "analysis")
    run("studies", "show", uid)
    run("studies", "show", uid, "--phi")
    run("studies", "list", "--phi")

    found = entries(run)
    assert [one["what"] for one in found][:4] == [
        "studies complete",
        "studies hold",
        "studies requeue",
        "studies ignore",
    ]
    assert [one["what"] for one in found][4:] == [
        "studies requeue",
        "studies reprocess",
        "queue pause",
        "queue resume",
        "studies show --phi",
        "studies list --phi",
    ]
    assert {one["study_uid"] for one in found if one["event_id"] == "110103"} == {uid}
    assert found[-1]["action"] == "R"
    assert len(found[0]["patient_key"]) == 64
    assert "Somebody" not in json.dumps(found)
    assert run("audit", "verify", "--json")["holds"]


def test_what_is_refused_is_not_entered(bench, run, study):
    run("studies", "complete", study, code=4)
    run("studies", "hold", "1.2.3", "--why", "x", code=3)
    assert said(run) == []


def test_purge_deliveries_and_thresholds_are_entered(bench, run, study):
    with bench.sessions.begin() as session:
        session.execute(sa.update(DeliveryRow).values(state=DeliveryState.FAILED))
        one = outbox.deliveries(session)[0].delivery_id
    run("deliveries", "cancel", one)
    run("deliveries", "retry", one)
    run(
        *("models", "threshold", "--stage", "SLN", "--value", "0.4"),
        *("--reason", "x", "--yes"),
    )
    run("studies", "purge", study, "--yes")
    found = entries(run)
    assert [one["what"] for one in found] == [
        "deliveries cancel",
        "deliveries retry",
        "models threshold",
        "studies purge",
    ]
    assert found[0]["object"] == one
    assert (found[3]["event_id"], found[3]["action"]) == ("110105", "D")


def test_models_in_service_are_entered_once(bench, run, trail):
    listed = run("models", "list", "--json")
    for model in listed:
        run("models", "activate", f"{model['name']}@{model['version']}")
    with bench.sessions.begin() as session:
        chronicle.follow(session, trail)
    assert said(run) == ["model activated"] * len(listed)


def transferred(bench, study, *, ends=True):
    """Enter an association that sent the documents of a study, as a delivery does."""
    with bench.sessions.begin() as session:
        one = transfers.begin(session, "PACS@127.0.0.1:9", [study], now())
        documents = [one.sop_instance_uid for one in outbox.deliveries(session)]
        session.execute(
            sa.update(DeliveryRow).values(state=DeliveryState.SENT, sent_at=now())
        )
        if ends:
            went = {study: Went(documents, failed=1, answered=True)}
            transfers.end(session, one, went, now())


def test_what_the_service_does_is_followed_once(bench, run, study, trail):
    transferred(bench, study)
    assert chronicle.pending(bench.sessions)
    with bench.sessions.begin() as session:
        assert chronicle.follow(session, trail) == 4
    with bench.sessions.begin() as session:
        assert chronicle.follow(session, trail) == 0
    assert not chronicle.pending(bench.sessions)

    found = entries(run, "--study", study)
    assert [one["what"] for one in found] == [
        "study received",
        "result created",
        "transfer begun",
        "documents sent",
    ]
    assert found[0]["actor"] == "PACS"
    assert found[3]["peer"] == "PACS@127.0.0.1:9"
    assert found[3]["detail"] == "2 documents to PACS@127.0.0.1:9, 1 not taken"
    assert found[3]["outcome"] == 4
    transferred(bench, study)  # sent again: an association of its own
    with bench.sessions.begin() as session:
        assert chronicle.follow(session, trail) == 2


def test_a_transfer_whose_process_was_killed_is_told_by_its_deliveries(
    bench, run, study, trail
):
    transferred(bench, study, ends=False)
    later = now() + chronicle.DEAD_AFTER * 1.1
    with bench.sessions.begin() as session:
        assert chronicle.follow(session, trail) == 3
        assert chronicle.follow(session, trail, later) == 1
    (*_, last) = entries(run, "--study", study)
    assert last["detail"].startswith("2 documents")
    assert "its end was not seen" in last["detail"]


def test_a_transfer_that_reached_nobody_was_none(bench, study, trail):
    with bench.sessions.begin() as session:
        one = transfers.begin(session, "PACS@127.0.0.1:9", [study], now())
        transfers.end(session, one, {study: Went(failed=2)}, now())
        assert chronicle.follow(session, trail) == 2


def test_old_rows_are_not_looked_at_again(bench, study, trail):
    with bench.sessions.begin() as session:
        while chronicle.follow(session, trail):
            pass
        session.execute(sa.text("DROP TRIGGER audit_no_delete"))
        session.execute(sa.delete(AuditRow))
        assert chronicle.follow(session, trail) == 2  # within the mark's day
        later = now() + chronicle.LAG * 2
        assert chronicle.follow(session, trail, later) == 0
        session.execute(sa.delete(AuditRow))
        assert chronicle.follow(session, trail, later) == 0


def test_what_an_association_brought_is_counted_by_sop_class(bench, run, trail, slices):
    association = Association("a1", "SENTINODE@host:11112", "SCANNER", "10.0.0.7")
    uid = slices[0].StudyInstanceUID
    bench.receive(*slices)
    for number, stored in (("a1", {uid: {"1.2.3": 4}}), ("a2", None)):
        with bench.sessions.begin() as session:
            one = replace(association, association_id=number)
            ledger.open_association(session, one, now())
            ledger.carries(session, number, uid)
            ledger.close_association(session, number, now(), stored)
    with bench.sessions.begin() as session:
        assert chronicle.follow(session, trail) == 2
    whole, cut = entries(run)
    assert (whole["actor"], whole["host"]) == ("SCANNER", "10.0.0.7")
    assert whole["peer"] == "SENTINODE@host:11112"
    assert whole["detail"] == "4 instances"
    assert (cut["outcome"], whole["outcome"]) == (4, 0)


def test_an_erasure_leaves_its_entries_and_those_of_the_study(bench, run, study, trail):
    erase(bench.sessions, bench.site.spool, study, trail, "anna")

    with bench.sessions() as session, pytest.raises(StudyNotFoundError):
        ledger.study(session, study)
    found = entries(run, "--study", study)
    assert [one["what"] for one in found] == [
        "study received",
        "result created",
        "study erased",
    ]
    assert found[-1]["actor"] == "anna"
    assert len(found[-1]["patient_key"]) == 64
    run("audit", "verify")


def test_the_table_has_no_column_that_an_erasure_goes_by():
    assert "study_uid" not in AuditRow.__table__.c
    assert not any(column.foreign_keys for column in AuditRow.__table__.c)


def tamper(bench, *statements):
    with bench.sessions.begin() as session:
        for one in ("DROP TRIGGER audit_no_update", "DROP TRIGGER audit_no_delete"):
            session.execute(sa.text(one))
        for one in statements:
            session.execute(sa.text(one))


def test_verify_names_what_was_done_to_the_trail(bench, run, study):
    run("studies", "show", study, "--phi")
    run("studies", "show", study, "--phi")
    tamper(bench, "UPDATE audit SET actor = 'nobody' WHERE sequence = 1")
    done = run("audit", "verify", code=1)
    assert "entry 1 does not hold" in done
    assert "altered" in done


def test_verify_sees_that_the_end_was_cut_off(bench, run, study):
    run("studies", "show", study, "--phi")
    run("studies", "show", study, "--phi")
    head = bench.site.settings.data_dir / "audit.head"
    assert stat.S_IMODE(head.stat().st_mode) == 0o600
    tamper(bench, "DELETE FROM audit WHERE sequence = 2")
    done = run("audit", "verify", "--json", code=1)
    assert (done["sequence"], done["entries"]) == (2, 1)
    assert "truncated" in done["fault"]

    head.unlink()
    assert "audit.head is missing" in run("audit", "verify", code=1)
    run("audit", "verify", "--no-head")
    head.write_text("?")
    assert "restore" in run("audit", "verify", code=1)


def test_an_export_is_lines_of_syslog_and_an_entry(run, study, tmp_path):
    run("studies", "show", study, "--phi")
    out = tmp_path / "audit.log"
    assert run("audit", "export", str(out), "--json")["entries"] == 2
    lines = out.read_text(encoding="utf-8").splitlines()
    assert all(line.startswith("<85>1 ") for line in lines)
    assert [place(parsed(one))[0] for one in lines] == [1, 2]
    assert said(run) == ["studies show --phi", "audit export"]
    assert "cannot be written" in run(
        "audit", "export", str(tmp_path / "no" / "x"), code=1
    )


def test_a_change_of_the_schema_is_entered(tmp_path):
    data_dir = tmp_path / "new"

    def run(*arguments):
        return CliRunner().invoke(main, [*arguments, "--data-dir", str(data_dir)])

    assert run("db", "upgrade").exit_code == 0
    assert run("db", "upgrade").exit_code == 0
    done = run("audit", "list", "--json")
    (one,) = json.loads(done.stdout)
    assert one["what"] == "db upgrade"
    assert one["detail"] == f"nothing to {revisions.HEAD}"


def test_start_and_stop_are_entered_even_after_a_failure(bench, run):
    settings = bench.site.settings
    with pytest.raises(PermanentError), up.on_record(settings):
        raise PermanentError("it did not come up")
    found = entries(run)
    assert [one["what"] for one in found] == ["application start", "application stop"]
    assert [one["event_type"] for one in found] == ["110120", "110121"]


def test_dates_that_are_none_are_wrong_usage(run):
    run("audit", "list", "--since", "yesterday", code=2)


def test_what_a_collector_holds_shows_what_was_cut_off_or_rewritten(
    bench, run, study, tmp_path
):
    for _ in range(3):
        run("studies", "show", study, "--phi")
    out = tmp_path / "collected.log"
    run("audit", "export", str(out))
    assert run("audit", "verify", "--against", str(out), "--json")["entries"] == 4
    tamper(bench, "DELETE FROM audit WHERE sequence > 2")
    (bench.site.settings.data_dir / "audit.head").unlink()  # by who has this host too
    assert "holds" not in run("audit", "verify", "--no-head", code=0)
    done = run("audit", "verify", "--no-head", "--against", str(out), code=1)
    assert "entry 3 does not hold" in done
    assert "the newest 2 of 4 entries are gone" in done

    run("studies", "show", study, "--phi")  # the chain grows again, with the key
    run("studies", "show", study, "--phi")
    done = run("audit", "verify", "--no-head", "--against", str(out), code=1)
    assert "entry 3 does not hold" in done
    assert "rewritten" in done

    out.write_text("something else\n")
    assert "holds no entry" in run("audit", "verify", "--against", str(out), code=1)


def test_entries_are_sent_again_only_where_there_is_a_collector(run, study):
    assert "SENTINODE_AUDIT_SYSLOG" in run("audit", "resend", "--from", "1", code=1)


def test_an_export_of_results_and_a_backup_are_entered(run, study, tmp_path):
    run("results", "export", "--out", str(tmp_path / "results.csv"))
    run("backup", "--out", str(tmp_path / "backup"))
    found = entries(run)
    assert [one["what"] for one in found] == ["results export", "backup"]
    assert {one["event_id"] for one in found} == {"110106"}
