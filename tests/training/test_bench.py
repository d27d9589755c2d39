import json

import numpy as np
import pytest

from training import bench
from training.bench import BEST, COHORTS, SIZE, Size

SMALL = Size(draws=2, cases=60, fresh=60, seed=3)


@pytest.fixture(scope="module")
def drawn():
    ticks = []
    learn, fresh = bench.draw(SMALL, lambda: ticks.append(1))
    assert len(ticks) == SMALL.total
    return learn, fresh


@pytest.fixture(scope="module")
def rows(drawn):
    models = {
        SIZE: lambda _, __: lambda fresh: np.log(fresh.patients.size),
        "Coin": lambda _, seed: (
            lambda fresh: np.random.default_rng(seed).random(len(fresh.patients))
        ),
    }
    return list(bench.compare(*drawn, models, seed=1))


def test_every_model_is_judged_on_every_law(rows):
    assert [(row.model, row.cohort) for row in rows] == [
        (model, cohort) for model in (BEST, SIZE, "Coin") for cohort in COHORTS
    ]
    assert all(row.share == 1 for row in rows if row.model == BEST)
    assert {row.draws for row in rows if row.model == "Coin"} == {2}
    assert all(row.sd == 0 for row in rows if row.model == SIZE)


def test_training_draws_are_other_patients(drawn):
    first, second = drawn[0]

    assert not np.array_equal(first.patients.size, second.patients.size)


def test_the_table_and_the_plot_are_written(rows, tmp_path):
    bench.write(rows, SMALL, tmp_path / "bench")
    said = json.loads((tmp_path / "bench" / "bench.json").read_text())

    assert said["targets"] == {"internal": 0.83, "ext1": 0.76, "ext2": 0.73}
    assert len(said["rows"]) == len(rows)
    assert (tmp_path / "bench" / "bench.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "bench" / "bench.csv").read_text().count("\n") == len(rows) + 1
