"""A batch takes what it should, from where it should, once; live studies go first."""

import json
from datetime import timedelta

import pytest
from click.testing import CliRunner
from sqlalchemy import event

from dicom_node import holds, ledger, outbox
from dicom_node.db import now
from dicom_node.outbox import DeliveryState
from dicom_node.study import StudyState
from tests import dicom_objects
from worker import queues
from worker.cli import main
from worker.reprocessing import AT_ONCE, Plan, Start, Wanted, consider, find
from worker.tasks.analysis import analyze
from worker.tasks.dispatch import sweep

PATIENT_ID = "MARKER-PID-1"


@pytest.fixture
def run(bench, settings):
    """Return a function that runs `sentinode` with both models in service."""

    def call(*arguments, code=0, stdin=None):
        data_dir = ("--data-dir", str(settings.data_dir))
        environment = {"SENTINODE_MODELS_DIR": str(settings.models)}
        done = CliRunner(env=environment).invoke(
            main, [*arguments, *data_dir], input=stdin
        )
        assert done.exit_code == code, done.output
        return json.loads(done.stdout) if "--json" in arguments else done.output

    for model in call("models", "list", "--json"):
        call("models", "activate", f"{model['name']}@{model['version']}")
    return call


def plan(run, *arguments):
    return run("studies", "reprocess", *arguments, "--dry-run", "--json")


def newest(bench, uid):
    return bench.results(uid)[0]


def test_a_dry_run_counts_and_changes_nothing(bench, study, run):
    found = plan(run, "--everything", "--force")
    assert found["matched"] == found["due"] == 1
    assert found["due_by_state"] == {"analyzed": 1}
    assert found["cost"]["estimated_s"] == pytest.approx(
        newest(bench, study).timings.total_ms / 1000, abs=0.06
    )
    assert bench.study(study).state is StudyState.ANALYZED


def test_what_the_active_models_scored_is_passed_over(study, run):
    found = plan(run, "--everything")
    assert found["due"] == 0
    assert found["passed_over"] == {"scored by the active models already": 1}


def test_another_threshold_makes_results_outdated(study, run):
    run(
        *("models", "threshold", "--stage", "SLN", "--value", "0.42"),
        *("--reason", "our audit", "--yes"),
    )
    assert plan(run, "--everything")["due"] == 1


def test_options_narrow(bench, study, run):
    model = newest(bench, study).stages[0]
    score = model.probability
    for matches, arguments in (
        (1, ("--state", "analyzed")),
        (0, ("--state", "held")),
        (1, ("--model", model.model)),
        (1, ("--score-min", str(score - 0.01), "--score-max", str(score + 0.01))),
        (0, ("--score-min", str(min(score + 0.01, 1)))),
        (1, ("--studied-since", "2026-03-04", "--studied-until", "2026-03-04")),
        (0, ("--studied-since", "2026-03-05")),
        (0, ("--received-until", "2001-01-01")),
        (1, ("--patient-id", PATIENT_ID)),
        (0, ("--patient-id", "somebody else")),
    ):
        assert plan(run, *arguments)["matched"] == matches, arguments


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--model", "other@1"), 3, "no result is of the model other@1; there are"),
        (("--score-min", "0.9", "--score-max", "0.1"), 2, "nothing can match"),
        (("--everything", "--refetch"), 2, "--from roi alone"),
    ],
)
def test_a_choice_that_can_match_nothing_is_refused(study, run, arguments, code, said):
    done = run("studies", "reprocess", "--dry-run", *arguments, code=code)
    assert said in done


def test_the_list_is_narrowed_by_the_same_options(bench, study, run):
    score = newest(bench, study).stages[0].probability
    for expected, arguments in (
        ([study], ()),
        ([study], ("--state", "analyzed", "--score-max", str(score))),
        ([], ("--reason", "no_roi")),
        ([study], ("--patient-id", PATIENT_ID)),
    ):
        found = run("studies", "list", "--json", *arguments)
        assert [one["study_uid"] for one in found] == expected, arguments


def test_what_was_purged_with_its_slice_is_not_reported_anew(bench, study, run, source):
    run("studies", "purge", study, "--with-kept", "--yes")
    found = plan(run, "--state", "analyzed", "--from", "report")
    assert found["passed_over"] == {
        "purged with what was kept: use --from roi --refetch": 1
    }


def test_the_patient_may_come_from_stdin(study, run):
    arguments = ("studies", "reprocess", "--patient-id", "-", "--dry-run", "--json")
    found = run(*arguments, stdin=f"{PATIENT_ID}\n")
    assert found["matched"] == 1


def test_nothing_named_is_wrong_usage(study, run):
    assert "--everything" in run("studies", "reprocess", code=2)


def take_up(run, bench, uid, source, start, *more):
    run("studies", "reprocess", "--everything", "--from", start, "--yes", *more)
    return analyze(uid, bench.site, source)


def test_from_roi_an_unchanged_input_keeps_its_result(bench, study, run, source):
    before = newest(bench, study)
    assert take_up(run, bench, study, source, "roi") == ()
    assert newest(bench, study) == before
    assert bench.study(study).state is StudyState.ANALYZED


