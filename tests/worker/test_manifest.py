import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from dicom_node.errors import SettingsError
from dicom_node.findings import Proportion, Stage
from worker import manifest as manifests
from worker.manifest import (
    Architecture,
    Calibration,
    Manifest,
    OperatingThreshold,
    Performance,
    Preprocessing,
    QualityGate,
    SizeRange,
    TrainingRecord,
)


@pytest.fixture
def manifest():
    return Manifest(
        name="resnet18-sln",
        version="20260101-0123abcd",
        stage=Stage.SLN,
        architecture=Architecture(),
        preprocessing=Preprocessing(mean=0.25, sd=0.17),
        calibration=Calibration(slope=1.1, intercept=-0.2),
        operating_threshold=OperatingThreshold(value=0.5, how="fixed"),
        performance=Performance(
            dataset="phantom easy",
            n=10,
            auc=0.8,
            auc_low=0.7,
            auc_high=0.9,
            sensitivity=Proportion.wilson(3, 4),
            specificity=Proportion.wilson(5, 6),
            positives=(0.4, 0.5, 0.7, 0.9),
            negatives=(0.1, 0.1, 0.2, 0.3, 0.4, 0.6),
        ),
        heat_range=(-2.0, 2.0),
        weights_sha256="0" * 64,
        trained_on="phantom easy, n=40, seed 1",
        training=TrainingRecord(
            preset="demo", seed=1, threads=2, config={"epochs": 1}, libraries={}
        ),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_what_is_written_is_read(manifest, tmp_path):
    manifests.write(tmp_path, manifest)

    assert manifests.read(tmp_path) == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_proportions_come_back_as_the_value_that_findings_use(manifest, tmp_path):
    manifests.write(tmp_path, manifest)

    assert manifests.read(tmp_path).performance.sensitivity.value == 0.75


def test_times_are_rfc_3339_in_utc(manifest, tmp_path):
    path = manifests.write(tmp_path, manifest)

    assert json.loads(path.read_text())["created_at"] == "2026-01-01T00:00:00Z"


def test_a_missing_manifest_is_an_error_of_settings(tmp_path):
    with pytest.raises(SettingsError, match=r"manifest\.json cannot be read"):
        manifests.read(tmp_path)


def test_every_faulty_field_is_named(manifest, tmp_path):
    content = manifest.model_dump(mode="json")
    content["calibration"]["slope"] = -1
    content["weights_sha256"] = "abc"
    (tmp_path / "manifest.json").write_text(json.dumps(content))

    with pytest.raises(SettingsError) as caught:
        manifests.read(tmp_path)
    assert "calibration.slope" in str(caught.value)
    assert "weights_sha256" in str(caught.value)


@pytest.mark.parametrize(
    "where", [(), ("preprocessing",), ("performance", "sensitivity")]
)
def test_unknown_fields_are_refused_at_every_level(manifest, tmp_path, where):
    content = manifest.model_dump(mode="json")
    part = content
    for key in where:
        part = part[key]
    part["surprise"] = 1
    (tmp_path / "manifest.json").write_text(json.dumps(content))

    with pytest.raises(SettingsError, match=r"surprise|has the keys"):
        manifests.read(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../escape"),
        ("version", ".hidden"),
        ("format_version", 0),
        ("heat_range", [1.0, 1.0]),
        ("created_at", "2026-01-01T00:00:00"),
        ("stage", "sln"),
    ],
)
def test_values_out_of_range_are_refused(manifest, tmp_path, field, value):
    content = manifest.model_dump(mode="json") | {field: value}
    (tmp_path / "manifest.json").write_text(json.dumps(content))

    with pytest.raises(SettingsError, match=field):
        manifests.read(tmp_path)


def test_a_proportion_of_more_than_all_is_refused(manifest, tmp_path):
    content = manifest.model_dump(mode="json")
    content["performance"]["specificity"] |= {"k": 7}
    (tmp_path / "manifest.json").write_text(json.dumps(content))

    with pytest.raises(SettingsError, match="k <= n"):
        manifests.read(tmp_path)


def test_another_threshold_is_described_by_the_held_out_scores(manifest):
    at = manifest.performance.at(0.4)

    assert (at.sensitivity.k, at.sensitivity.n) == (4, 4)
    assert (at.specificity.k, at.specificity.n) == (4, 6)
    assert at.specificity == Proportion.wilson(4, 6)


def test_proportions_that_disagree_with_the_threshold_are_refused(manifest):
    content = manifest.model_dump()
    content["operating_threshold"]["value"] = 0.4

    with pytest.raises(ValueError, match="disagrees with the scores"):
        Manifest.model_validate(content)


def test_scores_that_are_not_the_cases_are_refused(manifest):
    content = manifest.performance.model_dump()

    with pytest.raises(ValueError, match="not n = 11"):
        Performance.model_validate(content | {"n": 11})
    with pytest.raises(ValueError, match="do not fit"):
        Performance.model_validate(content | {"positives": [0.5]})


