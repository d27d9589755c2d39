"""The report is whole, says the same everywhere, and refuses what cannot hold."""

import base64
import csv
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from tests.quick_models import write_model, write_models
from tests.training import evaluations
from training import scores, snapshot
from training.cli import main
from training.phantom import writer
from training.report import build, checks, choice, gallery, performance, render, surgery
from training.report.document import Checklist, Figure, Prose, Table
from training.report.words import NOT_COMPUTABLE
from training.statistics.consistency import InconsistentNumbersError
from worker import models
from worker.manifest import OperatingThreshold

LAYOUT = {
    "summary": ["summary"],
    "patients": ["figure-1", "figure-2", "table-1"],
    "performance": ["table-2", "table-2-operating"],
    "sln": [
        *("figure-3a", "figure-3a-operating", "figure-3b", "figure-3c"),
        *("figure-4", "figure-4-counts", "figure-4-alnd"),
    ],
    "nsln": ["figure-5a", "figure-5a-operating", "figure-5b", "figure-5c"],
    "size": ["table-3"],
    "instances": ["figure-6"],
    "supplement": [
        *(f"table-s{n}" for n in range(2, 11)),
        *(f"figure-s{n}" for n in range(1, 5)),
    ],
    "card": ["card-use", "card-sln", "card-nsln", "card-limits"],
    "checklists": ["stard-2015", "tripod-ai", "claim-2024"],
    "definitions": [
        f"definitions-{name}"
        for name in ("outcomes", "cohorts", "models", "thresholds", "statistics")
    ],
    "provenance": ["provenance-data", "provenance-run"],
}
SMALL = {"train": 60, "internal": 40, "ext1": 30}


def sources(evaluation, **changes):
    given = {"snapshot": None, "served": {}, "command": ("report",), "version": "1"}
    return build.Sources(evaluation, **{**given, **changes})


def document(evaluation):
    return build.build(sources(evaluation))


def block(document, key):
    return next(one for one in document.blocks() if one.key == key)


