import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from training.phantom import law as laws

BY_NAME = {law.name: law for law in laws.COHORTS}
N = 100_000


@pytest.fixture(scope="module")
def drawn():
    return {law.name: laws.draw(law, N, seed=11) for law in laws.COHORTS}


@pytest.mark.parametrize(
    ("cohort", "auc"),
    [("train", 0.93), ("internal", 0.93), ("ext1", 0.94), ("ext2", 0.92)],
)
def test_the_best_possible_sln_auc_is_known(drawn, cohort, auc):
    patients = drawn[cohort]

    assert roc_auc_score(patients.sln, patients.sln_score) == pytest.approx(
        auc, abs=0.01
    )


@pytest.mark.parametrize(
    ("cohort", "auc"),
    [("train", 0.65), ("internal", 0.65), ("ext1", 0.5), ("ext2", 0.62)],
)
def test_size_alone_says_little_and_nothing_in_centre_two(drawn, cohort, auc):
    patients = drawn[cohort]

    assert roc_auc_score(patients.sln, patients.size) == pytest.approx(auc, abs=0.02)


@pytest.mark.parametrize("cohort", ["train", "internal", "ext1", "ext2"])
def test_the_best_possible_nsln_auc_is_known(drawn, cohort):
    patients = drawn[cohort]
    known = patients.nsln >= 0

    auc = roc_auc_score(patients.nsln[known], patients.nsln_score[known])
    assert 0.79 < auc < 0.84


@pytest.mark.parametrize(
    ("cohort", "prevalence"),
    [
        ("train", 140 / 519),
        ("internal", 32 / 129),
        ("ext1", 41 / 296),
        ("ext2", 21 / 44),
    ],
)
def test_prevalence_is_that_of_the_paper(drawn, cohort, prevalence):
    assert drawn[cohort].sln.mean() == pytest.approx(prevalence, abs=0.006)


def test_the_share_of_small_lesions_is_exact(drawn):
    for name, patients in drawn.items():
        law = BY_NAME[name]
        assert (patients.size <= 2).mean() == pytest.approx(
            law.small / law.n, abs=0.006
        )


def test_nobody_knows_the_nsln_of_a_negative_sln(drawn):
    for patients in drawn.values():
        assert (patients.nsln[patients.sln == 0] == -1).all()
    ext1 = drawn["ext1"]
    assert (ext1.nsln[ext1.sln == 1] == -1).mean() == pytest.approx(5 / 41, abs=0.01)


def test_table_1_comes_back(drawn):
    patients = drawn["train"]
    clinic = laws.draw_clinic(patients, seed=11)

    assert np.median(clinic.age) == pytest.approx(51, abs=1)
    assert np.percentile(clinic.age, [25, 75]) == pytest.approx([46, 57], abs=1.5)
    assert clinic.premenopausal.mean() == pytest.approx(242 / 519, abs=0.02)
    assert (clinic.birads == 3).mean() == pytest.approx(236 / 519, abs=0.01)
    assert (clinic.subtype == 1).mean() == pytest.approx(307 / 519, abs=0.01)
    assert clinic.mri_aln.mean() == pytest.approx(86 / 519, abs=0.01)


def test_the_same_seed_gives_the_same_patients_and_another_does_not():
    law = BY_NAME["ext2"]
    first, again = laws.draw(law, 20, 3), laws.draw(law, 20, 3)

    assert np.array_equal(first.sln_score, again.sln_score)
    assert not np.array_equal(first.sln_score, laws.draw(law, 20, 4).sln_score)


@pytest.mark.parametrize(
    ("n", "counts"),
    [(988, [519, 129, 296, 44]), (0, [0, 0, 0, 0]), (1, [1, 0, 0, 0])],
)
def test_patients_are_shared_out_in_the_paper_s_proportions(n, counts):
    assert laws.apportion(n, laws.COHORTS) == counts


def test_every_patient_is_shared_out():
    assert all(sum(laws.apportion(n, laws.COHORTS)) == n for n in range(200))
