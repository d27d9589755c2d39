"""A recorded result is computed again in a fresh process, by the real command line."""

import hashlib
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import update

from dicom_node import kept
from dicom_node.db import now
from dicom_node.findings import Slnd, Stage, StageStatus
from tests.quick_models import write_model
from tests.worker.test_purged import dissect
from worker import crops, keeping, outcomes, retention
from worker.crops import Crop
from worker.outcomes import ResultNotFoundError
from worker.replay import CLOSE, EXACT, Archive, GoneError, replay
from worker.retention import Store
from worker.tables import KeptRow, ResultRow, StageRow
from worker.tasks.analysis import analyze


@pytest.fixture
def settings(settings, tmp_path, quick_models):
    """With a folder of models that a test may change."""
    shutil.copytree(quick_models, tmp_path / "models")
    return settings.model_copy(update={"models_dir": tmp_path / "models"})


@pytest.fixture
def result_id(bench, slices, mark, source) -> str:
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    (found,) = analyze(uid, bench.site, source)
    return found


@pytest.fixture
def archive(bench) -> Archive:
    settings = bench.site.settings
    return Archive(bench.sessions, bench.site.spool, settings.models)


def run(bench, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `sentinode results replay` as an administrator does."""
    settings = bench.site.settings
    return subprocess.run(
        [
            *(sys.executable, "-m", "worker.cli", "results", "replay", *arguments),
            *("--data-dir", str(settings.data_dir)),
        ],
        env={**os.environ, "SENTINODE_MODELS_DIR": str(settings.models)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def dump(bench) -> list[str]:
    with closing(sqlite3.connect(bench.site.settings.data_dir / "sentinode.db")) as it:
        return list(it.iterdump())


def tree(bench) -> dict[Path, bytes]:
    root = bench.site.spool.root
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def record(bench, result_id):
    with bench.sessions() as session:
        found = keeping.of(session, result_id)
    assert found is not None
    return found


def crop_file(bench, result_id) -> Path:
    return bench.site.spool.absolute(
        kept.crop_path(record(bench, result_id).crop_sha256)
    )


def alter_pixel(content: bytes) -> bytes:
    """Make one pixel in the middle of the mark as dark as the darkest."""
    crop = crops.decode(content)
    pixels = crop.pixels.copy()
    pixels[pixels.shape[0] // 2, pixels.shape[1] // 2] = pixels.min()
    return crops.encode(Crop(pixels, crop.box))


def forge(bench, result_id) -> None:
    """Alter one stored pixel, and every digest that says so."""
    content = alter_pixel(crop_file(bench, result_id).read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    kept.keep_crop(bench.site.spool, digest, content)
    with bench.sessions.begin() as session:
        session.execute(update(KeptRow).values(crop_sha256=digest))


def rewrite(bench, **values) -> None:
    """Change what is recorded of the stages that ran."""
    with bench.sessions.begin() as session:
        session.execute(
            update(StageRow).where(StageRow.probability.is_not(None)).values(**values)
        )


def test_a_result_holds_bit_by_bit_in_a_fresh_process_and_nothing_changes(
    bench, result_id
):
    before = dump(bench), tree(bench)

    done = run(bench, result_id, "--json")

    found = json.loads(done.stdout)
    (stage,) = found["stages"]
    assert done.returncode == 0, done.stderr
    assert found["holds"]
    assert stage["criterion"] == EXACT
    assert stage["recorded"] == stage["recomputed"]
    assert stage["difference"] == 0
    assert len(found["checked"]) == 3
    assert (dump(bench), tree(bench)) == before


def test_people_read_both_numbers_the_criterion_and_the_verdict(bench, result_id):
    (sln, _) = outcomes_of(bench, result_id)
    rewrite(bench, probability=sln.probability + 0.25)

    done = run(bench, result_id)

    text = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert repr(sln.probability) in text
    assert repr(sln.probability + 0.25) in text
    assert text.count("DOES NOT HOLD") == 2
    assert "restore crop, slice and model from a backup" in done.stderr
    assert "bit-identical" in text
    assert "RESEARCH USE ONLY" in text


def outcomes_of(bench, result_id):
    with bench.sessions() as session:
        return outcomes.result(session, result_id).stages


def test_both_stages_hold_after_a_purge_and_with_another_model_in_service(
    bench, slices, mark, source, archive
):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    analyze(uid, bench.site, source)
    retention.purge_study(Store(bench.sessions, bench.site.spool), uid, now())
    dissect(bench, uid, Slnd.POSITIVE)
    (result_id,) = analyze(uid, bench.site, source)
    write_model(archive.models, Stage.SLN, 9)
    with bench.sessions.begin() as session:
        identity = ("untrained-sln", "1-9", "0" * 64)
        outcomes.activate(session, Stage.SLN, identity, "test", now())

    done = run(bench, result_id, "--json")

    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert [one["stage"] for one in found["stages"]] == ["SLN", "NSLN"]
    assert found["stages"][0]["model"] == "untrained-sln@1-1"
    assert all(one["holds"] for one in found["stages"])


def test_a_conditional_stage_is_replayed_without_a_risk_group(
    bench, result_id, archive
):
    rewrite(bench, status=StageStatus.CONDITIONAL, risk=None)

    (stage,) = replay(result_id, archive).stages

    assert stage.holds
    assert stage.recorded_risk is None
    assert stage.recomputed_risk is None


def test_one_altered_pixel_is_seen_by_its_digest(bench, result_id):
    file = crop_file(bench, result_id)
    file.write_bytes(alter_pixel(file.read_bytes()))

    done = run(bench, result_id, "--json")

    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert not found["holds"]
    assert "the stored crop has SHA-256" in found["faults"][0]
    assert found["stages"] == []


def test_a_forged_digest_does_not_hide_it_from_the_slice(bench, result_id, archive):
    forge(bench, result_id)

    found = replay(result_id, archive)

    assert not found.holds
    assert "not that of the kept slice" in found.faults[0]


def test_without_the_slice_a_forged_crop_gives_another_probability(
    bench, result_id, archive
):
    forge(bench, result_id)
    sha256 = record(bench, result_id).slice_sha256
    bench.site.spool.remove([kept.slice_path(sha256)])

    found = replay(result_id, archive)

    (stage,) = found.stages
    assert found.faults == ()
    assert any("the slice is gone" in sentence for sentence in found.checked)
    assert stage.difference != 0
    assert not stage.holds
    assert not found.holds


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"torch_version": "2.0.0"},
        {"cpu": "aarch64 DEFAULT of another model"},
        {"device": "cuda:0 (Some GPU)"},
        {"torch_version": None, "cpu": None, "threads": None, "batch": None},
    ],
)
def test_elsewhere_and_for_a_gpu_a_small_difference_is_allowed(
    bench, result_id, archive, elsewhere
):
    (sln, _) = outcomes_of(bench, result_id)
    verdicts = []
    for shift in (0.0, 9e-6, 2e-5):
        rewrite(bench, probability=sln.probability + shift, **elsewhere)
        (stage,) = replay(result_id, archive).stages
        assert stage.criterion == CLOSE
        verdicts.append(stage.holds)

    assert verdicts == [True, True, False]
    assert next(iter(elsewhere)).split("_")[0].lower() in stage.why.lower()


def test_on_the_same_kind_of_cpu_the_last_bit_counts(bench, result_id, archive):
    (sln, _) = outcomes_of(bench, result_id)
    rewrite(bench, probability=math.nextafter(sln.probability, 1.0))

    found = replay(result_id, archive)

    assert found.stages[0].criterion == EXACT
    assert not found.holds


def test_another_rectangle_than_the_recorded_input_is_a_fault(
    bench, result_id, archive
):
    with bench.sessions.begin() as session:
        session.execute(update(ResultRow).values(roi_x0=21.0))

    assert "digest of the input" in replay(result_id, archive).faults[0]


def test_an_unknown_result_is_exit_code_3(bench, archive):
    done = run(bench, "no-such-result", "--json")

    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("sentinode: ")
    with pytest.raises(ResultNotFoundError):
        replay("no-such-result", archive)


def test_a_crop_that_is_gone_is_exit_code_4(bench, result_id, archive):
    crop_file(bench, result_id).unlink()

    done = run(bench, result_id, "--json")

    assert done.returncode == 4
    assert done.stdout == ""
    assert "backup" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    with bench.sessions.begin() as session:
        session.execute(update(KeptRow).values(released_at=now()))
    with pytest.raises(GoneError, match="given up at"):
        replay(result_id, archive)
    with bench.sessions.begin() as session:
        session.execute(update(KeptRow).values(crop_sha256=None))
    with pytest.raises(GoneError, match="older version"):
        replay(result_id, archive)


def test_a_model_that_is_gone_is_named_with_what_to_do(bench, result_id, archive):
    shutil.rmtree(archive.models / "untrained-sln")

    with pytest.raises(GoneError, match=r"untrained-sln@1-1 .* models install"):
        replay(result_id, archive)


def test_other_weights_and_other_preprocessing_are_faults(bench, result_id, archive):
    weights = archive.models / "untrained-sln" / "1-1" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    damaged = replay(result_id, archive)
    content[-1] ^= 1
    weights.write_bytes(content)
    rewrite(bench, preprocessing_sha256="0" * 64)
    other = replay(result_id, archive)

    assert not damaged.holds
    assert "model.safetensors has SHA-256" in damaged.faults[0]
    assert "preprocessing of untrained-sln@1-1" in other.faults[0]


def test_a_superseded_result_is_replayed_while_its_crop_is_there(
    bench, slices, mark, source, archive
):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    (first,) = analyze(uid, bench.site, source)
    store = Store(bench.sessions, bench.site.spool)
    dissect(bench, uid, Slnd.NEGATIVE)
    analyze(uid, bench.site, source)
    retention.purge_study(store, uid, now())

    assert replay(first, archive).holds  # the newest keeps the same crop
    retention.purge_study(store, uid, now(), with_kept=True)
    with pytest.raises(GoneError, match="superseded"):
        replay(first, archive)


def test_no_installation_is_one_sentence(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "worker.cli", "results", "replay", "x"),
            *("--data-dir", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "no installation" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_carries_no_torch():
    code = (
        "import sys, worker.cli.results, worker.cli.studies, worker.tasks.dispatch\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == 0


def test_a_kept_crop_is_what_the_networks_saw(bench, result_id):
    content = crop_file(bench, result_id).read_bytes()
    crop = crops.decode(content)

    digest = hashlib.sha256(content).hexdigest()
    assert digest == record(bench, result_id).crop_sha256
    assert crop.pixels.dtype == np.float32
    assert crop.pixels.shape == (20, 24)
