"""Figures and the page: files that open, the right content, nothing fetched from elsewhere."""

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

import families
from saintprune.analysis.curves import Curves
from saintprune.analysis.figures.curves import curves_figure, distribution_figure, heatmap_figure
from saintprune.analysis.figures.depth import depth_figure
from saintprune.analysis.figures.drawing import BLUE, GREEN, VERMILION, picture, words
from saintprune.analysis.figures.page import Section, write_page
from saintprune.analysis.figures.pictures import (
    cosines,
    faded,
    left_after,
    similarity_figure,
    survivors_figure,
    thinned,
)
from saintprune.analysis.figures.sensitivity import sensitivity_figure
from saintprune.analysis.one_image import keys_at, survivors
from saintprune.analysis.sensitivity import Sensitivity
from saintprune.analysis.stages import find_stages
from saintprune.analysis.synthetic import planted, without_stages
from saintprune.analysis.verdict_table import verdict_table
from saintprune.errors import SaintpruneError
from saintprune.plan import Plan, Schedule
from saintprune.reduction.baselines import RandomDrop
from saintprune.reduction.saint import Saint
from saintprune.reduction.tome import ToMe

GREY = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


@pytest.fixture(scope="module")
def curves() -> Curves:
    """Curves with stages and one histogram, of which every other image lacks a metric."""
    found, _ = planted(12, 0, images=8)
    values = {"attention_entropy": found.values["metric_0"], **found.values}
    values["metric_1"] = values["metric_1"].clone()
    values["metric_1"][::2] = torch.nan
    counts = torch.randint(0, 50, (12, 20), generator=torch.Generator().manual_seed(0))
    edges = torch.linspace(-1, 1, 21, dtype=torch.float64)
    return replace(found, values=values, histograms={"key_cosine": counts}, edges={"key_cosine": edges})


@pytest.fixture(scope="module")
def verdict(curves):
    """Its verdict, with the paper's names."""
    found = find_stages(curves, metrics=list(curves.values), draws=19)
    return replace(found, three_stages=True, names=("aligner", None, "aggregator"))


def assert_drawn(path, folder) -> None:
    """A PNG that is not of one colour, and an SVG beside it."""
    assert path.parent == folder
    with Image.open(path) as image:
        assert min(image.size) > 150
        assert len(set(image.convert("L").resize((64, 64)).get_flattened_data())) > 4
    text = path.with_suffix(".svg").read_text(encoding="utf-8")
    assert text.startswith("<?xml") and "</svg>" in text


# --- curves -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [True, False])
def test_curves(curves, verdict, answer, tmp_path) -> None:
    verdict = replace(verdict, three_stages=answer)
    twin = without_stages("flat", 12, 0, images=4)
    assert_drawn(
        curves_figure(
            curves, tmp_path / "a" / "curves.png", verdict, random={"initialised 0": twin, "shuffled 0": twin}
        ),
        tmp_path / "a",
    )
    assert_drawn(heatmap_figure(curves, tmp_path / "heat.png", verdict), tmp_path)
    assert_drawn(distribution_figure(curves, tmp_path / "pairs.png", verdict), tmp_path)


def test_curves_without_a_verdict(curves, tmp_path) -> None:
    assert_drawn(curves_figure(curves, tmp_path / "one.png", metrics=["attention_entropy"], title="One"), tmp_path)
    nothing = find_stages(Curves("vision", 4, {"key_cosine": torch.rand(3, 4).double()}))
    assert_drawn(heatmap_figure(curves, tmp_path / "heat.png", nothing, metrics=["metric_0"]), tmp_path)


def test_drawings_are_the_same_each_time(curves, verdict, tmp_path) -> None:
    one, two = (curves_figure(curves, tmp_path / f"{name}.png", verdict) for name in "ab")
    assert one.with_suffix(".svg").read_bytes() == two.with_suffix(".svg").read_bytes()


def test_sensitivity(verdict, tmp_path) -> None:
    def row(method: str, layer: int, **known) -> Sensitivity:
        return Sensitivity(method, layer, 0.3, 0.3, 16, 0.9, (0.85, 0.95), **known)

    features = [row(method, layer) for method in ("random", "saint") for layer in (0, 3, 6)]
    assert_drawn(sensitivity_figure(features, tmp_path / "features.png", verdict, layers=12), tmp_path)
    known = {"agreement": 0.8, "agreement_ci95": (0.7, 0.9), "accuracy": 0.7, "accuracy_change": -0.02}
    answers = [row("tome", layer, accuracy_change_ci95=(-0.05, 0.01), **known) for layer in (0, 1)]
    assert_drawn(sensitivity_figure(answers, tmp_path / "answers.png"), tmp_path)
    with Image.open(tmp_path / "features.png") as one, Image.open(tmp_path / "answers.png") as three:
        assert three.width > 2 * one.width, "a panel for each measure that is known"


