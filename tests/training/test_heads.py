import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training import heads
from training.config import DEFAULT
from training.datasets import CROP, StageSet, split
from training.heads import (
    PENALTIES,
    attach_head,
    average_features,
    fit_head,
    head_steps,
)
from worker.cascade import (
    build_network,
    class_activation,
    feature_map,
    logit_difference,
)
from worker.preprocess import centre, standardise

RECIPE = DEFAULT.model_copy(update={"views": 1, "threads": 1})


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(4)
    features = rng.normal(3, 1, (120, 6)) * [1, 10, 0.1, 1, 1, 0]
    labels = (features[:, 0] + rng.normal(0, 1, 120) > 3).astype(np.int64)
    return features, labels


def test_a_head_is_scikit_learn_s_regression_on_raw_features(problem):
    features, labels = problem
    head = fit_head(features, labels, 1, (10.0,))
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    reference.fit(features, labels)
    weight, bias = head.difference

    np.testing.assert_allclose(
        features @ weight + bias, reference.decision_function(features), atol=1e-4
    )
    np.testing.assert_allclose(head.weight[0], -head.weight[1])


def test_the_penalty_is_chosen_from_the_cases_alone(problem):
    features, labels = problem
    head = fit_head(features, labels, 1)
    noise = np.random.default_rng(1).permutation(labels)

    assert head.penalty in PENALTIES
    assert fit_head(features, labels, 1).penalty == head.penalty
    assert fit_head(features, noise, 1).penalty >= head.penalty


def test_a_constant_feature_has_no_weight(problem):
    features, labels = problem

    assert fit_head(features, labels, 1).weight[1, 5] == 0


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(3)
    network = build_network(RECIPE.architecture)
    generator = torch.Generator().manual_seed(1)
    crops = torch.rand(40, 70, 70, generator=generator) * 0.5
    labels = torch.arange(40) % 2
    crops[labels == 1, 20:50, 20:50] += 0.5
    data = StageSet(crops, labels)
    ticks = []
    attach_head(network, data, CROP, RECIPE, lambda: ticks.append(1))
    return network, data, len(ticks)


def test_a_head_on_a_frozen_trunk_learns_what_can_be_learned(fitted):
    network, data, _ = fitted
    with torch.inference_mode():
        logits = logit_difference(network(standardise(centre(data.crops, CROP), CROP)))

    assert ((logits > 0).long() == data.labels).all()


def test_every_batch_is_told_to_the_progress_bar(fitted):
    assert fitted[2] == head_steps(40, RECIPE) == 2


def test_the_map_of_several_layers_is_the_logit(fitted):
    network, data, _ = fitted
    x = standardise(centre(data.crops[:3], CROP), CROP)
    with torch.inference_mode():
        features = feature_map(network, x)
        cam, bias = class_activation(network, features)
        logits = logit_difference(network(x))

    assert features.shape == (3, 896, 8, 8)
    assert cam.shape == (3, 8, 8)
    torch.testing.assert_close(
        cam.mean((1, 2)) + bias, logits.double(), atol=1e-5, rtol=1e-5
    )


def test_views_turn_and_mirror(fitted):
    network, data, _ = fitted
    crop = data.crops[:1]
    turned = torch.rot90(crop, 1, (-2, -1)).flip(-1)
    eight = RECIPE.model_copy(update={"views": 8})
    first, other = (
        average_features(network, one, CROP, eight, lambda: None)
        for one in (crop, turned)
    )

    np.testing.assert_allclose(first, other, rtol=1e-4, atol=1e-5)


def test_both_breasts_of_a_patient_lie_in_one_inner_fold():
    rng = np.random.default_rng(2)
    patients = np.repeat(np.arange(40), 2)
    labels = np.repeat(rng.permutation(40) % 3 == 0, 2).astype(np.int64)
    data = StageSet(torch.zeros(80, 1, 1), torch.from_numpy(labels), None, patients)

    for learn, aside in heads.inner_folds(labels, data.repeated, 1):
        assert not set(patients[learn]) & set(patients[aside])
        assert len(np.unique(labels[learn])) == 2
    kept, aside = split(data, 0.2, 1)
    assert not set(kept.patients) & set(aside.patients)
    assert len(kept) + len(aside) == 80

    # What tells patients apart, and nothing else, is no reason for a weak penalty.
    features = np.repeat(np.eye(40), 2, axis=0) + rng.normal(0, 0.01, (80, 40))
    fit = fit_head(features, labels, 1, patients=data.repeated)
    assert fit.penalty > fit_head(features, labels, 1).penalty


def test_one_case_of_a_class_leaves_no_inner_fold_and_takes_the_largest_penalty():
    features = np.random.default_rng(0).normal(size=(20, 3))
    labels = (np.arange(20) == 0).astype(np.int64)

    assert fit_head(features, labels, 1).penalty == PENALTIES[-1]
