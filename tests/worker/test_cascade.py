from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from torchvision.models import resnet18

from dicom_node.errors import PermanentError
from dicom_node.findings import (
    Pathway,
    Proportion,
    Risk,
    Slnd,
    Stage,
    StageFinding,
    StageStatus,
    StageTwo,
)
from worker import cascade
from worker.cascade import StageModel
from worker.manifest import (
    Architecture,
    Calibration,
    Manifest,
    OperatingThreshold,
    Performance,
    Preprocessing,
    TrainingRecord,
)
from worker.preprocess import to_input

STOCK = Architecture(strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1), map_size=2)
LOW, HIGH = Risk.LOW, Risk.HIGH


def random_network(architecture, seed=0):
    torch.manual_seed(seed)
    network = cascade.build_network(architecture)
    for module in network.modules():  # batch norm as after training, not identity
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return network.eval()


@pytest.fixture(scope="module")
def model():
    manifest = Manifest(
        name="resnet18-sln",
        version="1",
        stage=Stage.SLN,
        architecture=Architecture(),
        preprocessing=Preprocessing(mean=0.25, sd=0.17),
        calibration=Calibration(slope=0.5, intercept=-0.25),
        operating_threshold=OperatingThreshold(value=0.5, how="fixed"),
        performance=Performance(
            dataset="none",
            n=2,
            auc=0.5,
            auc_low=0.0,
            auc_high=1.0,
            sensitivity=Proportion.wilson(1, 1),
            specificity=Proportion.wilson(1, 1),
            positives=(0.9,),
            negatives=(0.1,),
        ),
        heat_range=(-1.0, 1.0),
        weights_sha256="0" * 64,
        trained_on="nothing",
        training=TrainingRecord(
            preset="demo", seed=0, threads=1, config={}, libraries={}
        ),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return StageModel(random_network(Architecture()), manifest, torch.device("cpu"))


@pytest.fixture
def slice_():
    return np.random.default_rng(1).gamma(2.0, 100.0, (96, 96)).astype(np.float32)


def test_names_of_weights_are_those_of_torchvision():
    ours = cascade.build_network(Architecture()).state_dict()
    theirs = resnet18(num_classes=2).state_dict()

    assert {k: v.shape for k, v in ours.items()} == {
        k: v.shape for k, v in theirs.items()
    }


def test_stock_strides_give_the_network_of_torchvision():
    network = random_network(STOCK)
    reference = resnet18(num_classes=2).eval()
    reference.load_state_dict(network.state_dict())
    x = torch.randn(1, 3, 64, 64)

    assert cascade.feature_map(network, x).shape == (1, 512, 2, 2)
    assert torch.equal(network(x), reference(x))


def test_dilation_gives_eight_by_eight_cells_that_contain_the_stock_map():
    dilated, stock = random_network(Architecture()), random_network(STOCK)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        fine, coarse = cascade.feature_map(dilated, x), cascade.feature_map(stock, x)

    assert fine.shape == (1, 512, 8, 8)
    torch.testing.assert_close(fine[..., ::4, ::4], coarse)


def test_the_mean_of_the_map_and_the_bias_are_the_logit_from_pixels_on(model, slice_):
    spec = model.manifest.preprocessing
    x = to_input(slice_, (10.0, 12.0, 60.0, 55.0), spec)
    score = cascade.score(model, x)
    with torch.inference_mode():
        served = cascade.logit_difference(model.network(x[None]))

    assert score.cam.shape == (8, 8)
    assert score.cam.dtype == np.float32
    assert abs(score.cam.mean(dtype=np.float64) + score.bias - score.logit) < 1e-5
    assert abs(score.logit - served.item()) < 1e-5


def test_the_probability_is_the_calibrated_logit(model, slice_):
    x = to_input(slice_, (10.0, 12.0, 60.0, 55.0), model.manifest.preprocessing)
    score = cascade.score(model, x)

    expected = 1 / (1 + np.exp(-(0.5 * score.logit - 0.25)))
    assert score.probability == pytest.approx(expected, rel=1e-12)


def test_the_same_crop_gives_the_same_bits(model, slice_):
    x = to_input(slice_, (10.0, 12.0, 60.0, 55.0), model.manifest.preprocessing)
    first, second = cascade.score(model, x), cascade.score(model, x)

    assert first.probability == second.probability
    assert np.array_equal(first.cam, second.cam)


def test_scoring_leaves_no_gradient_behind(model):
    cascade.score(model, torch.zeros(3, 64, 64))

    assert all(p.grad is None for p in model.network.parameters())


@pytest.mark.parametrize(
    ("probability", "threshold", "risk"),
    [
        (0.5, 0.5, HIGH),
        (np.nextafter(0.5, 0), 0.5, LOW),
        (0.4996, 0.5, LOW),
        (0.0, 0.0, HIGH),
        (1.0, 1.0, HIGH),
        (0.0, np.nextafter(0, 1), LOW),
    ],
)
def test_high_means_at_least_the_threshold_unrounded(probability, threshold, risk):
    assert cascade.risk_of(probability, threshold) is risk


@pytest.mark.parametrize(
    ("sln", "slnd", "nsln", "expected"),
    [
        (LOW, None, None, Pathway.SLN_LOW_RISK),
        (HIGH, None, None, Pathway.AWAITING_SLND),
        (LOW, Slnd.WITHDRAWN, None, Pathway.SLN_LOW_RISK),
        (HIGH, Slnd.WITHDRAWN, HIGH, Pathway.AWAITING_SLND),
        (LOW, Slnd.NEGATIVE, None, Pathway.SLN_NEGATIVE),
        (HIGH, Slnd.NEGATIVE, None, Pathway.SLN_NEGATIVE),
        (HIGH, Slnd.NEGATIVE, HIGH, Pathway.SLN_NEGATIVE),
        (HIGH, Slnd.POSITIVE, LOW, Pathway.NSLN_LOW_RISK),
        (HIGH, Slnd.POSITIVE, HIGH, Pathway.NSLN_HIGH_RISK),
        (LOW, Slnd.POSITIVE, HIGH, Pathway.NSLN_HIGH_RISK),
    ],
)
def test_the_pathway_follows_risk_and_pathology(sln, slnd, nsln, expected):
    assert cascade.pathway(sln, slnd, nsln) is expected


def test_a_positive_dissection_cannot_be_closed_without_stage_two():
    with pytest.raises(ValueError, match="stage II"):
        cascade.pathway(HIGH, Slnd.POSITIVE, None)


@pytest.mark.parametrize(
    ("sln", "slnd", "status"),
    [
        (LOW, None, StageStatus.NOT_INDICATED),
        (HIGH, None, StageStatus.PENDING),
        (HIGH, Slnd.WITHDRAWN, StageStatus.PENDING),
        (LOW, Slnd.POSITIVE, StageStatus.DONE),
        (HIGH, Slnd.POSITIVE, StageStatus.DONE),
        (LOW, Slnd.NEGATIVE, StageStatus.EXCLUDED),
        (HIGH, Slnd.NEGATIVE, StageStatus.EXCLUDED),
    ],
)
def test_only_a_positive_dissection_opens_stage_two(sln, slnd, status):
    assert cascade.stage_two_status(sln, slnd) is status


@pytest.mark.parametrize(
    ("sln", "slnd", "expected"),
    [
        (LOW, Slnd.POSITIVE, True),
        (HIGH, Slnd.POSITIVE, False),
        (LOW, Slnd.NEGATIVE, False),
        (LOW, None, False),
    ],
)
def test_a_metastasis_after_a_low_risk_is_discordant(sln, slnd, expected):
    assert cascade.is_discordant(sln, slnd) is expected


@pytest.mark.parametrize(
    ("sln", "slnd", "status"),
    [
        (LOW, None, StageStatus.NOT_INDICATED),
        (HIGH, None, StageStatus.CONDITIONAL),
        (HIGH, Slnd.WITHDRAWN, StageStatus.CONDITIONAL),
        (HIGH, Slnd.POSITIVE, StageStatus.DONE),
        (LOW, Slnd.POSITIVE, StageStatus.DONE),
        (HIGH, Slnd.NEGATIVE, StageStatus.EXCLUDED),
    ],
)
def test_a_site_may_have_stage_two_before_a_dissection(sln, slnd, status):
    assert cascade.stage_two_status(sln, slnd, StageTwo.CONDITIONAL) is status


def test_a_conditional_number_has_no_risk_group_until_it_stands():
    ran = StageFinding(
        Stage.NSLN, StageStatus.DONE, probability=0.7, threshold=0.5, risk=HIGH
    )

    conditional = cascade.standing(ran, StageStatus.CONDITIONAL)
    done = cascade.standing(conditional, StageStatus.DONE)

    assert (conditional.risk, conditional.probability) == (None, 0.7)
    assert done == ran
    with pytest.raises(PermanentError, match="without its numbers"):
        cascade.standing(
            StageFinding(Stage.NSLN, StageStatus.PENDING), StageStatus.DONE
        )