def test_from_inference_the_case_is_scored_anew(bench, study, run, source):
    before = newest(bench, study)
    assert take_up(run, bench, study, source, "inference", "--force")
    after = newest(bench, study)
    assert after.supersedes == before.result_id
    assert after.stages[0].probability == before.stages[0].probability


def test_from_report_the_numbers_stand(bench, study, run, source):
    before = newest(bench, study)

    assert take_up(run, bench, study, source, "report")
    after = newest(bench, study)
    assert after.version == before.version + 1
    assert after.stages == before.stages
    with bench.sessions() as session:
        kinds = [one.kind for one in outbox.documents(session, after.result_id)]
    assert kinds[0] == "SR"


def test_from_delivery_the_same_bytes_are_sent_again(bench, study, run):
    with bench.sessions.begin() as session:
        for one in outbox.claim(
            session, "PACS@127.0.0.1:9", timedelta(minutes=1), now(), 9
        ):
            outbox.sent(session, one, 0, now())
    with bench.sessions() as session:
        before = {
            one.delivery_id: one.sop_instance_uid for one in outbox.deliveries(session)
        }
    # another archive was added to the settings since
    both = "PACS@127.0.0.1:9,NEW@127.0.0.1:10"
    done = CliRunner(env={"SENTINODE_PACS": both}).invoke(
        main,
        [
            *("studies", "reprocess", study, "--from", "delivery"),
            *("--data-dir", str(bench.site.settings.data_dir)),
        ],
    )
    assert done.exit_code == 0, done.output
    with bench.sessions() as session:
        after = outbox.deliveries(session)
    assert {one.state for one in after} == {DeliveryState.DUE}
    assert len(after) == 2 * len(before)
    assert {one.sop_instance_uid for one in after} == set(before.values())
    assert set(before) < {one.delivery_id for one in after}


def test_a_batch_does_each_study_once(bench, study, run, source):
    again = ("--force", "--batch", "spring")
    assert take_up(run, bench, study, source, "inference", *again)
    assert take_up(run, bench, study, source, "inference", *again) == ()
    found = plan(run, "--everything", *again)
    assert found["passed_over"] == {"done in this batch": 1}


def test_what_waits_for_a_person_is_passed_over(bench, study, run):
    with bench.sessions.begin() as session:
        holds.hold(session, study, "look", "anna", now())
    found = plan(run, "--everything", "--from", "roi")
    assert found["passed_over"] == {"held: by_hand, for a person": 1}
    run("studies", "reprocess", study, code=4)


def test_live_studies_go_before_bulk_ones(bench, slices, mark, study, run, settings):
    run("studies", "reprocess", "--everything", "--force", "--yes")
    other = dicom_objects.fresh_study("live")
    live = bench.receive(*other, dicom_objects.gsps_rectangle([other[4]]))
    bench.queue(live)

    bench.backlog = settings.bulk_ahead  # so many wait already
    sweep(bench.sessions, bench.broker, settings, now())
    assert [args for name, args in bench.sent if name == queues.ANALYZE] == [[live]]

    bench.backlog = 0
    bench.sent.clear()
    sweep(bench.sessions, bench.broker, settings, now())
    assert [args for name, args in bench.sent if name == queues.ANALYZE] == [[study]]


def test_a_study_that_is_named_goes_with_the_live_ones(bench, study, run, settings):
    run("studies", "reprocess", study)
    bench.backlog = settings.bulk_ahead
    sweep(bench.sessions, bench.broker, settings, now())
    assert (queues.ANALYZE, [study]) in bench.sent


def test_a_new_object_ends_the_place_behind_the_live_ones(bench, slices, study, run):
    run("studies", "reprocess", "--everything", "--force", "--yes")
    extra = dicom_objects.gsps_rectangle([slices[4]], box=(3, 3, 12, 12))
    bench.receive(extra)
    bench.queue(study)
    with bench.sessions() as session:
        found = ledger.unannounced(session, now(), timedelta(0), 10)
    assert found == [study]


def test_progress_ends_with_the_states(bench, study, run, source, monkeypatch):
    def work(_seconds):
        analyze(study, bench.site, source)

    monkeypatch.setattr("worker.cli.reprocess.time.sleep", work)
    done = run(
        *("studies", "reprocess", "--everything", "--force", "--yes", "--wait"),
        "--json",
    )
    assert done["states"] == {"analyzed": 1}


def test_no_statement_names_more_studies_than_databases_allow(bench, study):
    plan = Plan(Start.ROI, "b", {})
    named = []
    with bench.sessions() as session:
        (row,) = find(session, Wanted())
        engine = session.get_bind()

        def count(_connection, _cursor, _statement, parameters, *_rest):
            named.append(len(parameters))

        event.listen(engine, "before_cursor_execute", count)
        found = consider(session, [row] * (3 * AT_ONCE + 1), plan)
        event.remove(engine, "before_cursor_execute", count)
    assert len(found) == 3 * AT_ONCE + 1
    assert {one.skipped for one in found} == {None}
    assert AT_ONCE <= max(named) <= AT_ONCE + 10
