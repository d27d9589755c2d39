"""Routing rules at work: excluded, on another phase, to another archive; never lost."""

import json

import pytest
from click.testing import CliRunner

from dicom_node import outbox
from dicom_node.db import now
from dicom_node.errors import TransientError
from dicom_node.study import Reason, StudyState
from tests import dicom_objects
from worker.cli import main
from worker.retention import Store, purge_study
from worker.tasks.analysis import analyze
from worker.tasks.completeness import Place, examine


@pytest.fixture
def rules(bench, tmp_path):
    """Return a function that puts rules into force on the site under test."""
    path = tmp_path / "rules.toml"

    def write(text):
        path.write_text(text)
        settings = bench.site.settings.model_copy(update={"routing": path})
        object.__setattr__(bench.site, "settings", settings)
        return path

    return write


def took(bench, uid, source):
    bench.queue(uid)
    return analyze(uid, bench.site, source)


EXCLUDED = '[[rule]]\nname = "none"\nexclude = true\nmatch = { BodyPartExamined = "b" }'


def test_an_excluded_study_is_ignored_with_its_reason(
    bench, slices, mark, source, rules
):
    rules(EXCLUDED)
    uid = bench.receive(*slices, mark)
    assert took(bench, uid, source) == ()
    found = bench.study(uid)
    assert (found.state, found.reason) == (StudyState.IGNORED, Reason.EXCLUDED_BY_RULE)
    assert "'none'" in found.detail


def test_an_unmatched_study_is_recorded_with_its_reason(
    bench, slices, mark, source, rules
):
    rules('unmatched = "ignore"')
    uid = bench.receive(*slices, mark)
    took(bench, uid, source)
    assert bench.study(uid).reason is Reason.NO_RULE


def test_phase_and_destinations_of_a_rule_count(bench, slices, mark, source, rules):
    rules(
        '[[rule]]\nname = "r"\nphase = "post-2"\ndestinations = ["OTHER@10.0.0.9:104"]'
    )
    uid = bench.receive(*slices, mark)
    assert took(bench, uid, source)
    (result,) = bench.results(uid)
    assert result.phase == "post-contrast 2"
    with bench.sessions() as session:
        found = {one.destination for one in outbox.deliveries(session)}
    assert found == {"OTHER@10.0.0.9:104"}


def test_while_the_file_is_faulty_studies_wait(bench, slices, mark, source, rules):
    path = rules("[[rule")
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    with pytest.raises(TransientError, match="rules test"):
        analyze(uid, bench.site, source)
    assert bench.study(uid).state is StudyState.QUEUED
    place = Place(bench.sessions, bench.site.spool, bench.site.settings)
    assert not examine(uid, place)
    path.write_text("")
    assert analyze(uid, bench.site, source)


def test_a_purged_study_is_routed_by_what_was_kept(bench, slices, mark, source, rules):
    rules(
        'unmatched = "ignore"\n[[rule]]\nname = "b"\nmatch = { BodyPartExamined = "b" }'
    )
    uid = bench.receive(*slices, mark)
    took(bench, uid, source)
    purge_study(Store(bench.sessions, bench.site.spool), uid, now())
    data_dir = ("--data-dir", str(bench.site.settings.data_dir))
    done = CliRunner().invoke(main, ["studies", "reprocess", uid, *data_dir])
    assert done.exit_code == 0, done.output
    path = str(bench.site.settings.routing)
    tried = CliRunner().invoke(main, ["rules", "test", path, "--json", *data_dir])
    assert json.loads(tried.stdout)[0]["rule"] == "b"
    assert analyze(uid, bench.site, source)
    assert bench.study(uid).state is StudyState.ANALYZED


def test_the_doctor_says_that_a_faulty_file_holds_everything_up(
    bench, tmp_path, monkeypatch
):
    path = tmp_path / "rules.toml"
    monkeypatch.setenv("SENTINODE_ROUTING", str(path))
    seen = []
    for text in (EXCLUDED, "rule = 1"):
        path.write_text(text)
        data_dir = ("--data-dir", str(bench.site.settings.data_dir))
        done = CliRunner().invoke(main, ["doctor", "--json", *data_dir])
        checks = json.loads(done.stdout)["checks"]
        seen += [one for one in checks if one["name"] == "routing rules"]

    assert [one["ok"] for one in seen] == [True, False]
    assert "studies wait" in seen[1]["detail"]


def test_the_command_tries_rules_on_studies_and_on_files(
    bench, slices, mark, rules, tmp_path
):
    path = rules(EXCLUDED)
    uid = bench.receive(*slices, mark)
    folder = tmp_path / "files"
    folder.mkdir()
    other = dicom_objects.fresh_study("file", BodyPartExamined="CHEST")
    for number, one in enumerate(other):
        one.save_as(folder / f"{number}.dcm", enforce_file_format=True)

    def run(*arguments):
        data_dir = ("--data-dir", str(bench.site.settings.data_dir))
        command = ["rules", "test", str(path), *map(str, arguments), *data_dir]
        return CliRunner().invoke(main, command)

    (here,) = json.loads(run("--json").stdout)
    assert (here["study_uid"], here["ignored"]) == (uid, "excluded_by_rule")
    assert here["series"] == 3
    (there,) = json.loads(run(folder, "--json").stdout)
    assert (there["rule"], there["ignored"]) == (None, None)
    assert "ignored: excluded_by_rule" in run("--study", uid).stdout
    path.write_text('[[rule]]\nname = "r"\nmatch = { Nonsense = "x" }')
    done = run()
    assert done.exit_code == 1
    assert "Nonsense" in done.stderr