def test_models_over_relative_depth(curves, verdict, tmp_path) -> None:
    twin = replace(without_stages("flat", 12, 0, images=4), meta={"model": "vit", "weights": "shuffled 0"})
    models = {"ViT": replace(curves, meta={"model": "vit"}), "ViT, shuffled": twin, "other": curves}
    names = list(curves.values)[:2]
    assert_drawn(depth_figure(models, tmp_path / "depth.png", {"ViT": verdict}, metrics=names), tmp_path)
    drawing = (tmp_path / "depth.svg").read_text(encoding="utf-8").upper()
    assert BLUE in drawing and VERMILION in drawing and GREEN not in drawing, "a colour for each model"
    with pytest.raises(SaintpruneError, match="none of the models has nothing: name other metrics"):
        depth_figure(models, tmp_path / "none.png", metrics=["nothing"])


def test_verdicts_in_a_table(verdict) -> None:
    nothing = find_stages(Curves("vision", 4, {"key_cosine": torch.rand(3, 4).double()}))
    lines = verdict_table({"ViT": verdict, "a|b": nothing}).splitlines()
    assert len(lines) == 4 and lines[2].startswith(f"| ViT | 12 | {verdict.images} | yes | 0, ")
    assert lines[3].startswith("| a\\|b | 4 | 3 | no | nothing to cut | no three stages: 4 layers are too few")


def test_metrics_have_words() -> None:
    assert words("effective_rank_keys_centred") == "effective rank of keys, centred"
    assert words("edges@0.75") == "pairs of keys ≥ 0.75"
    assert words("something_else") == "something else"


def test_figures_need_no_global_state() -> None:
    code = "import saintprune.analysis.figures.pictures, sys; print('matplotlib.pyplot' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


# --- single images ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tower():
    """A small ViT, its adapter and images; 16 patches each."""
    net, kind, images = families.make("vit")
    return net, kind(net), images


@pytest.mark.parametrize(
    ("method", "schedule"),
    [
        (Saint(threshold=0.1, min_neighbours=1, vote="sample"), None),
        (Saint(threshold=0.1, min_neighbours=1, order="reference"), None),
        (ToMe(), Schedule(drop=0.6)),
        (RandomDrop(), Schedule(drop=0.6)),
    ],
)
def test_survivors_are_what_the_run_kept(tower, method, schedule) -> None:
    net, adapter, images = tower
    with adapter.pruned(Plan.vision(method, "all", schedule=schedule), recorded=True) as run:
        net(images)
    stream = run.stream
    for sample in range(len(images)):
        left = survivors(run.events, sample, torch.arange(16), prefix=adapter.prefix)
        assert sorted(left) == [0, 1, 2, 3]
        final = stream.positions[sample]
        if stream.valid is not None:
            final = final[stream.valid[sample, adapter.prefix :]]
        assert torch.equal(left[3], final)
        assert all(set(left[layer + 1].tolist()) <= set(left[layer].tolist()) for layer in range(3))
    assert len(left[3]) < 16


def test_survivors_must_be_recorded(tower) -> None:
    net, adapter, images = tower
    with adapter.pruned(Plan.vision(RandomDrop(), [1], schedule=Schedule(drop=0.5))) as run:
        net(images)
    with pytest.raises(SaintpruneError, match="recorded=True"):
        survivors(run.events, 0, torch.arange(16), prefix=1)
    assert survivors(run.events, 0, torch.arange(16), site="language") == {}


def test_keys_are_those_of_the_network(tower) -> None:
    net, adapter, images = tower
    seen = []
    handle = net.blocks[2].attn.qkv.register_forward_hook(lambda _, args, output: seen.append(output))
    net(images)
    handle.remove()
    heads = net.blocks[2].attn.num_heads
    width = seen[0].shape[-1] // 3
    expected = seen[0][..., width : 2 * width].unflatten(-1, (heads, -1)).mean(-2)[:, 1:]
    found = keys_at(adapter, images, [0, 2])
    assert list(found) == [0, 2]
    torch.testing.assert_close(found[2], expected)


