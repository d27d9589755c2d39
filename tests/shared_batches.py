"""What torchrun starts for a test: one network by all processes, and one alone."""

import sys
from pathlib import Path

from tests.quick_cohorts import TINY, easy_set
from training import checkpoint, curves
from training.datasets import measure
from training.determinism import determinism
from training.learning import starting_weights
from training.loop import Around, fit
from training.team import assemble

RECIPE = TINY.model_copy(update={"epochs": 5, "batch": 32, "rate": 0.01})


class Kept:
    """A journal that remembers the curve and never resumes."""

    curve = ()

    def load(self):
        return None

    def save(self, state):
        self.curve = state.curve


def keep(network, path):
    checkpoint.write(path, dict(network.state_dict()), {})


def main(folder):
    data = easy_set(32, 1)
    spec = measure(data)
    with assemble("cpu") as team, determinism(1):
        start = starting_weights(RECIPE, None)
        kept = Kept()
        network = fit(start, data, spec, RECIPE, Around(team=team, journal=kept))
        keep(network, folder / f"{team.rank}.safetensors")
        if team.leads:
            curves.write(folder / "0.csv", kept.curve)
            alone = Kept()
            network = fit(start, data, spec, RECIPE, Around(journal=alone))
            keep(network, folder / "alone.safetensors")
            curves.write(folder / "alone.csv", alone.curve)
        team.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
