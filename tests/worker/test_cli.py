"""The command line as a contract: keys, exit codes, help, documentation."""

import getpass
import json
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from pydicom import Dataset
from pynetdicom.dsutils import encode

from dicom_node import ledger
from dicom_node.db import now
from dicom_node.findings import Stage
from dicom_node.ledger import Conflict
from dicom_node.settings import ENV_PREFIX
from dicom_node.spool import Encoded
from dicom_node.study import Reason, SopInstanceUid, StudyState
from tests import dicom_objects
from tests.quick_models import write_model
from worker import models as model_store
from worker import outcomes
from worker.cli import COMMANDS, main
from worker.settings import WorkerSettings
from worker.tasks.analysis import analyze

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

STUDY_KEYS = {
    *("study_uid", "state", "reason", "detail", "patient_key", "received_at"),
    *("instances", "quiet_until", "roi", "selection", "cases", "events"),
}
ROI_KEYS = {
    *("carrier", "sop_instance_uid", "frame", "x0", "y0", "x1", "y1", "author"),
    "exact",
}
RESULT_KEYS = {
    *("result_id", "study_uid", "laterality", "pathway", "created_at", "supersedes"),
    *("superseded_by", "stages", "discordant", "slnd", "input", "documents"),
    "timings_ms",
}
STAGE_KEYS = {
    *("stage", "status", "probability", "threshold", "threshold_source", "risk"),
    *("sensitivity", "specificity", "model", "weights_sha256", "device"),
}
DELIVERY_KEYS = {
    *("delivery_id", "result_id", "sop_instance_uid", "kind", "destination", "state"),
    *("attempts", "last_status", "next_attempt_at"),
}


@pytest.fixture
def run(bench, monkeypatch):
    """Return a function that runs `sentinode` on the site under test."""
    settings = bench.site.settings
    monkeypatch.setenv("SENTINODE_MODELS_DIR", str(settings.models))

    def call(*arguments: str, stdin: str | None = None):
        data_dir = ("--data-dir", str(settings.data_dir))
        return CliRunner().invoke(main, [*arguments, *data_dir], input=stdin)

    return call


@pytest.fixture
def analysed(bench, slices, mark, source):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    (result_id,) = analyze(uid, bench.site, source)
    return uid, result_id


def commands(group: click.Group, path: tuple[str, ...] = ()):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL_COMMANDS = list(commands(main))


@pytest.mark.parametrize(("path", "command"), ALL_COMMANDS)
def test_every_command_says_what_it_does_and_is_documented(path, command):
    assert command.help, path
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name != "as_json":
            assert (
                parameter.help
                or parameter.required
                or parameter.metavar
                or (isinstance(parameter.type, click.Choice))
            ), (path, parameter.name)
    assert path[0] in COMMANDS
    line = next(row for row in README.splitlines() if f"`sentinode {path[0]}" in row)
    if len(path) == 2:
        rows = [row for row in README.splitlines() if f"`sentinode {path[0]}" in row]
        assert any(f"`{path[1]}`" in row or f" {path[1]}`" in row for row in rows), path
    assert line


@pytest.mark.parametrize("name", sorted(WorkerSettings.model_fields))
def test_every_setting_is_documented(name):
    variable = f"{ENV_PREFIX}{name.upper()}"
    short = "_" + name.rsplit("_", maxsplit=1)[-1].upper()
    assert variable in README or f"_{name.upper()}`" in README or short in README


def test_a_study_is_shown_with_the_keys_of_the_contract(run, analysed):
    uid, result_id = analysed

    shown = json.loads(run("studies", "show", uid, "--json").stdout)
    listed = json.loads(run("studies", "list", "--json").stdout)

    assert shown.keys() >= STUDY_KEYS
    assert shown["roi"].keys() >= ROI_KEYS
    assert shown["selection"].keys() >= {
        *("phase", "laterality", "area_mm2", "candidates", "why"),
    }
    assert shown["cases"][0]["results"] == [result_id]
    assert [one["study_uid"] for one in listed] == [uid]
    assert shown["received_at"].endswith("Z")
    assert shown["events"]


def test_a_result_is_shown_with_the_keys_of_the_contract(run, analysed):
    uid, result_id = analysed

    by_study = json.loads(run("results", "show", uid, "--json").stdout)
    by_id = json.loads(run("results", "show", result_id, "--json").stdout)

    assert by_study == [by_id]
    assert by_id.keys() >= RESULT_KEYS
    assert all(stage.keys() >= STAGE_KEYS for stage in by_id["stages"])
    assert [one["kind"] for one in by_id["documents"]] == ["SR", "SC"]
    assert len(by_id["input"]["sha256"]) == 64
    assert len(by_id["input"]["preprocessing_sha256"]) == 64


