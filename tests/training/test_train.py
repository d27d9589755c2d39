from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from tests.quick_cohorts import easy_set
from training import cohort, publish
from training.__main__ import main
from training.config import DILATED, PRESETS, STOCK, Recipe
from training.datasets import CROP, LabelledCrops, StageSet, split
from training.demo_models import DemoPlan, ensure_demo_models
from training.publish import Origin
from training.scoring import score_logits
from training.train import Task, steps, train
from worker import cascade, preprocess
from worker import manifest as manifests
from worker.gate import strangeness
from worker.manifest import QualityGate
from worker.quality import Check
from worker.weights import load_stage

CPU = torch.device("cpu")
TINY = Recipe(
    preset="tiny", init="none", dilated=False, epochs=4, rate=0.02, threads=1, batch=8
)  # stock strides: a third of the time


@pytest.fixture(scope="module")
def task():
    return Task(Stage.SLN, easy_set(50, 1), easy_set(40, 2), "held-out squares")


@pytest.fixture(scope="module")
def trained(task):
    return train(task, TINY, lambda: None)


@pytest.fixture(scope="module")
def published(trained, tmp_path_factory):
    origin = Origin("tiny-sln", "synthetic phantoms of squares, n = 50")
    return publish.publish(trained, tmp_path_factory.mktemp("models"), origin)


def test_a_network_learns_what_can_be_learned(trained):
    assert trained.performance.auc > 0.95
    assert trained.performance.n == 40
    assert trained.recipe.architecture == STOCK


def test_the_same_run_gives_the_same_weights(task, trained):
    before = torch.get_rng_state(), torch.get_num_threads()
    again = train(task, TINY, lambda: None)

    assert publish.encode(again.network) == publish.encode(trained.network)
    assert again.calibration == trained.calibration
    assert again.threshold == trained.threshold
    assert torch.equal(torch.get_rng_state(), before[0])  # the process is as it was
    assert torch.get_num_threads() == before[1]
    assert not torch.are_deterministic_algorithms_enabled()


def test_every_step_is_told_to_the_progress_bar(task):
    update = {"epochs": 1, "coarse_epochs": 1, "dilated": True, "batch": 20}
    recipe = TINY.model_copy(update=update)
    ticks = []
    trained = train(task, recipe, lambda: ticks.append(1))

    assert len(ticks) == steps(task, recipe) == 4
    assert trained.network.layer4[1].conv2.dilation == (4, 4)
    assert trained.recipe.architecture == DILATED


def test_the_published_model_scores_as_the_trained_one(trained, published, task):
    model = load_stage(published, CPU)
    spec = model.manifest.preprocessing
    crops = task.heldout.crops[:5]
    expected = score_logits(trained.network, crops, spec)
    served = [
        cascade.score(
            model, preprocess.standardise(preprocess.centre(crop, spec), spec)
        )
        for crop in crops
    ]

    np.testing.assert_allclose([s.logit for s in served], expected, atol=1e-4)
    for score in served:
        assert abs(score.cam.mean(dtype=np.float64) + score.bias - score.logit) < 1e-5


def test_the_manifest_holds_the_probabilities_that_the_model_serves(published, task):
    model = load_stage(published, CPU)
    spec, performance = model.manifest.preprocessing, model.manifest.performance
    inputs = preprocess.standardise(preprocess.centre(task.heldout.crops, spec), spec)
    served = np.array([cascade.score(model, x).probability for x in inputs])
    labels = task.heldout.labels.numpy()

    expected = np.sort(served[labels == 1]), np.sort(served[labels == 0])
    np.testing.assert_allclose(performance.positives, expected[0], atol=1e-4)
    np.testing.assert_allclose(performance.negatives, expected[1], atol=1e-4)


def test_the_published_folder_is_complete(trained, published):
    manifest = manifests.read(published)

    assert sorted(path.name for path in published.iterdir()) == [
        "MODEL_CARD.md",
        "manifest.json",
        "model.safetensors",
    ]
    assert published.name == manifest.version
    assert manifest.version.endswith(manifest.weights_sha256[:8])
    assert manifest.training.config["epochs"] == 4
    assert manifest.heat_range[0] == -manifest.heat_range[1]
    assert not [p for p in published.parent.iterdir() if p.name.startswith(".")]