class Page(HTMLParser):
    """Texts of table cells, ids, and everything that would load something."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.ids, self.loads, self.links = [], set(), [], []
        self.open, self.text = False, text
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids.add(found.get("id"))
        self.loads += [found[k] for k in ("src", "srcset", "data") if k in found]
        self.links += [found["href"]] if "href" in found else []
        if tag in {"script", "link", "iframe", "object", "embed"}:
            self.loads.append(tag)
        if tag in {"td", "th"}:
            self.open = True
            self.cells.append("")

    def handle_endtag(self, tag):
        self.open = self.open and tag not in {"td", "th"}

    def handle_data(self, data):
        if self.open:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    scores.write(folder / "evaluation", evaluations.evaluation(SMALL))
    arguments = ["report", "--evaluation", str(folder / "evaluation")]
    ran = CliRunner().invoke(main, [*arguments, "--out", str(folder / "out")])
    assert ran.exit_code == 0, ran.output
    return folder / "out"


@pytest.fixture(scope="module")
def whole():
    return document(evaluations.evaluation(SMALL))


@pytest.fixture(scope="module")
def page(written):
    return Page((written / render.HTML_NAME).read_text("utf-8"))


def test_every_table_and_figure_of_the_paper_is_there(written, page, whole):
    assert {s.key: [b.key for b in s.blocks] for s in whole.sections[1:]} == {
        key: keys for key, keys in LAYOUT.items() if key != "summary"
    }
    assert {key for keys in LAYOUT.values() for key in keys} <= page.ids
    for one in whole.blocks():
        assert (
            isinstance(one, Prose)
            or (written / f"{one.key}.csv").exists()
            or (isinstance(one, Figure) and not one.rows)
        )
        drawn = isinstance(one, Table) or (isinstance(one, Figure) and one.panels)
        if drawn:
            with Image.open(written / f"{one.key}.png") as picture:
                assert min(picture.size) > 100


def test_every_number_of_a_table_stands_in_its_csv_and_on_the_page(
    written, page, whole
):
    on_page = set(page.cells)
    for one in whole.blocks():
        if isinstance(one, Table):
            with (written / f"{one.key}.csv").open(newline="") as stream:
                rows = list(csv.reader(stream))
            assert tuple(rows[0]) == one.header
            assert len(rows) == len(one.rows) + 1
            for row, read in zip(one.rows, rows[1:], strict=True):
                cells = list(row.cells[:1] if row.heading else row.cells)
                assert read[: len(cells)] == cells
                assert {cell.strip() for cell in cells} <= {c.strip() for c in on_page}


def test_the_page_loads_nothing_from_elsewhere(page):
    assert page.loads
    assert all(load.startswith("data:image/") for load in page.loads)
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"url\(|@import|https?://", page.text.split("</style>")[0])
    for load in page.loads:
        if load.startswith("data:image/svg"):
            svg = base64.b64decode(load.split(",")[1]).decode()
            assert not re.search(r'(href|src)="(?!#|data:)', svg)


def test_every_link_leads_somewhere(page):
    assert {link.removeprefix("#") for link in page.links} <= page.ids


def test_the_guidelines_are_whole_and_honest(whole):
    lists = [one for one in whole.blocks() if isinstance(one, Checklist)]
    assert [len(one.items) for one in lists] == [34, 52, 44]
    names = whole.names()
    for item in (item for one in lists for item in one.items):
        assert set(item.where) <= set(names)
        assert item.status in render.STATUSES
        assert item.where or item.status in {"authors", "not applicable"}
        assert item.note or item.status != "not applicable"


def test_the_same_evaluation_gives_the_same_bytes(written, tmp_path):
    scores.write(tmp_path / "evaluation", evaluations.evaluation(SMALL))
    arguments = ["report", "--evaluation", str(tmp_path / "evaluation")]
    CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "elsewhere")])
    names = sorted(path.name for path in written.iterdir())
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == names
    for name in names:
        again = (tmp_path / "elsewhere" / name).read_bytes()
        assert again == (written / name).read_bytes(), name


def test_a_synthetic_report_says_so_loudly_and_a_real_one_does_not(page):
    assert "SYNTHETIC PHANTOMS, NOT PATIENTS" in page.text
    real = evaluations.evaluation({"train": 40, "internal": 30}, models=["ResNet18"])
    real = replace(real, provenance=evaluations.provenance(synthetic=False))
    text = render.html(document(real))
    assert "SYNTHETIC" not in text
    assert "Research use only" in text
    assert 'id="table-s10"' not in text


def test_a_report_never_holds_a_name_or_a_key_of_a_patient(written):
    for path in written.glob("*.*"):
        assert b"PHANTOM-" not in path.read_bytes()


def without_a_case(model):
    part = model.cohorts[1]
    short = choice.subset(part, set(part.case_ids[:-1]))
    return replace(model, cohorts=(model.cohorts[0], short, *model.cohorts[2:]))


def with_a_turned_label(model):
    part = model.cohorts[1]
    labels = part.labels.copy()
    labels[0] = 1 - labels[0]
    turned = replace(part, labels=labels)
    return replace(model, cohorts=(model.cohorts[0], turned, *model.cohorts[2:]))


def with_a_stranger(model):
    part = model.cohorts[1]
    strange = replace(part, case_ids=("nobody", *part.case_ids[1:]))
    return replace(model, cohorts=(model.cohorts[0], strange, *model.cohorts[2:]))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            without_a_case,
            r"Table 2, SLN, internal, CNN .*: \d+/40 positives, but \d+/39 in Table 2",
        ),
        (with_a_turned_label, r"SLN, internal, Clinical model: case .* has the label"),
        (with_a_stranger, r"SLN, internal, Clinical model: case nobody is not in"),
    ],
)
def test_numbers_that_cannot_all_hold_are_refused_and_nothing_is_written(
    tmp_path, spoil, words
):
    whole = evaluations.evaluation(SMALL, models=["ResNet18", "Clinical model"])
    first, second, *others = whole.models
    spoilt = replace(whole, models=(first, spoil(second), *others))
    scores.write(tmp_path / "evaluation", spoilt)
    arguments = ["--evaluation", str(tmp_path / "evaluation")]
    ran = CliRunner().invoke(
        main, ["report", *arguments, "--out", str(tmp_path / "out")]
    )
    assert ran.exit_code == 1
    assert re.search(words, ran.output), ran.output
    assert "Traceback" not in ran.output
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation"]


def test_a_printed_row_is_checked_as_it_is_printed():
    evaluation = evaluations.evaluation(SMALL, models=["ResNet18"])
    table = performance.performance(evaluation, "t", "Table 2", performance.AT_HALF)
    at = next(n for n, row in enumerate(table.rows) if "CNN" in row.cells[0])
    cells = list(table.rows[at].cells)
    cells[2] = "99.9 (99.0-100.0) 1/60"
    wrong = replace(table.rows[at], cells=tuple(cells))
    rows = (*table.rows[:at], wrong, *table.rows[at + 1 :])
    with pytest.raises(InconsistentNumbersError, match="Table 2, SLN, training, CNN"):
        checks.refuse(evaluation, [(replace(table, rows=rows), performance.AT_HALF)])


@pytest.mark.parametrize(
    "options",
    [
        {"sizes": {"train": 60}},
        {"sizes": {"train": 40, "internal": 5, "ext1": 1}, "nsln": False},
        {"sizes": {"train": 40, "ext2": 12}, "radiologist": False},
        {"sizes": {"internal": 30}, "models": ["Clinical model"], "nsln": False},
        {"sizes": {"train": 30, "internal": 20}, "models": []},
    ],
)
def test_a_small_or_partial_evaluation_still_gives_a_report(options):
    whole = document(evaluations.evaluation(**options))
    text = render.html(whole)
    assert NOT_COMPUTABLE in text.lower()
    assert whole.warnings
    assert "nan" not in {cell.lower() for cell in Page(text).cells}


def test_one_class_only_is_said_in_the_cell():
    evaluation = evaluations.evaluation(SMALL, models=["ResNet18"], nsln=False)
    cases = tuple(
        {**case, "sln": "0"} if case["cohort"] == "internal" else case
        for case in evaluation.cases
    )
    parts = [
        replace(part, labels=np.zeros_like(part.labels))
        if part.cohort == "internal"
        else part
        for part in evaluation.models[0].cohorts
    ]
    scored = replace(evaluation.models[0], cohorts=tuple(parts))
    whole = document(replace(evaluation, cases=cases, models=(scored,)))
    table = block(whole, "table-2")
    at = next(n for n, r in enumerate(table.rows) if "Internal" in r.cells[0])
    cells = table.rows[at + 1].cells
    assert cells[1] == "not computable: one class only, all 40 are negative"
    assert cells[3].startswith("not computable: TP / (TP + FN) is 0 / 0")
    assert cells[4].endswith("/40")
    assert "one class only" in block(whole, "figure-3b").panels[1].alt


def test_equal_scores_get_no_interval_of_width_zero():
    part = evaluations.evaluation(SMALL).models[0].cohorts[0]
    level = replace(part, probabilities=np.full(len(part), 0.4))
    cell = performance.auc_cell(level)
    assert cell == "0.500 (no interval: all scores are equal)"
    assert checks.AUC.match(cell)[1] == "0.500"


def test_fig_4_prints_fdr_and_for_under_the_names_of_the_paper():
    table = surgery.counts_table(evaluations.evaluation(SMALL))
    rows = {row.cells[0]: row.cells[1:] for row in table.rows}
    tp, fp, fn, tn = map(int, rows["TP, FP, FN, TN"][0].split(", "))
    fdr = next(cells for name, cells in rows.items() if name.startswith("FDR"))
    name = next(name for name in rows if name.startswith("FDR"))
    assert name == 'FDR (the paper prints it as "FPR") = FP / (FP + TP), %'
    assert fdr[0].endswith(f"{fp}/{fp + tp}")
    missed = next(c for n, c in rows.items() if n.startswith("FOR"))
    assert missed[0].endswith(f"{fn}/{fn + tn}")
    assert rows["SLND avoided"][0] == f"{(fn + tn) / 70:.1%} ({fn + tn}/70)"


def test_resubstitution_stands_in_the_optimistic_table_alone():
    evaluation = evaluations.evaluation(SMALL, models=["ResNet18"], nsln=False)
    model = evaluation.models[0]
    again = replace(model.cohorts[0], cohort="training (resubstitution)")
    model = replace(model, cohorts=(*model.cohorts, again))
    whole = document(replace(evaluation, models=(model,)))
    rows = block(whole, "table-s7").rows
    assert any(row.cells[1].startswith("RESUBSTITUTION") for row in rows)
    assert all(
        row.cells[1].isupper() or ":" in row.cells[1] or "," in row.cells[1]
        for row in rows
    )
    others = [b for b in whole.blocks() if isinstance(b, Table) and b.key != "table-s7"]
    assert not any(
        "resubstitution" in cell.lower()
        for table in others
        for row in table.rows
        for cell in row.cells
    )


def test_a_full_folder_is_not_written_over(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(SettingsError, match="is not empty"):
        render.write(document(evaluations.evaluation({"train": 30})), tmp_path)
    assert (tmp_path / "report.html").read_text() == "mine"


def test_the_gallery_is_chosen_by_rule_and_not_by_order():
    part = evaluations.evaluation(SMALL).models[0].cohorts[1]
    chosen = gallery.choose(part, 0.3)
    rows = np.random.default_rng(1).permutation(len(part))
    shuffled = scores.CohortScores(
        part.cohort,
        tuple(part.case_ids[i] for i in rows),
        part.labels[rows],
        part.probabilities[rows],
    )
    assert gallery.choose(shuffled, 0.3) == chosen
    for cell in {one.cell for one in chosen}:
        group = [one.probability for one in chosen if one.cell == cell]
        assert group == sorted(group, reverse=True)
    found = [one for one in chosen if one.cell == "true positive"]
    high = part.probabilities[(part.labels == 1) & (part.probabilities >= 0.3)]
    assert found[0].probability == high.max()
    assert found[-1].probability == high.min()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A phantom cohort on disk, networks with random weights, their evaluation."""
    folder = tmp_path_factory.mktemp("site")
    list(writer.write(writer.Order(cases=12, seed=2), folder / "cohort"))
    write_models(folder / "models")
    frozen = snapshot.load(folder / "cohort")
    manifest = next(
        m for m in models.installed(folder / "models") if m.stage is Stage.SLN
    )
    about = evaluations.about("ResNet18", scores.Kind.CNN, Stage.SLN).model_copy(
        update={
            "weights_sha256": manifest.weights_sha256,
            "threshold": OperatingThreshold(value=0.4, how="for a test"),
        }
    )
    groups = {}
    for row in frozen.rows:
        groups.setdefault(row.cohort, []).append(row)
    rng = np.random.default_rng(1)
    parts = tuple(
        scores.CohortScores(
            name,
            tuple(row.case_id for row in rows),
            np.array([row.sln for row in rows], dtype=np.int64),
            rng.random(len(rows)),
        )
        for name, rows in groups.items()
    )
    made = evaluations.provenance(snapshot_id=frozen.id)
    evaluation = scores.Evaluation(
        made, frozen.cases, (scores.ModelScores(about, parts),)
    )
    scores.write(folder / "evaluation", evaluation)
    return folder


