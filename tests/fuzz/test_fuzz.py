"""A bounded, repeatable run of `make fuzz`, and what it once found."""

import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from dicom_node.roi import RoiReading
from tests.dicom_objects import BOX
from tests.fuzz import elements, engine, seeds, targets
from tests.roi_objects import whole

CORPUS = Path(__file__).parent / "corpus"
KNOWN = sorted(path for path in CORPUS.rglob("*") if path.is_file())
NAMES = [
    *("header", "store", "meta", "commitment"),
    *("sr", "scoord3d", "gsps", "rtstruct", "seg", "kos", "overlay"),
    *("image", "decoder", "codestream", "hl7", "mllp", "peer", "csv"),
]
SECONDS = 1.2
"""For each target; how many inputs that makes depends on the machine."""

LEAST, MOST = 50, 2000


@pytest.fixture(autouse=True, scope="module")
def quiet():
    """Let the libraries say what they like: the inputs are hostile on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    targets.clean()


pytestmark = pytest.mark.filterwarnings("ignore")


def test_every_target_is_run_here():
    assert list(targets.all_targets()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_hostile_input_is_a_result_or_a_reason(name):
    target = targets.all_targets()[name]
    tally = engine.Tally()
    until = time.monotonic() + SECONDS
    for _ in engine.plainly(target, MOST, 20261124, tally):
        if time.monotonic() > until and tally.inputs >= LEAST:
            break
    assert tally.findings == {}


@pytest.mark.parametrize(
    "path", KNOWN, ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_an_input_that_once_did_harm_does_none(path):
    target = targets.all_targets()[path.parent.name]
    tally = engine.Tally()
    engine.judge(target.run, path.read_bytes(), tally)
    assert tally.findings == {}


@pytest.mark.parametrize("name", seeds.carriers())
def test_an_object_that_is_not_mutated_gives_its_rectangle_exactly(name):
    document, exact = seeds.carriers()[name]
    data = seeds.encoded(document)
    assert elements.encode(elements.parse(data)) == data
    reading = targets.read_carrier(str(document.SOPClassUID), data)
    assert isinstance(reading, RoiReading)
    boxes = [roi.box for roi in reading.rois]
    if name == "KOS":
        assert boxes == []
    else:
        assert boxes == [pytest.approx(BOX if exact else whole(BOX), abs=1e-3)]


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(
    name=st.sampled_from(["sr", "gsps", "rtstruct", "seg", "scoord3d", "kos"]),
    steps=st.lists(
        st.tuples(st.sampled_from(elements.OPERATIONS), st.integers(0, 2**31)),
        min_size=1,
        max_size=4,
    ),
)
def test_no_change_of_elements_makes_a_reader_fall_over(name, steps):
    target = targets.all_targets()[name]
    tree = elements.parse(target.seeds[0])
    for operation, number in steps:
        rng = Random(number)  # noqa: S311 - repeatable
        places = list(elements.places(tree))
        if places:
            operation(*rng.choice(places), rng)
    target.run(elements.encode(tree))


@pytest.mark.skipif(not engine.guided(), reason="atheris is not there for this Python")
def test_a_run_that_is_guided_by_coverage_counts_its_inputs(tmp_path):
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", "3000", "--pdus", "0"]
    counts = tmp_path / "counts.json"
    where = ["--json", str(counts), "--keep", str(tmp_path / "kept")]
    subprocess.run(
        [*command, "--target", "codestream", *where], check=True, capture_output=True
    )
    (row,) = json.loads(counts.read_text())
    assert row["inputs"] == 3000
    assert row["findings"] == []
    assert row["coverage"] > 20


@pytest.mark.parametrize("syntax", targets.SYNTAXES[:2])
def test_seeds_are_valid_objects(syntax):
    data = seeds.encoded(seeds.single(), implicit=syntax == targets.SYNTAXES[1])
    file = targets.folder() / "seed.dcm"
    file.write_bytes(seeds.whole(data, "1.2.840.10008.5.1.4.1.1.4", syntax))
    assert dcmread(file).Rows == seeds.SIDE