def test_deliveries_and_models_have_the_keys_of_the_contract(run, analysed):
    deliveries = json.loads(run("deliveries", "list", "--json").stdout)
    models = json.loads(run("models", "list", "--json").stdout)

    assert len(deliveries) == 2
    assert all(one.keys() >= DELIVERY_KEYS for one in deliveries)
    assert {one["stage"] for one in models} == {"SLN", "NSLN"}
    assert all(
        one.keys()
        >= {
            *("name", "version", "stage", "weights_sha256", "active"),
            *("trained_on", "created_at"),
        }
        for one in models
    )


def test_people_see_probability_threshold_model_and_research_use_together(
    run, analysed
):
    uid, result_id = analysed

    for arguments in (("results", "show", result_id), ("results", "list")):
        text = " ".join(run(*arguments).stdout.split())
        assert "RESEARCH USE ONLY" in text
        assert "threshold" in text
        assert "untrained-sln@1-1" in text.replace(" ", "") or "untrained" in text
    assert "post-contrast 1" in run("studies", "show", uid).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("studies", "show", "1.2.3"),
        ("results", "show", "1.2.3"),
        ("results", "show", "no-such-result"),
        ("studies", "complete", "1.2.3"),
        ("studies", "requeue", "1.2.3"),
        ("deliveries", "retry", "no-such-delivery"),
        ("models", "activate", "nothing@0"),
    ],
)
def test_what_does_not_exist_is_exit_code_3_with_one_sentence(run, arguments):
    done = run(*arguments)

    assert done.exit_code == 3
    assert done.stdout == ""
    assert done.stderr.startswith("sentinode: ")
    assert len(done.stderr.splitlines()) == 1


def test_what_the_state_forbids_is_exit_code_4(run, analysed):
    uid, _ = analysed

    complete = run("studies", "complete", uid)
    stranger = run(
        *("slnd", "set", "--study", uid, "--side", "L", "--patient-id", "X"),
        *("--result", "positive", "--source", "x", "--yes"),
    )
    other_side = run(
        *("slnd", "set", "--study", uid, "--side", "R", "--patient-id", "-"),
        *("--result", "positive", "--source", "x", "--yes"),
        stdin="",
    )

    assert complete.exit_code == 4
    assert stranger.exit_code == 4
    assert other_side.exit_code == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ("studies", "show"),
        ("deliveries", "retry"),
        ("studies", "list", "--state", "lost"),
        ("slnd", "set", "--study", "1.2.3"),
    ],
)
def test_wrong_usage_is_exit_code_2(run, arguments):
    assert run(*arguments).exit_code == 2


def test_a_missing_data_folder_is_wrong_usage(monkeypatch):
    monkeypatch.delenv("SENTINODE_DATA_DIR", raising=False)

    done = CliRunner().invoke(main, ["studies", "list"])

    assert done.exit_code == 2
    assert "SENTINODE_DATA_DIR" in done.stderr


def test_a_database_without_tables_says_what_to_do(tmp_path):
    (tmp_path / "new").mkdir()

    done = CliRunner().invoke(
        main, ["studies", "list", "--data-dir", str(tmp_path / "new")]
    )

    assert done.exit_code == 1
    assert "sentinode db upgrade" in done.stderr


def test_the_schema_is_reported_as_json(run):
    for verb in ("upgrade", "current"):
        shown = json.loads(run("db", verb, "--json").stdout)
        assert shown["revision"]
        assert shown["current"]


def test_an_unknown_revision_is_one_sentence(run):
    done = run("db", "upgrade", "--revision", "nope")

    assert done.exit_code == 1
    assert done.stderr.startswith("sentinode: ")


def test_a_question_goes_to_stderr_and_json_alone_to_stdout(run, analysed, slices):
    uid, _ = analysed

    done = run(
        *("slnd", "set", "--study", uid, "--side", "L", "--result", "negative"),
        *("--patient-id", slices[0].PatientID, "--source", "desk", "--json"),
        stdin="y\n",
    )

    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["result"] == "negative"
    assert "SLND new" in done.stderr