def test_pictures(tower, tmp_path) -> None:
    net, adapter, images = tower
    keys = {layer: found[0] for layer, found in keys_at(adapter, images, range(4)).items()}
    assert_drawn(similarity_figure(images[0], keys, (4, 4), tmp_path / "alike.png", **GREY), tmp_path)
    with adapter.pruned(Plan.vision(RandomDrop(), "all", schedule=Schedule(drop=0.5)), recorded=True) as run:
        net(images)
    left = [survivors(run.events, sample, torch.arange(16), prefix=1) for sample in range(3)]
    assert_drawn(survivors_figure(images, left, (4, 4), tmp_path / "left.png", **GREY), tmp_path)
    rows = [left[0], {1: left[0][1]}, {}]  # pruned at different layers, or not at all
    path = survivors_figure(images[[0, 0, 0]], rows, (4, 4), tmp_path / "rows.png", **GREY, labels=["a", "b", "c"])
    assert_drawn(path, tmp_path)
    assert torch.equal(left_after(3, rows[1], 16), left[0][1]) and len(left_after(0, rows[1], 16)) == 16
    with pytest.raises(SaintpruneError, match="no layer was pruned"):
        survivors_figure(images, [{}, {}, {}], (4, 4), tmp_path / "none.png", **GREY)


def test_parts_of_pictures() -> None:
    whole = picture(torch.zeros(3, 4, 6), (0.5, 0.4, 0.3), (1, 1, 1))
    assert whole.shape == (4, 6, 3)
    torch.testing.assert_close(whole[0, 0], torch.tensor([0.5, 0.4, 0.3]))
    seen = faded(torch.zeros(4, 4, 3), torch.tensor([1, 2]), (2, 2))
    assert seen[:2, 2:].max() == 0 and seen[2:, :2].max() == 0
    assert seen[:2, :2].min() > 0.8 and seen[2:, 2:].min() > 0.8
    assert thinned(range(12)) == [0, 2, 4, 6, 7, 9, 11] and thinned([3, 5]) == [3, 5]
    keys = torch.tensor([[1.0, 1], [1, 3], [1, 5]])
    assert cosines(keys, False).diagonal().allclose(torch.ones(3, dtype=torch.float64))
    assert cosines(keys, True)[0].tolist() == pytest.approx([1, 0, -1])


# --- the page -----------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Checks that tags are closed in order, and collects what is referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.names, self.targets = [], [], []

    def handle_starttag(self, tag, attrs) -> None:
        """Note a tag."""
        self.names.append(tag)
        self.targets += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        """It must close the innermost one."""
        assert self.open.pop() == tag


def test_the_page_stands_alone(curves, verdict, tmp_path) -> None:
    figure = curves_figure(curves, tmp_path / "curves.png", verdict)
    refused = replace(verdict, part="language", three_stages=False, reason="no three stages: a < b & c")
    path = write_page(
        tmp_path / "page" / "index.html",
        "Tokens of vit_s14 <tiny>",
        [Section(curves, verdict, refused, [(figure, 'Curves with "stages"')]), Section(curves, refused)],
        figures=[(figure, "Again")],
        provenance={"model": "vit_s14", "versions": {"torch": "2"}, "images": [8, 9], "path": "a&b"},
    )
    text = path.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    assert all(target.startswith("data:image/") for target in tags.targets) and len(tags.targets) == 2
    assert not {"script", "link", "iframe", "object"} & set(tags.names)
    assert not re.search(r"url\(|@import|https?:", text)
    for part in (
        "<title>Tokens of vit_s14 &lt;tiny&gt;</title>",
        "a &lt; b &amp; c",
        "versions",
        "torch: 2",
        "a&amp;b",
    ):
        assert part in text
    assert text.count("no three stages</strong>") == 1 and text.count(">three stages</strong>") == 1
    assert text.count("<tr>") > 2 * len(curves.values)


def test_a_large_drawing_goes_in_as_pixels(curves, verdict, tmp_path, monkeypatch) -> None:
    figure = curves_figure(curves, tmp_path / "curves.png", verdict)
    monkeypatch.setattr("saintprune.analysis.figures.page.MOST_SVG", 10)
    page = write_page(tmp_path / "p.html", "T", [], figures=[(figure, "c")]).read_text(encoding="utf-8")
    assert "data:image/png;base64," in page


def test_a_page_without_anything_to_cut(tmp_path) -> None:
    short = Curves("vision", 4, {"key_cosine": torch.rand(3, 4).double()})
    page = write_page(tmp_path / "p.html", "T", [Section(short, find_stages(short))]).read_text(encoding="utf-8")
    assert "4 layers are too few to be cut" in page and "The tests" not in page


def test_a_condition_that_fails_by_its_score_is_no_untested_one(tmp_path) -> None:
    drifting = without_stages("linear", 12, 0, images=8)
    verdict = find_stages(drifting, draws=19)
    assert verdict.scores["smooth"] < verdict.scores["3"]
    page = write_page(tmp_path / "p.html", "T", [Section(drifting, verdict)]).read_text(encoding="utf-8")
    assert "no, by their scores" in page
