import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dicom_node.errors import ModelIntegrityError, SettingsError, StateError
from dicom_node.findings import Stage
from tests.quick_cohorts import TINY, changed, cohort, run
from training import checkpoint, curves, execution, parts, runs
from training.crossval import cross_fitted
from training.evaluation import evaluate, subject, subjects
from training.preparation import Wish, prepare
from training.scores import read, write
from training.statistics.auc import auc
from training.team import Team
from worker import models
from worker.cascade import score
from worker.preprocess import centre, standardise
from worker.weights import load_stage

CPU = Team(torch.device("cpu"))


def wish(out, stage=Stage.SLN, **changes):
    return Wish(stage, TINY.model_copy(update=changes), out, folds=2)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def done(out):
    return run(out)


@pytest.fixture(scope="module")
def second(out, done):
    return run(out, wish(out, Stage.NSLN))


def test_every_case_is_scored_by_the_network_that_did_not_see_it(done):
    prepared, finished = done
    data, oof = prepared.given.cases.data, finished.validated.oof

    assert sorted(oof.case_ids) == [f"case-{number:03}" for number in range(30)]
    for part in execution.plan(prepared)[1:]:
        fold = int(part.name.removeprefix("fold-"))
        here = oof.folds == fold
        result = parts.result_of(part)
        np.testing.assert_array_equal(oof.logits[here], result.logits)
        learned = data.crops[torch.from_numpy(~here)]
        assert result.preprocessing.mean == pytest.approx(
            float(learned.mean()), abs=1e-6
        )


def test_the_served_network_learned_from_all_and_is_calibrated_by_the_folds(done):
    prepared, finished = done
    manifest = models.verify(finished.model)

    assert manifest.trained_on.endswith("n = 30 (15 positive), snapshot 000000000000")
    assert manifest.preprocessing.mean == pytest.approx(
        float(prepared.given.cases.data.crops.mean()), abs=1e-6
    )
    assert manifest.operating_threshold.how == (
        "sensitivity 90% out of fold, 2 folds (14/15 positives)"
    )
    assert manifest.performance.n == 20
    assert "30 out-of-fold cases" in manifest.quality.features.reason


def test_without_a_feature_gate_no_distance_is_measured(tmp_path):
    prepared, finished = run(tmp_path, wish(tmp_path, feature_gate=False, epochs=1))
    results = execution.results(execution.plan(prepared))

    assert [len(one.distances) for one in results] == [0, 15, 15]
    assert all(np.isnan(one.distances).all() for one in results)
    assert not models.verify(finished.model).quality.features.enabled


def test_a_fold_is_calibrated_by_the_others_alone():
    rng = np.random.default_rng(1)
    labels = np.tile([0, 1], 50)
    logits = labels + rng.normal(size=100)
    folds = np.repeat([1, 2], 50)
    before = cross_fitted(labels, logits, folds)
    labels[folds == 2] = 1 - labels[folds == 2]
    after = cross_fitted(labels, logits, folds)

    np.testing.assert_array_equal(before[folds == 2], after[folds == 2])
    assert (before[folds == 1] != after[folds == 1]).all()


def test_the_run_s_folder_can_be_looked_up(out, done):
    prepared, finished = done
    record = runs.read(prepared.run)
    manifest = models.verify(finished.model)

    assert record.weights_sha256 == manifest.weights_sha256
    assert runs.producing(out, manifest.weights_sha256) == prepared.run
    assert (prepared.run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(curves.read(prepared.run / "fold-1" / "curve.csv")) == 2
    assert not list(prepared.run.rglob("checkpoint*"))
    assert not [path for path in out.rglob(".*") if path.name != ".lock"]


def test_the_same_command_again_changes_nothing(out, done):
    before = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    _, finished = run(out)

    assert finished.model == done[1].model
    after = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    changed_files = {path.name for path in before if before[path] != after[path]}
    assert changed_files <= {"curves.png"}


def test_processes_side_by_side_give_the_same_model(tmp_path, done):
    told = {}
    _, finished = run(
        tmp_path, workers=2, follow=lambda name, epochs: told.update({name: epochs})
    )

    assert told == {"all": 2, "fold-1": 2, "fold-2": 2}
    assert sha(finished.model) == sha(done[1].model)


def sha(model):
    return models.verify(model).weights_sha256


def test_kill_9_and_the_same_command_give_the_same_model(tmp_path, done):
    command = [sys.executable, "-m", "tests.quick_cohorts", str(tmp_path)]
    for last in ("all 1", "fold-2 1"):
        process = subprocess.Popen(
            [*command, "0.05"], stdout=subprocess.PIPE, text=True
        )
        for line in process.stdout:
            if line.strip() == last:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        assert process.wait(60) == -signal.SIGKILL
        assert not list(tmp_path.glob("resnet18-sln/*"))
    _, finished = run(tmp_path)

    assert sha(finished.model) == sha(done[1].model)
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".lock"]


