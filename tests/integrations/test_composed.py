"""Names of YAML files and overrides become a config, and what does not fit becomes one clear line."""

import pytest
import torch

from saintprune.errors import SaintpruneError
from saintprune.integrations.composed import compose_config, load, split_overrides
from saintprune.reduction.baselines import KeepAll


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("hardware=cpu", ["hardware=cpu"]),
        (" hardware=cpu ; model.adapter.cache=trim; ", ["hardware=cpu", "model.adapter.cache=trim"]),
        ('"seed=1;~model.head"', ["seed=1", "~model.head"]),
        ("pruning.stages.vision.layers=[0,1]", ["pruning.stages.vision.layers=[0,1]"]),
    ],
)
def test_overrides_stand_between_semicolons(text, expected) -> None:
    assert split_overrides(text) == expected


def test_an_override_without_a_value_is_one_clear_line() -> None:
    with pytest.raises(SaintpruneError, match=r"^overrides has 'cpu', but must be key=value"):
        split_overrides("hardware=cpu;cpu")


def test_a_config_is_what_the_command_line_composes() -> None:
    cfg = compose_config("vit_s14", "tome", ["seed=3", "hardware=cpu"])
    assert (cfg.model.name, cfg.seed, cfg.hardware.name) == ("vit_s14", 3, "cpu")
    assert "tome" in cfg.pruning.stages.vision.method._target_


@pytest.mark.parametrize(
    ("model", "pruning", "override", "says"),
    [
        ("vit_x", "tome", "seed=1", "model/vit_x"),
        ("vit_s14", "saints", "seed=1", "pruning/saints"),
        ("vit_s14", "tome", "sede=1", "sede"),
        ("vit_s14", "tome", "seed=[", "seed="),
    ],
)
def test_what_hydra_refuses_is_one_line(model, pruning, override, says) -> None:
    with pytest.raises(SaintpruneError) as error:
        compose_config(model, pruning, [override])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_that_takes_no_questions_is_refused() -> None:
    cfg = compose_config("deit_s16", "none", ["hardware=cpu", "model.pretrained=false", "model.head=none"])
    with pytest.raises(SaintpruneError, match="model=deit_s16 only looks at images"):
        load(cfg)


def tiny(pruning, *overrides):
    """Load the packaged model's config around a tiny random network."""
    settings = ["~model.net", "+model.net={_target_:tiny_vlm.load}", "hardware=cpu", *overrides]
    return load(compose_config("vlm_s14_smollm2", pruning, settings))


def test_a_model_with_its_plan() -> None:
    vlm = tiny("drop75/random_hybrid", "pruning.stages.language.layers=[1,2]", "model.adapter.cache=trim")
    assert {stage.site for stage in vlm.plan.stages.values()} == {"vision", "language"}
    assert (vlm.adapter.net, vlm.adapter.decoder.trims) == (vlm.model.net, True)
    assert (vlm.device, vlm.dtype) == (torch.device("cpu"), torch.float32)


def test_pruning_none_prunes_nothing() -> None:
    assert {type(stage.method) for stage in tiny("none").plan.stages.values()} == {KeepAll}


@pytest.mark.parametrize(
    ("pruning", "override", "says"),
    [
        ("saint_language", "seed=1", "stages.language.layers is '7:17', but the network has 4 blocks"),
        ("none", "hardware.compile=true", "hardware.compile=true is for timm networks, not for Llava"),
        ("none", "model.adapter.cache=drop", "cache is 'drop', but must be 'keep' or 'trim'"),
    ],
)
def test_what_does_not_fit_the_model_is_one_line(pruning, override, says) -> None:
    with pytest.raises(SaintpruneError) as error:
        tiny(pruning, override)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_random_weights_cannot_be_asked() -> None:
    overrides = ["hardware=cpu", "model.pretrained=false", "model.sample_layers=1"]
    with pytest.raises(SaintpruneError, match="has no processor, so it cannot be asked questions"):
        load(compose_config("vlm_s14_smollm2", "none", overrides))