def test_names_are_shown_only_when_asked_for(run, analysed, slices):
    uid, _ = analysed
    name, patient_id = str(slices[0].PatientName), slices[0].PatientID

    plain = run("studies", "show", uid, "--json").stdout
    with_phi = json.loads(run("studies", "show", uid, "--phi", "--json").stdout)

    assert patient_id not in plain
    assert name not in plain
    assert with_phi["patient_id"] == patient_id


def test_a_deposit_that_contradicts_the_result_is_refused(run, analysed, slices):
    uid, _ = analysed

    done = run(
        *("slnd", "set", "--study", uid, "--side", "L", "--patient-id", "-"),
        *("--result", "positive", "--deposit", "itc", "--source", "x", "--yes"),
        stdin=slices[0].PatientID,
    )

    assert done.exit_code == 4


def test_a_threshold_of_the_site_is_recorded_with_its_reason(run, bench):
    done = run(
        *("models", "threshold", "--stage", "SLN", "--value", "0.4"),
        *("--reason", "local audit", "--yes"),
    )

    assert done.exit_code == 0
    with bench.sessions() as session:
        assert outcomes.thresholds(session) == {"SLN": (0.4, "local audit")}


def test_a_threshold_does_not_outlive_its_model(run, bench, tmp_path):
    store = bench.site.settings.models
    sln = next(one for one in model_store.installed(store) if one.stage == "SLN")
    run("models", "activate", sln.reference)
    run(
        *("models", "threshold", "--stage", "SLN", "--value", "0.4"),
        *("--reason", "local audit", "--yes"),
    )
    again = run("models", "activate", sln.reference)
    with bench.sessions() as session:
        kept = outcomes.thresholds(session)
    write_model(tmp_path / "other", Stage.SLN, 9)
    other = ("--data-dir", str(bench.site.settings.data_dir))
    done = CliRunner(env={"SENTINODE_MODELS_DIR": str(tmp_path / "other")}).invoke(
        main, ["models", "activate", "untrained-sln@1-9", *other]
    )

    assert again.exit_code == done.exit_code == 0
    assert kept == {"SLN": (0.4, "local audit")}
    assert "for another model and is gone" in done.stderr
    assert "NO BETTER THAN CHANCE" in done.stderr
    with bench.sessions() as session:
        assert outcomes.thresholds(session) == {}


def test_looking_creates_no_database(tmp_path):
    for command in (("doctor",), ("studies", "list"), ("deliveries", "list")):
        done = CliRunner().invoke(main, [*command, "--data-dir", str(tmp_path)])
        assert done.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_a_password_on_the_command_line_is_warned_of(tmp_path):
    for secret, warned in ((":hunter2", True), ("", False)):
        url = f"postgresql+psycopg://user{secret}@127.0.0.1:9/none"
        options = ("--data-dir", str(tmp_path), "--database-url", url)
        done = CliRunner().invoke(main, ["studies", "list", *options])
        assert done.exit_code == 1
        assert ("set SENTINODE_DATABASE_PASSWORD_FILE" in done.stderr) is warned
        assert "hunter2" not in done.output