def test_two_processes_share_every_batch(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    subprocess.run(
        [*torchrun, "--nproc-per-node", "2", "-m", "tests.shared_batches", tmp_path],
        check=True,
        capture_output=True,
        timeout=600,
    )
    first, second, alone = (
        checkpoint.read(tmp_path / f"{name}.safetensors")[0]
        for name in ("0", "1", "alone")
    )

    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    losses = [
        [row.loss for row in curves.read(tmp_path / f"{name}.csv")]
        for name in ("0", "alone")
    ]
    assert losses[0][-1] < losses[0][0]
    # The same cases in the same order; only the batch norms see half a batch.
    assert losses[0][0] == pytest.approx(losses[1][0], rel=0.1)
    assert set(first) == set(alone)


def test_a_second_process_on_the_same_run_is_refused(done):
    with runs.locked(done[0].run), pytest.raises(StateError, match="another process"):
        execution.carry_out(done[0], CPU, 1)


def test_stage_two_starts_each_fold_from_its_own_stage_one(out, done, second):
    prepared, finished = second
    origins = prepared.origins

    assert sorted(origins.each) == ["fold-1", "fold-2"]
    own = parts.weights_of(done[0].run, "fold-2")
    assert torch.equal(origins.of("fold-2")["conv1.weight"], own["conv1.weight"])
    assert prepared.splits == done[0].splits
    assert set(prepared.given.cases.case_ids) == {
        f"case-{number:03}" for number in range(1, 30, 2)
    }
    assert models.verify(finished.model).training.parent_weights_sha256 == sha(
        done[1].model
    )
    card = (finished.model / "MODEL_CARD.md").read_text()
    assert "It learned from 15 SLN-positive cases only" in card
    assert "resubstitution: the cases it learned from; optimistic" in card
    assert "| Tumour size |" in card


def test_stage_two_on_other_folds_than_stage_one_is_refused(out, done):
    other = replace(wish(out, Stage.NSLN, seed=2), parent=done[1].model)
    with pytest.raises(SettingsError, match="cross-validated on other folds"):
        prepare(other, cohort(), CPU)


def test_stage_two_whose_parent_saw_the_held_out_cases_is_refused(out, done):
    leaking = changed(cohort(), 31, pixel_sha256=cohort().rows[1].pixel_sha256)
    leaking = changed(leaking, 1, pixel_sha256="e" * 64)
    with pytest.raises(SettingsError, match="was trained on case-031, which are held"):
        prepare(replace(wish(out, Stage.NSLN), parent=done[1].model), leaking, CPU)


def test_stage_two_asks_for_stage_one(tmp_path):
    with pytest.raises(SettingsError, match="train --stage sln"):
        prepare(wish(tmp_path, Stage.NSLN), cohort(), CPU)


def only_one_class(snapshot):
    snapshot.crops.sln[:] = 1
    return replace(
        snapshot,
        rows=tuple(one.model_copy(update={"sln": 1}) for one in snapshot.rows),
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (only_one_class(cohort()), "0 development cases of the rarer class .30 posit"),
        (cohort(development=8), "4 development cases of the rarer class"),
        (cohort(holdout=4), r"2 held-out .role holdout. cases"),
        (changed(cohort(), 31, patient_key="patient-1"), "are of one patient"),
        (changed(cohort(), 3, patient_key="patient-1", centre="9"), "centre 9"),
        (changed(cohort(), 31, pixel_sha256=f"{1:064x}"), "have the same pixels"),
    ],
)
def test_a_cohort_that_cannot_be_believed_is_refused_before_training(
    tmp_path, given, said
):
    with pytest.raises(SettingsError, match=said):
        prepare(wish(tmp_path), given, CPU)
    assert not list(tmp_path.iterdir())