def test_publishing_again_changes_nothing(trained, published):
    before = (published / "manifest.json").read_bytes()
    origin = Origin("tiny-sln", "synthetic phantoms of squares, n = 50")

    assert publish.publish(trained, published.parents[1], origin) == published
    assert (published / "manifest.json").read_bytes() == before


def test_the_card_says_what_it_is_and_how_well_it_does(published):
    card = (published / "MODEL_CARD.md").read_text()
    performance = manifests.read(published).performance

    assert "Research use only" in card
    assert "It has never seen a patient" in card
    assert f"**{performance.auc:.3f}** (95% CI {performance.auc_low:.3f}-" in card
    assert f"({performance.sensitivity.k}/{performance.sensitivity.n}," in card


def test_the_second_stage_starts_from_the_first(trained, task):
    second = Task(
        Stage.NSLN,
        task.development,
        task.heldout,
        "squares",
        trained.network.state_dict(),
    )
    recipe = TINY.model_copy(update={"epochs": 1, "rate": 1e-9})
    child = train(second, recipe, lambda: None)

    torch.testing.assert_close(
        child.network.layer4[0].conv1.weight, trained.network.layer4[0].conv1.weight
    )


def test_the_paper_preset_is_the_paper_s_protocol():
    paper = PRESETS["paper"]

    assert paper.architecture == STOCK
    assert (paper.epochs, paper.rate, paper.batch) == (20, 0.005, 32)
    assert paper.target_sensitivity is None


def test_too_few_cases_are_refused_with_their_number(task):
    few = StageSet(task.heldout.crops[:8], torch.tensor([1, 0, 0, 0, 0, 0, 0, 0]))

    with pytest.raises(SettingsError, match="1 held-out cases of the rarer class"):
        train(Task(Stage.SLN, task.development, few, "few"), TINY, lambda: None)


def test_stage_two_sees_only_positive_nodes_with_a_known_label():
    crops = torch.arange(5.0)[:, None, None].expand(5, 70, 70)
    labelled = LabelledCrops(
        crops, torch.tensor([0, 1, 1, 1, 0]), torch.tensor([-1, 0, 1, -1, -1])
    )
    second = labelled.for_stage(Stage.NSLN)

    assert len(labelled.for_stage(Stage.SLN)) == 5
    assert second.labels.tolist() == [0, 1]
    assert second.crops[:, 0, 0].tolist() == [1.0, 2.0]


def test_a_split_keeps_prevalence_and_loses_nobody():
    data = StageSet(torch.arange(100.0)[:, None, None], (torch.arange(100) < 30).long())
    kept, aside = split(data, 0.2, seed=1)

    assert int(aside.labels.sum()) == 6
    together = torch.cat([kept.crops, aside.crops]).flatten()
    assert sorted(together.tolist()) == list(range(100))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("cohort") / "phantom"
    run = CliRunner().invoke(
        main, ["phantom", "--out", str(out), "--cases", "3", "--seed", "2"]
    )
    assert run.exit_code == 0, run.output
    assert "ext1 (centre 2): best possible SLN AUC 0.9" in run.output
    return out


def test_a_cohort_on_disk_is_read_through_the_served_preprocessing(folder):
    rows = cohort.read(folder)
    loaded = cohort.labelled(rows, [cohort.look(folder, row) for row in rows])

    assert loaded.crops.shape == (3, CROP.resize, CROP.resize)
    assert loaded.crops.min() >= 0
    assert loaded.crops.max() <= 1
    assert loaded.sln.tolist() == [row.sln for row in rows]
    assert cohort.describe(folder) == "synthetic phantoms, level bench, seed 2"


def test_a_patient_with_two_roles_is_refused(folder, tmp_path):
    table = (folder / "cohort.csv").read_text().splitlines()
    table.append(table[1].replace("development", "holdout"))
    (tmp_path / "cohort.csv").write_text("\n".join(table))

    with pytest.raises(SettingsError, match="two roles"):
        cohort.read(tmp_path)


