"""What configs say of their prunings, and which records are of one comparison."""

from dataclasses import replace
from pathlib import Path

import pytest

from records import record
from saintprune.errors import SaintpruneError
from saintprune.reporting.configs import changed, check_comparable, check_joins, seeds_of, stages_of
from saintprune.reporting.records import RunRecord
from saintprune.reporting.results import read_rows, write_csv

RECORDS = Path(__file__).parents[2] / "docs" / "records"
CONFIG = {
    "model": {"name": "tiny", "net": {"img_size": 64}}, "dataset": {"path": "d", "limit": None},
    "calibration": {"target": None, "samples": 64},
}  # fmt: skip
HARDWARE = {"name": "cpu", "accelerator": "cpu", "batch_size": 4, "num_workers": 0}
DEFERRING = {
    "pruning": {
        "stages": {"vision": {"layers": "all", "method": {"r": 2}}},
        "second": {"stages": {"vision": {"method": {"seed": 3}}, "language": {"method": {"seed": 4}}}},
    }
}


def made(part=None, samples=656, **values):
    """Return a record of `CONFIG` and `HARDWARE` with values of one part changed."""
    if part == "hardware":
        return replace(record(config=CONFIG), num_samples=samples, hardware={**HARDWARE, **values})
    config = CONFIG if part is None else {**CONFIG, part: {**CONFIG[part], **values}}
    return replace(record(config=config), num_samples=samples, hardware=HARDWARE)


def test_stages_and_seeds_of_what_follows_are_found_too():
    assert [place for place, _ in stages_of(DEFERRING)] == [
        "stages.vision", "second.stages.vision", "second.stages.language",
    ]  # fmt: skip
    assert seeds_of(DEFERRING) == {"second.stages.vision": 3, "second.stages.language": 4}
    assert seeds_of({"pruning": {"stages": {"vision": None}}}) == seeds_of({}) == {}


def test_what_changed_is_one_line():
    after = {**CONFIG, "calibration": {"target": None, "correct": 512}, "seed": 0}
    assert changed(CONFIG, after) == "calibration.samples 64 -> null, calibration.correct null -> 512, seed null -> 0"
    assert changed(CONFIG, {**CONFIG, "experiment": None}) == "", "null is what a key is that came later"


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (made("dataset", limit=100), "dataset.limit is null in one and 100 in the other"),
        (made("model", net={"img_size": 96}), "model.net.img_size is 64 in one and 96"),
        (made("hardware", batch_size=8), "hardware.batch_size is 4 in one and 8"),
        (made("hardware", accelerator="cuda"), "hardware.accelerator is cpu in one and cuda"),
        (made("dataset", path="b/e"), "dataset.path is d in one and e"),
        (made("calibration", correct=512), "calibration.correct is null in one and 512"),
        (made(samples=655), "num_samples is 656 in one and 655"),
    ],
)
def test_records_of_other_settings_are_of_no_comparison(tmp_path, other, told):
    for name, one in (("a", made()), ("b", other)):
        one.write(tmp_path / f"{name}.json")
    with pytest.raises(SaintpruneError, match=f"^a.json and b.json are not of one comparison: {told}") as error:
        read_rows(tmp_path)
    assert "\n" not in str(error.value)


def test_what_changes_no_figure_may_differ():
    unreached, later = made(samples=0), made("hardware", name="mine", num_workers=2, peak_tflops=3, devices=2)
    elsewhere = made("dataset", path="/data/d", train_path="e", root="f")
    others = {"c": later, "d": made("calibration", target="flops:0.5"), "e": elsewhere}
    check_comparable({"a": unreached, "b": made(), **others})


def test_a_cell_to_come_is_of_the_folders_comparison():
    folder = {"a.json": made(), "b.json": made(samples=0)}
    check_joins(folder, {"c.json": (CONFIG, HARDWARE)})
    with pytest.raises(SaintpruneError, match=r"^a.json and c.json are not of one comparison: hardware.batch_size"):
        check_joins(folder, {"c.json": (CONFIG, {**HARDWARE, "batch_size": 8})})
    check_joins({"c.json": made()}, {"c.json": (CONFIG, {**HARDWARE, "batch_size": 8})})


@pytest.mark.parametrize("table", sorted(RECORDS.glob("*/results.csv")), ids=lambda path: path.parent.name)
def test_committed_tables_are_those_of_their_records(tmp_path, table):
    assert write_csv(read_rows(table.parent), tmp_path / "results.csv").read_text() == table.read_text()


COMPARISONS = sorted([*RECORDS.glob("v*-*"), RECORDS / "llava15_7b-noise-h100"])


@pytest.mark.parametrize("folder", COMPARISONS, ids=lambda folder: folder.name)
def test_committed_folders_are_comparisons(folder):
    check_comparable({path.name: RunRecord.read(path) for path in folder.glob("*.json")})
