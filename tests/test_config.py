"""What runs write for later runs is found, in a checkout and where the package is installed."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.version import VersionBase

from saintprune import config
from saintprune.config import compose_run, config_dir, config_file, names_in, own_config_dir, refuse_overrides
from saintprune.errors import SaintpruneError

ROOT = Path(__file__).parents[1]
PRUNING = "_target_: saintprune.plan.Plan\nstages: {{}}\ncalibrated: {{model: {model}}}\n"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Let the runs' own configs lie in a folder apart, as in an installed package; return it."""
    folder = tmp_path / "saintprune_conf"
    monkeypatch.setattr(config, "own_config_dir", lambda: folder)
    return folder


def test_a_program_with_hydra_of_its_own_goes_on(tmp_path):
    (tmp_path / "theirs.yaml").write_text("answer: 42\n")
    with initialize_config_dir(str(tmp_path), version_base="1.2"):
        base = VersionBase.instance().getbase()
        assert compose_run(["pruning=tome"])[1]["pruning"] == "tome"
        assert compose("theirs").answer == 42 and VersionBase.instance().getbase() == base


def test_in_a_checkout_all_is_in_conf():
    assert own_config_dir() == config_dir() == ROOT / "conf"
    assert config_file("stages/vit_s14.yaml").is_file()


def test_an_installed_package_writes_where_it_runs(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "saintprune"
    (package / "conf").mkdir(parents=True)
    monkeypatch.setattr(config, "__file__", str(package / "config.py"))
    monkeypatch.chdir(tmp_path)
    assert config_dir() == package / "conf" and own_config_dir() == tmp_path / "saintprune_conf"


def test_what_was_written_is_composed_before_what_is_packaged(installed):
    assert "own/fast" not in names_in("pruning")
    compose_run(["pruning=tome"])  # no folder, and no warning of one
    for name, model in {"own/fast": "mine", "vit_s14/saint_speedup2": "mine too"}.items():
        path = installed / "pruning" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(PRUNING.format(model=model))
        assert compose_run([f"pruning={name}"])[0].pruning.calibrated.model == model
    assert {"own/fast", "tome"} <= set(names_in("pruning"))
    assert config_file("pruning/own/fast.yaml") == installed / "pruning/own/fast.yaml"
    assert config_file("pruning/tome.yaml") == config_dir() / "pruning/tome.yaml"


@pytest.mark.parametrize(
    "word", ["pruning=glob(*)", "pruning=saint,tome", "pruning=vit_s14/saint_speedup2", "seed=range(3)"]
)
def test_what_hydra_can_choose_by_is_left_to_it(word):
    refuse_overrides([word])


@pytest.mark.parametrize("word", ["pruning=3", "pruning=null", "~model"])
def test_what_names_no_file_is_refused(word):
    with pytest.raises(SaintpruneError, match=re.escape(word.split("=")[0])):
        refuse_overrides([word])