@pytest.mark.parametrize(
    "fault",
    [
        {"size": 65},
        {"size": 72},
        {"window_percentiles": (99.5, 1.0)},
        {"sd": 0.0},
        {"mean": float("nan")},
        {"phase": "late"},
    ],
)
def test_preprocessing_that_cannot_work_is_refused(fault):
    with pytest.raises(ValueError, match="Preprocessing"):
        Preprocessing(**({"mean": 0.25, "sd": 0.17} | fault))


def test_the_digest_of_preprocessing_depends_on_every_field(manifest):
    base = manifest.preprocessing
    changed = [
        base.model_copy(update=change)
        for change in (
            {"mean": 0.26},
            {"sd": 0.18},
            {"phase": "post-2"},
            {"window_percentiles": (0.0, 100.0)},
            {"resize": 72},
        )
    ]

    digests = {spec.sha256 for spec in [base, *changed]}
    assert len(digests) == 6
    assert manifest.preprocessing_sha256 == Preprocessing(mean=0.25, sd=0.17).sha256


@pytest.mark.parametrize(
    ("logit", "probability"), [(0.0, 0.5), (-1000.0, 0.0), (1000.0, 1.0)]
)
def test_calibration_is_defined_for_every_logit(logit, probability):
    assert Calibration(slope=1.0, intercept=0.0).probability(logit) == probability


def test_the_manifest_is_readable_without_torch():
    code = "import sys, worker.manifest; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_model_of_the_first_format_says_that_nothing_is_checked(manifest, tmp_path):
    content = manifest.model_dump(mode="json") | {"format_version": 1}
    del content["quality"]
    (tmp_path / "manifest.json").write_text(json.dumps(content))

    size, features = manifests.describe_gate(manifests.read(tmp_path))

    assert size.endswith("not checked, the model does not state its range")
    assert features.endswith("not checked, the model does not state theirs")


def test_the_second_format_has_a_head_on_the_last_layer(manifest, tmp_path):
    content = manifest.model_dump(mode="json") | {"format_version": 2}
    del content["architecture"]["head_layers"]
    (tmp_path / "manifest.json").write_text(json.dumps(content))

    assert manifests.read(tmp_path).architecture.head_layers == (4,)


def test_the_second_format_knows_no_head_on_several_layers(manifest, tmp_path):
    content = manifest.model_dump(mode="json") | {"format_version": 2}
    content["architecture"]["head_layers"] = [2, 3, 4]
    (tmp_path / "manifest.json").write_text(json.dumps(content))

    with pytest.raises(SettingsError, match="needs format version 3"):
        manifests.read(tmp_path)


def test_a_later_format_asks_for_a_later_version(manifest, tmp_path):
    content = manifest.model_dump(mode="json") | {"format_version": 4, "new": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(content))

    with pytest.raises(SettingsError, match="has format 4, .* update Sentinode"):
        manifests.read(tmp_path)


@pytest.mark.parametrize("layers", [(), (2, 3), (3, 2, 4), (1, 2, 3, 4), (4, 4)])
def test_heads_that_cannot_be_shown_as_one_map_are_refused(layers):
    with pytest.raises(ValueError, match=r"head_layers|at least 1 item"):
        Architecture(head_layers=layers)


def test_the_first_format_has_no_quality_gate(manifest, tmp_path):
    content = manifest.model_dump(mode="json") | {"format_version": 1, "quality": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(content))

    with pytest.raises(SettingsError, match="quality needs format version 2"):
        manifests.read(tmp_path)


@pytest.mark.parametrize(
    ("part", "value", "named"),
    [
        ("sides", {"shortest": 9, "longest": 8, "tolerance": 1.2}, "longer"),
        ("sides", {"shortest": 0, "longest": 8, "tolerance": 1.2}, "greater than 0"),
        ("sides", {"shortest": 1, "longest": 8, "tolerance": 0.9}, "equal to 1"),
        ("features", {"enabled": True, "reason": "set"}, "needs a limit"),
        ("features", {"enabled": False, "reason": ""}, "at least 1 character"),
    ],
)
def test_a_gate_that_cannot_be_is_refused(manifest, tmp_path, part, value, named):
    content = manifest.model_dump(mode="json") | {"quality": {part: value}}
    (tmp_path / "manifest.json").write_text(json.dumps(content))

    with pytest.raises(SettingsError, match=named):
        manifests.read(tmp_path)


def test_the_limits_are_the_training_range_widened(manifest):
    sides = SizeRange(shortest=10, longest=80, tolerance=1.25)
    gated = manifest.model_copy(update={"quality": QualityGate(sides=sides)})

    assert sides.limits == (8, 100)
    assert "8.0-100.0 mm (training 10.0-80.0 mm" in manifests.describe_gate(gated)[0]