def test_a_cohort_that_cannot_be_used_is_one_sentence(folder, tmp_path):
    args = [
        "train",
        "--cohort",
        str(tmp_path),
        "--stage",
        "sln",
        "--out",
        str(tmp_path),
    ]
    run = CliRunner().invoke(main, args)

    assert run.exit_code == 1
    assert "cohort.csv cannot be read" in run.output
    assert "Traceback" not in run.output


def test_stage_two_asks_for_stage_one(folder, tmp_path):
    args = ["train", "--cohort", str(folder), "--stage", "nsln", "--out", str(tmp_path)]
    run = CliRunner().invoke(main, args)

    assert run.exit_code == 1
    assert "train --stage sln" in run.output


def test_demo_models_are_trained_once_and_found_again(tmp_path):
    quick = TINY.model_copy(update={"epochs": 1})
    plan = DemoPlan(cases=110, heldout=80, sln=quick, nsln=quick)
    console = Console(quiet=True)
    first = ensure_demo_models(tmp_path, console, plan)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    assert ensure_demo_models(tmp_path, console, plan) == first
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    sln, nsln = (manifests.read(first[stage]) for stage in Stage)
    assert nsln.training.parent_weights_sha256 == sln.weights_sha256
    assert "phantoms, level easy" in sln.trained_on


def test_a_damaged_model_is_published_anew(trained, tmp_path):
    origin = Origin("tiny-sln", "squares")
    folder = publish.publish(trained, tmp_path, origin)
    (folder / "model.safetensors").write_bytes(b"damaged")

    assert publish.publish(trained, tmp_path, origin) == folder
    assert load_stage(folder, CPU).manifest.trained_on == "squares"


def test_a_model_says_what_sides_it_learned_from(trained):
    sides = trained.quality.sides
    assert (sides.shortest, sides.longest) == (12.0, 61.0)
    assert sides.limits == (12.0 / 1.25, 61.0 * 1.25)


def test_served_features_are_judged_as_training_measured_them(published, task, trained):
    model = load_stage(published, CPU)
    gate = model.manifest.quality.features
    crop = preprocess.centre(task.heldout.crops[:1], trained.preprocessing)
    x = preprocess.standardise(crop, trained.preprocessing)[0]
    strange = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)) * 40

    scored, odd = cascade.score(model, x), cascade.score(model, strange)

    assert gate.enabled
    assert gate.n == 10
    assert "99.9% of 10 calibration cases" in gate.reason
    assert strangeness(model, scored, (20, 20)) == ()
    assert strangeness(model, odd, (20, 20))[0].check is Check.FEATURES


def test_a_preset_without_a_feature_gate_says_why(task, trained, tmp_path):
    off = train(task, TINY.model_copy(update={"feature_gate": False}), lambda: None)
    folder = publish.publish(off, tmp_path, Origin("off-sln", "phantom squares"))
    card = (folder / "MODEL_CARD.md").read_text()

    assert not off.quality.features.enabled
    assert load_stage(folder, CPU).typical is None
    assert "features: switched off, the preset does not measure them" in card
    assert "sides of the rectangle: 9.6-76.2 mm (training 12.0-61.0 mm" in card
    assert publish.encode(off.network) == publish.encode(trained.network)


def test_the_presets_for_real_data_measure_features_and_the_demo_does_not():
    on = {name: recipe.feature_gate for name, recipe in PRESETS.items()}
    assert on == {"paper": True, "default": True, "demo": False, "ci": True}


def test_the_same_weights_with_another_gate_are_published_anew(trained, tmp_path):
    origin = Origin("tiny-sln", "squares")
    folder = publish.publish(trained, tmp_path, origin)
    narrower = replace(trained, quality=QualityGate(features=trained.quality.features))

    assert publish.publish(narrower, tmp_path, origin) == folder
    assert manifests.read(folder).quality.sides is None
    assert load_stage(folder, CPU).typical is not None
