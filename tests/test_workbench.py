"""Names become objects in a Python session, and what does not fit is one clear line."""

import pytest
import torch

from saintprune import SaintpruneError
from saintprune.reduction.tome import ToMe
from saintprune.workbench import (
    drop_at_each_block,
    open_run,
    outputs,
    show_images,
    study_run,
    training_images,
    with_pruning,
)

RANDOM = ("model=deit_s16", "model.pretrained=false", "model.head=none", "dataset=synthetic", "dataset.size=4")
QUICK = ("hardware=cpu", "hardware.batch_size=2", "hardware.num_workers=0")
HALF = "pruning.stages.vision.schedule={_target_: saintprune.plan.Schedule, drop: 0.5}"


@pytest.fixture(scope="module")
def run():
    """A network with random weights, and noise."""
    return open_run(*RANDOM, *QUICK, "pruning=random")


def test_a_run_is_ready_to_use(run) -> None:
    images = next(iter(run.data.test_dataloader()))[0]
    with torch.inference_mode(), run.adapter.pruned(run.plan) as pruned:
        run.adapter.net(images)
    assert (len(images), pruned.tokens_per_layer[-1]) == (2, 99)
    assert run.cfg.task.value == "analyze" and run.names == {"dataset": "synthetic", "pruning": "random"}
    assert "hydra" not in run.cfg


def test_outputs_of_training_images(run) -> None:
    batches = training_images(run, 3)
    assert [images.shape for images in batches] == [(2, 3, 224, 224)] and len(training_images(run, 1)) == 1
    plain, pruned = outputs(run, batches), outputs(run, batches, run.plan)
    assert torch.equal(plain, run.adapter.net(batches[0])) and plain.dtype == torch.float32
    assert plain.shape == pruned.shape and not torch.equal(plain, pruned)


def test_another_pruning_shares_the_model(run) -> None:
    other = with_pruning(run, "tome", HALF)
    assert other.model is run.model and other.data is run.data
    stage = other.plan.stages["vision"]
    assert isinstance(stage.method, ToMe) and stage.schedule.drop == 0.5
    assert other.names["pruning"].startswith("tome schedule=") and run.names["pruning"] == "random"


def test_the_first_images_and_what_is_left_of_them(run) -> None:
    shown = show_images(run, pictures=1)
    assert (len(shown.images), shown.grid, shown.plan_name) == (1, (14, 14), "random")
    assert len(shown.left["vision"][0][5]) == 98


def test_a_share_is_dropped_at_chosen_blocks(run) -> None:
    rows = drop_at_each_block(run, layers=[3], sensitivity=2)
    assert [(row.method, row.layer, row.samples) for row in rows] == [
        ("random", 3, 2),
        ("saint", 3, 2),
        ("tome", 3, 2),
    ]


def test_a_study_traces_and_judges(run) -> None:
    (part,) = study_run(run, samples=2, twins=0, draws=19)
    assert (part.curves.images, part.curves.layers, part.twins) == (2, 12, {})
    assert not part.verdict.three_stages


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda run: open_run("model=vit_s"), "cannot compose .*model/vit_s"),
        (lambda run: open_run("modle=vit_s14"), "cannot compose .*modle"),
        (lambda run: with_pruning(run, "tomee"), "cannot compose .*pruning/tomee"),
        (
            lambda run: with_pruning(run, "tome", "seed=1"),
            "'seed=1' changes more than the pruning: give it to open_run",
        ),
        (
            lambda run: with_pruning(run, "tome", "pruning.stages.vision.layers=[40]"),
            "40, but the network has 12 blocks",
        ),
        (lambda run: study_run(run, sample=2), r"no 'sample' \(did you mean 'samples'\?\); it takes samples, split"),
        (lambda run: study_run(run, samples=0), "analysis: samples is 0, but must be at least 1"),
        (lambda run: show_images(run, pictures=0), "pictures is 0"),
        (lambda run: drop_at_each_block(run, layers=[99], sensitivity=1), "99"),
    ],
)
def test_what_does_not_fit_is_one_line(run, call, says) -> None:
    with pytest.raises(SaintpruneError, match=says) as error:
        call(run)
    assert "\n" not in str(error.value)
