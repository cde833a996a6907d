"""Paired differences by hand, and the files that answers are kept in."""

import pytest
import torch

from saintprune.errors import SaintpruneError
from saintprune.metrics.samples import Samples, paired_difference
from saintprune.reporting.samples_file import beside, read_samples, write_samples


def samples(same, right=None, baseline=None, groups=None):
    def bools(digits):
        return None if digits is None else torch.tensor([digit == "1" for digit in digits])

    groups = None if groups is None else torch.tensor(groups)
    return Samples(bools(same), bools(baseline or (right and "1" * len(right))), bools(right), groups)


def test_seeds_are_averaged_per_sample_first():
    first = [samples("1111", "1100"), samples("1100", "1000")]  # right: 1, 0.5, 0, 0
    second = [samples("1000", "0100")]  # right: 0, 1, 0, 0
    found = paired_difference(first, second)
    assert found["accuracy"].value == pytest.approx((1.0 - 0.5) / 4)
    assert found["agreement"].value == pytest.approx((0.0 + 1.0 + 0.5 + 0.5) / 4)
    assert found["accuracy"].low <= found["accuracy"].value <= found["accuracy"].high


def test_what_both_get_wrong_alike_widens_nothing():
    generator = torch.Generator().manual_seed(0)
    right = torch.rand(400, generator=generator) < 0.6
    one = Samples(right, right | True, right)
    worse = right.clone()
    worse[right.nonzero()[:40]] = False
    other = Samples(worse, right | True, worse)
    found = paired_difference([one], [other])["accuracy"]
    assert found.value == pytest.approx(0.1) and 0.06 < found.low < found.high < 0.14, "unpaired it would be ±0.07"
    same = paired_difference([one], [one])["accuracy"]
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_questions_about_one_image_count_as_one():
    one, other = "1" * 40, "0" * 10 + "1" * 30
    apart = paired_difference([samples(one, one)], [samples(other, other)])["accuracy"]
    images = [number // 4 for number in range(40)]
    for groups in ((images, images), (images, None), (None, images)):  # files of older versions know no images
        sides = [[samples(right, right, groups=known)] for right, known in zip((one, other), groups, strict=True)]
        together = paired_difference(*sides)["accuracy"]
        assert together.value == apart.value and together.high - together.low > 1.5 * (apart.high - apart.low)


def test_without_labels_only_agreement():
    assert paired_difference([samples("10")], [samples("01")]).keys() == {"agreement"}


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([], [samples("10")], "one side has none"),
        ([samples("10")], [samples("101")], "2, 3 samples"),
        ([samples("10", "10", "11")], [samples("10", "10", "01")], "right about other samples"),
    ],
)
def test_runs_that_do_not_pair_are_refused(first, second, message):
    with pytest.raises(SaintpruneError, match=message):
        paired_difference(first, second)


def test_files_are_small_and_hold_what_was_written(tmp_path):
    digits = "1011" * 164
    path = write_samples(beside(tmp_path / "saint@flops0.67~seed1.json"), samples(digits, digits))
    assert path.name == "saint@flops0.67~seed1.npz" and path.stat().st_size < 2000
    again = read_samples(path)
    assert torch.equal(again.pruned_right, samples(digits).same) and again.same.dtype == torch.bool
    write_samples(path, samples("10", groups=[300, 0]))
    assert read_samples(path).groups.tolist() == [300, 0]
    write_samples(path, samples("10"))
    again = read_samples(path)
    assert again.baseline_right is None and again.groups is None
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.npz").write_text("text")
    for name in ("a.npz", "missing.npz"):
        with pytest.raises(SaintpruneError, match=name):
            read_samples(tmp_path / name)