def test_nan_in_a_crop_is_refused_by_name(tmp_path):
    given = cohort()
    given.crops.crops[7, 3, 3] = float("nan")
    with pytest.raises(SettingsError, match="case-007 is not finite"):
        prepare(wish(tmp_path), given, CPU)


def test_damaged_weights_to_start_from_are_refused(tmp_path, out, done):
    broken = tmp_path / "resnet18-sln" / "1"
    broken.mkdir(parents=True)
    for path in done[1].model.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8] + bytes(8))
    with pytest.raises(ModelIntegrityError, match="SHA-256"):
        prepare(replace(wish(out, Stage.NSLN), parent=broken), cohort(), CPU)

    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(b"no weights")
    with pytest.raises(SettingsError, match="need its SHA-256"):
        prepare(wish(tmp_path, init=str(junk)), cohort(), CPU)


def test_a_manifest_of_a_newer_version_is_refused(tmp_path, done):
    newer = tmp_path / "resnet18-sln" / "1"
    newer.mkdir(parents=True)
    for path in done[1].model.iterdir():
        (newer / path.name).write_bytes(path.read_bytes())
    manifest = newer / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"format_version": 3', '"format_version": 99'))
    with pytest.raises(SettingsError, match="has format 99"):
        prepare(replace(wish(tmp_path, Stage.NSLN), parent=newer), cohort(), CPU)


def nobody(_cohort, _given, _tick, _tell):
    """The cohorts here have no files, so radiomics has nothing to measure."""
    return ()


def test_an_evaluation_scores_every_cohort_through_the_served_path(
    tmp_path, out, done, second
):
    ticks = []
    given = subjects(out)
    found = evaluate(cohort(), given, lambda: ticks.append(1), others=nobody)
    write(tmp_path / "evaluation", found)
    kept = read(tmp_path / "evaluation")
    sln = kept.of(Stage.SLN)[-1]

    assert [one.manifest.stage for one in given] == [Stage.SLN, Stage.NSLN]
    assert [part.cohort for part in sln.cohorts] == [
        "training",
        "internal",
        "ext 2",
        "training (resubstitution)",
    ]
    model = load_stage(done[1].model, torch.device("cpu"))
    spec = model.manifest.preprocessing
    crop = cohort().crops.crops[30]
    served = score(model, standardise(centre(crop, spec), spec)).probability
    assert sln.cohort("internal").probabilities[0] == served
    assert list(sln.cohort("training").probabilities) == list(
        done[1].validated.oof.probabilities
    )
    manifest = model.manifest.performance
    assert auc(
        sln.cohort("internal").labels, sln.cohort("internal").probabilities
    ) == pytest.approx(manifest.auc, abs=1e-9)
    assert len(ticks) == 20 + 6 + 10 + 3
    again = evaluate(cohort(), given, lambda: None, others=nobody)
    for one, other in zip(found.models, again.models, strict=True):
        for part, same in zip(one.cohorts, other.cohorts, strict=True):
            np.testing.assert_array_equal(part.probabilities, same.probabilities)


def test_a_test_case_that_was_learned_from_is_refused(done):
    leaking = changed(cohort(), 44, pixel_sha256=cohort().rows[1].pixel_sha256)
    with pytest.raises(SettingsError, match="learned from case-044"):
        evaluate(leaking, [subject(done[0].run)], lambda: None, others=nobody)


def test_another_cohort_has_no_training_row(done):
    other = replace(cohort(), id="f" * 64)
    said = []
    found = evaluate(other, [subject(done[0].run)], lambda: None, said.append)
    assert [part.cohort for part in found.models[0].cohorts] == ["internal", "ext 2"]
    assert "no comparators and no training row" in said[0]


def test_an_unfinished_run_cannot_be_evaluated(tmp_path):
    prepared = prepare(wish(tmp_path), cohort(), CPU)
    with pytest.raises(SettingsError, match="cannot be read"):
        subject(prepared.run)
    with pytest.raises(SettingsError, match="holds no model with its run"):
        subjects(Path(tmp_path))