def run_site(site, *more):
    arguments = ["report", "--evaluation", str(site / "evaluation")]
    return CliRunner().invoke(main, [*arguments, *map(str, more)])


def test_the_gallery_shows_slices_and_maps_of_the_evaluated_network(site):
    out = site / "out"
    ran = run_site(
        site, "--cohort", site / "cohort", "--models", site / "models", "--out", out
    )
    assert ran.exit_code == 0, ran.output
    with (out / "figure-6.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows
    with Image.open(out / "figure-6.png") as picture:
        assert picture.width >= 2 * gallery.PIXELS
        assert picture.convert("RGB").getcolors(1 << 24)
    text = (out / render.HTML_NAME).read_text()
    assert "untrained-sln@1-1" in text
    assert "in cells of an eighth" in text


def test_another_snapshot_is_refused(site, tmp_path):
    list(writer.write(writer.Order(cases=2, seed=9), tmp_path / "other"))
    ran = run_site(site, "--cohort", tmp_path / "other", "--out", tmp_path / "out")
    assert ran.exit_code == 1
    assert "name the snapshot it was made from" in ran.output
    assert not (tmp_path / "out").exists()


def test_other_weights_never_stand_in_for_the_evaluated_ones(site, tmp_path):
    write_model(tmp_path / "models", Stage.NSLN, 2)
    given = ("--cohort", site / "cohort", "--models", tmp_path / "models")
    ran = run_site(site, *given, "--out", tmp_path / "o")
    assert ran.exit_code == 0, ran.output
    text = (tmp_path / "o" / render.HTML_NAME).read_text()
    assert "holds no network with the weights evaluated for SLN" in text
