"""Settings of the trainer are refused when they are read, not at night."""

import pytest

from dicom_node.errors import SettingsError
from dicom_node.settings import load
from training.settings import TrainingSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retrain_recipe", "papre"),
        ("retrain_schedule", "2 o'clock"),
        ("retrain_lease", 1),
        ("retrain_webhook", "hospital.example"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_at_once(tmp_path, name, value):
    with pytest.raises(SettingsError, match=f"(?i){name}"):
        load(TrainingSettings, data_dir=tmp_path, **{name: value})


def test_every_preset_is_a_recipe_to_retrain_by(tmp_path):
    given = load(TrainingSettings, data_dir=tmp_path, retrain_recipe="paper")
    assert given.retrain_recipe == "paper"
