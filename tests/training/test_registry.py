"""Publish, compare, promote, roll back: real files, a real database, real scores."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from dicom_node import db, schema
from dicom_node.db import now
from dicom_node.errors import (
    ModelIntegrityError,
    NotFoundError,
    SettingsError,
    StateError,
)
from dicom_node.findings import Stage
from dicom_node.settings import load
from dicom_node.spool import Spool
from tests.training.made_models import Maker, made_snapshot
from training import golden, lineage, registry
from training.cli import main
from training.registry import PromotionRefusedError
from training.settings import TrainingSettings
from training.site import Site
from worker import manifest as manifests
from worker import models, outcomes
from worker import registry as versions
from worker.model_tables import VersionStatus
from worker.registry import Decision
from worker.tables import ActivationKind

GOOD, OLD, POOR = "made-sln@1", "made-sln@2", "made-sln@4-shuffled"
SIGNED = ActivationKind.PROMOTED


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data():
    return made_snapshot()


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """Three models as a run leaves them: a good one, a worse one, a useless one."""
    folder = tmp_path_factory.mktemp("run")
    maker = Maker(data)
    maker.write(folder, 1)
    maker.write(folder, 2)
    maker.write(folder, 4, shuffled=True)
    return folder


def site_in(data_dir):
    settings = load(TrainingSettings, data_dir=data_dir)
    engine = db.connect(settings.database)
    return Site(settings, db.writing(engine), Spool(settings.spool))


@pytest.fixture
def site(tmp_path):
    schema.upgrade(f"sqlite:///{tmp_path / 'site' / 'sentinode.db'}")
    made = site_in(tmp_path / "site")
    yield made
    made.sessions.kw["bind"].dispose()


@pytest.fixture(scope="module")
def template(made, data, tmp_path_factory):
    """All are candidates; the old one serves."""
    data_dir = tmp_path_factory.mktemp("template")
    schema.upgrade(f"sqlite:///{data_dir / 'sentinode.db'}")
    site = site_in(data_dir)
    for path in registry.found_in(made):
        registry.publish(path, site, data, by())
    activate(site, OLD)
    site.sessions.kw["bind"].dispose()
    return data_dir


@pytest.fixture
def published(template, tmp_path):
    shutil.copytree(template, tmp_path / "site")
    found = site_in(tmp_path / "site")
    yield found
    found.sessions.kw["bind"].dispose()


def by(kind=ActivationKind.ACTIVATED, reason=None):
    return Decision("tester", now(), reason, kind)


def activate(site, reference, kind=ActivationKind.ACTIVATED):
    manifest = models.verify(folder(site, reference))
    with site.sessions.begin() as session:
        versions.put_into_service(session, manifest, by(kind))


def roll_back(site):
    kind = by(ActivationKind.ROLLED_BACK)
    return versions.rollback(site.sessions, site.models, Stage.SLN, kind)


def folder(site, reference):
    return models.folder(site.models, *reference.split("@"))


def serving(site):
    with site.sessions() as session:
        active = outcomes.activations(session).get(Stage.SLN)
    return active.reference if active else None


def status(site):
    with site.sessions() as session:
        return {one.reference: one.status for one in versions.versions(session)}


def run(site, *arguments):
    options = ("--data-dir", str(site.settings.data_dir))
    return CliRunner().invoke(main, [*arguments, *options])


def test_a_better_model_is_published_compared_promoted_and_rolled_back(published, data):
    report = registry.compare(published, GOOD, None, data, by())
    assert report.promotable, [one.sentence for one in report.refusals]
    assert (report.champion, report.anchor, report.looks) == (OLD, OLD, 1)

    done = run(published, "promote", GOOD, "--yes", "--reason", "board", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["promoted"]
    assert serving(published) == GOOD
    assert status(published)[GOOD] is VersionStatus.CHAMPION
    assert status(published)[OLD] is VersionStatus.RETIRED

    back = run(published, "rollback", "--stage", "SLN", "--yes", "--json")
    assert back.exit_code == 0, back.output
    assert serving(published) == OLD
    assert status(published)[GOOD] is VersionStatus.RETIRED
    with published.sessions() as session:
        history = outcomes.deployments(session, Stage.SLN)
    assert [one.kind for one in history] == ["activated", "promoted", "rolled_back"]
    assert history[1].reason == "board"


def test_a_worse_model_is_refused_with_codes_and_sentences(published, data):
    report = registry.compare(published, POOR, None, data, by())

    done = run(published, "promote", POOR, "--yes", "--json")
    refused = json.loads(done.stdout)
    text = run(published, "promote", POOR, "--yes")

    assert not report.promotable
    assert done.exit_code == text.exit_code == 4
    assert {"auc_below_champion", "auc_inferior_anchor"} <= set(refused["codes"])
    assert "the AUC differs by" in text.stderr
    assert serving(published) == OLD


def test_who_was_never_compared_or_against_another_champion_is_refused(published, data):
    with pytest.raises(PromotionRefusedError) as never:
        registry.promote(published, GOOD, by(SIGNED))
    registry.compare(published, GOOD, None, data, by())
    activate(published, POOR)
    with pytest.raises(PromotionRefusedError) as stale:
        registry.promote(published, GOOD, by(SIGNED))

    assert never.value.codes == ("not_compared",)
    assert stale.value.codes == ("gate_stale",)


def test_without_automatic_promotion_only_a_person_promotes(published, data):
    registry.compare(published, GOOD, None, data, by())
    with pytest.raises(PromotionRefusedError) as refused:
        registry.promote(published, GOOD, by(ActivationKind.AUTOMATIC))

    assert set(refused.value.codes) == {"sign_off", "holdout_small"}


def test_a_challenger_that_learned_from_a_held_out_patient_is_refused(published, data):
    known = lineage.read(folder(published, GOOD))
    stolen = lineage.patient_digest(data.of_role("holdout").rows[0].patient_key)
    leaky = known.model_copy(update={"patients": (*known.patients, stolen)})
    lineage.write(folder(published, GOOD), leaky)

    registry.compare(published, GOOD, None, data, by())
    with pytest.raises(PromotionRefusedError) as refused:
        registry.promote(published, GOOD, by(SIGNED))

    assert refused.value.codes == ("holdout_leak",)
    assert refused.value.reasons[0].startswith("1 held-out cases")


def test_looks_at_a_holdout_are_counted_and_another_holdout_is_another_count(
    published, data
):
    first = registry.compare(published, GOOD, None, data, by())
    second = registry.compare(published, GOOD, None, data, by())
    fewer = data.take(range(len(data) - 1))
    other = registry.compare(published, GOOD, None, fewer, by())

    assert [first.looks, second.looks, other.looks] == [1, 2, 1]
    assert first.holdout_id == second.holdout_id != other.holdout_id


def test_corrupt_missing_and_newer_files_are_refused_and_nothing_is_left(
    site, made, tmp_path
):
    for fault in ("corrupt", "missing", "newer"):
        source = tmp_path / fault
        shutil.copytree(made / "made-sln" / "1", source)
        spoil(source, fault)
        done = run(site, "publish", str(source))
        assert done.exit_code == 1, (fault, done.output)
        assert "Traceback" not in done.output

    assert status(site) == {}
    assert models.installed(site.models) == []


def spoil(source, fault):
    weights = source / manifests.WEIGHTS_NAME
    path = source / manifests.MANIFEST_NAME
    if fault == "corrupt":
        content = bytearray(weights.read_bytes())
        content[-9] ^= 1
        weights.write_bytes(content)
    elif fault == "missing":
        weights.unlink()
    else:
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps(manifest | {"format_version": 99}))


def test_weights_that_rot_after_the_comparison_are_not_promoted(published, data):
    registry.compare(published, GOOD, None, data, by())
    spoil(folder(published, GOOD), "corrupt")

    with pytest.raises(ModelIntegrityError):
        registry.promote(published, GOOD, by(SIGNED))
    assert serving(published) == OLD


def test_golden_scores_that_changed_are_seen(published, data):
    path = folder(published, GOOD) / golden.GOLDEN_NAME
    other = folder(published, OLD) / golden.GOLDEN_NAME
    shutil.copy(other, path)

    report = registry.compare(published, GOOD, None, data, by())

    assert [one.code for one in report.refusals] == ["golden_parity"]
    path.write_bytes(b"no tensors")
    with pytest.raises(ModelIntegrityError, match="damaged"):
        registry.promote(published, GOOD, by(SIGNED))


def test_publishing_twice_is_the_same_and_other_weights_are_not(site, made, data):
    source = made / "made-sln" / "1"
    first = registry.publish(source, site, data, by())
    assert registry.publish(source, site, data, by()) == first
    assert first.snapshot_id == data.id
    with site.sessions.begin() as session:
        manifest = models.verify(source)
        other = manifest.model_copy(update={"weights_sha256": "0" * 64})
        with pytest.raises(StateError, match="another version"):
            versions.register(session, other, None, by())


def test_a_rollback_of_a_rollback_goes_further_back(published):
    activate(published, GOOD)
    activate(published, POOR)
    gone = []
    for _ in range(2):
        roll_back(published)
        gone.append(serving(published))

    assert gone == [GOOD, OLD]
    with pytest.raises(StateError, match="was in service before"):
        roll_back(published)


def test_a_rollback_to_files_that_are_gone_changes_nothing(published):
    activate(published, GOOD)
    shutil.rmtree(folder(published, OLD))
    done = run(published, "rollback", "--stage", "SLN", "--yes")

    assert done.exit_code == 3
    assert serving(published) == GOOD


def test_unknown_names_are_not_found(published, data):
    for name in ("nobody@1", "made-sln", "made-sln@9", "../x@1"):
        with pytest.raises(NotFoundError):
            registry.compare(published, name, None, data, by())
    assert run(published, "promote", "nobody@1", "--yes").exit_code == 3


def test_models_of_two_stages_are_not_compared(published, data, tmp_path):
    Maker(data).write(tmp_path, 5, stage=Stage.NSLN)
    registry.publish(tmp_path / "made-nsln" / "5", published, data, by())
    with pytest.raises(SettingsError, match="of stage NSLN"):
        registry.compare(published, GOOD, "made-nsln@5", data, by())


def test_a_holdout_without_labels_is_a_sentence(published, data):
    empty = data.of_role("development")
    with pytest.raises(SettingsError, match="no case of role holdout"):
        registry.compare(published, GOOD, None, empty, by())


def test_a_first_model_of_a_stage_needs_no_champion(site, made, data):
    registry.publish(made / "made-sln" / "1", site, data, by())
    report = registry.compare(site, GOOD, None, data, by())
    registry.promote(site, GOOD, by(SIGNED))

    assert report.champion is None
    assert serving(site) == GOOD


KILLED = """
import sys
from dicom_node import db
from dicom_node.db import now
from dicom_node.settings import load
from dicom_node.spool import Spool
from pathlib import Path
from training import registry
from training.settings import TrainingSettings
from training.site import Site
from worker.registry import Decision
settings = load(TrainingSettings)
site = Site(settings, db.writing(db.connect(settings.database)), Spool(settings.spool))
print("ready", flush=True)
sys.stdin.readline()
registry.publish(Path(sys.argv[1]), site, None, Decision("t", now()))
"""


@pytest.mark.parametrize("after_s", [0.05, 0.4, 1.2])
def test_a_killed_publish_leaves_all_or_nothing(site, made, data, after_s):
    source = made / "made-sln" / "1"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(source)],
        env={**os.environ, "SENTINODE_DATA_DIR": str(site.settings.data_dir)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)

    assert len(models.installed(site.models)) in {0, 1}
    registry.publish(source, site, data, by())  # doing it again completes it
    assert golden.difference(folder(site, GOOD)) < 1e-4
    assert lineage.read(folder(site, GOOD)).snapshot_id == data.id
    report = registry.compare(site, GOOD, None, data, by())
    assert report.promotable
    assert replace(report, checks=()).looks == 1