def test_a_port_that_is_taken_is_one_sentence(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(  # a process of its own: `up` sets logging up
            [
                *(sys.executable, "-m", "worker.cli", "up", "--host", "127.0.0.1"),
                *("--data-dir", str(tmp_path), "--port", str(port)),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert done.returncode == 1
    assert done.stdout == ""
    assert f"port {port}" in done.stderr
    assert "choose another --port" in done.stderr


def test_a_dissection_in_the_future_is_wrong_usage(run, analysed, slices):
    uid, _ = analysed

    done = run(
        *("slnd", "set", "--study", uid, "--side", "L", "--result", "positive"),
        *("--patient-id", slices[0].PatientID, "--source", "x", "--yes"),
        *("--performed-on", "2999-01-01"),
    )

    assert done.exit_code == 2


def test_activating_models_frees_the_studies_that_waited_for_them(
    run, bench, slices, mark
):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    with bench.sessions.begin() as session:
        claim = ledger.claim(session, uid, "test", timedelta(minutes=1), now())
        assert claim is not None
        ledger.finish(
            session, claim, StudyState.HELD, now(), Reason.NO_MODEL, "none active"
        )
    for model in model_store.installed(bench.site.settings.models):
        assert run("models", "activate", model.reference).exit_code == 0

    assert bench.study(uid).state == "queued"


def test_reprocessing_asks_for_a_new_version(run, bench, analysed, source):
    uid, _ = analysed

    done = run("studies", "reprocess", uid)
    analyze(uid, bench.site, source)

    assert done.exit_code == 0
    assert [one.version for one in bench.results(uid)] == [2, 1]


def test_a_quality_hold_is_accepted_under_the_operators_name(run, bench, source):
    slices = dicom_objects.dynamic_series(image=dicom_objects.pixels())
    uid = bench.receive(*slices, dicom_objects.gsps_rectangle([slices[4]]))
    early = run("studies", "requeue", uid, "--accept-quality")
    bench.queue(uid)
    analyze(uid, bench.site, source)
    other = run("studies", "requeue", uid, "--accept-incomplete")

    done = run("studies", "requeue", uid, "--accept-quality", "--accept-incomplete")
    analyze(uid, bench.site, source)

    shown = json.loads(run("studies", "show", uid, "--json").stdout)
    assert (early.exit_code, other.exit_code, done.exit_code) == (4, 4, 0)
    assert "only one that is held as incomplete" in other.stderr
    assert shown["state"] == "analyzed"
    assert any("Quality gate, overruled" in one for one in shown["selection"]["why"])
    accepted = [one for one in shown["events"] if one["what"] == "accepted"]
    assert accepted[0]["detail"].startswith(f"quality by {getpass.getuser()}: Side L")


def test_what_is_not_checked_of_a_model_is_said(run, bench):
    model = model_store.installed(bench.site.settings.models)[0]
    shown = run("models", "show", model.reference).stdout
    run("models", "activate", model.reference)
    checks = json.loads(run("doctor", "--json").stdout)["checks"]

    (gate,) = [one for one in checks if one["name"] == "quality gate"]
    for said in (shown, gate["detail"]):
        assert "size of the rectangle: not checked" in said
        assert "features: not checked" in said
    assert gate["ok"]


def test_a_misspelt_variable_fails_the_doctor_and_a_foreign_one_is_named(
    run, monkeypatch
):
    def settings():
        checks = json.loads(run("doctor", "--json").stdout)["checks"]
        (found,) = [one for one in checks if one["name"] == "settings"]
        return found

    monkeypatch.setenv("SENTINODE_SERVICE_HOST", "10.0.0.1")
    foreign = settings()
    monkeypatch.setenv("SENTINODE_RETENSION_DAYS", "30")
    misspelt = settings()
    assert foreign["ok"]
    assert "SENTINODE_SERVICE_HOST" in foreign["detail"]
    assert not misspelt["ok"]
    assert "is SENTINODE_RETENTION_DAYS meant?" in misspelt["detail"]


def test_contradicting_objects_are_shown_by_attribute_and_never_by_value(
    run, bench, slices
):
    uid = bench.receive(*slices[:2])
    stranger = slices[2]
    stranger.PatientID = "SECRET-ID"
    bench.receive(stranger)
    path = bench.intake.spool.quarantine(
        Encoded(
            uid,
            SopInstanceUid(slices[0].SOPInstanceUID),
            slices[0].SOPClassUID,
            slices[0].file_meta.TransferSyntaxUID,
            "PACS",
            encode(altered(slices[0]), is_implicit_vr=False, is_little_endian=True),
        )
    ).path
    with bench.sessions.begin() as session:
        conflict = Conflict(bench.intake.rebuild(path), patient_differs=False)
        ledger.record_conflict(session, conflict, now())

    shown = json.loads(run("studies", "show", uid, "--json").stdout)
    told = run("studies", "show", uid).stdout

    assert shown["contradictions"] == [
        {
            "sop_instance_uid": slices[0].SOPInstanceUID,
            "same_uid": True,
            "attributes": ["SeriesDescription", "EchoTime"],
        },
        {
            "sop_instance_uid": stranger.SOPInstanceUID,
            "same_uid": False,
            "attributes": ["PatientID"],
        },
    ]
    assert "SeriesDescription, EchoTime" in told
    assert "SECRET" not in told + json.dumps(shown)


def altered(dataset: Dataset) -> Dataset:
    """The same object with two other attributes."""
    changed = dicom_objects.reread(dataset)
    changed.SeriesDescription = "SECRET"
    changed.EchoTime = 9
    return changed


@pytest.mark.parametrize("asked", [["--help"], ["nosuch"], ["--version"]])
def test_what_needs_no_database_loads_none(asked):
    code = (
        "import sys\n"
        "from worker.cli import main\n"
        "try:\n"
        f"    main({asked})\n"
        "except SystemExit:\n"
        "    pass\n"
        "sys.exit(bool({'sqlalchemy', 'alembic', 'pydicom'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False
    )
    assert done.returncode == 0
