"""Wheel and sdist hold what they should; slow: a wheel works in an environment of its own, outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
LEFT_OUT = {".ci/run", ".pre-commit-config.yaml", "outputs/.gitkeep"}  # of the sdist
SMALL = [
    "model=vit_s14", "model.pretrained=false", "model.net.img_size=56", "dataset=synthetic", "dataset.size=8",
    "hardware=cpu", "hardware.batch_size=4", "hardware.num_workers=0", "hardware.threads=1", "benchmark.pairs=5",
]  # fmt: skip


def build(folder: Path, source: Path = ROOT, *targets: str) -> None:
    """Build what is named, wheel and sdist by default, without a network."""
    options = [option for target in targets or ("wheel", "sdist") for option in ("-t", target)]
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder), *options]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """The folder with wheel and sdist."""
    folder = tmp_path_factory.mktemp("dist")
    build(folder)
    return folder


def names_in_wheel(folder: Path) -> set[str]:
    """Return the files in the one wheel of a folder."""
    (wheel,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def files_below(folder: Path) -> set[str]:
    """Return the files below a folder, without what Python makes."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if "__pycache__" not in path.parts}


def test_the_wheel_holds_the_package_and_the_configs_and_nothing_else(dist):
    code = {f"saintprune/{name}" for name in files_below(ROOT / "src" / "saintprune")}
    conf = {f"saintprune/conf/{name}" for name in files_below(ROOT / "conf")}
    found = names_in_wheel(dist)
    assert {name for name in found if ".dist-info/" not in name} == code | conf
    assert {"saintprune/py.typed", "saintprune/conf/config.yaml"} <= found
    assert any(name.endswith("licenses/LICENSE") for name in found)


def test_the_sdist_holds_what_git_holds(dist):
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("an unpacked archive, not a checkout")
    tracked = {name for name in listing.stdout.splitlines() if (ROOT / name).is_file()}
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked - found == LEFT_OUT


@pytest.mark.slow
def test_the_sdist_makes_the_same_wheel(dist, tmp_path):
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    build(tmp_path / "dist", next(tmp_path.glob("saintprune-*")), "wheel")
    assert names_in_wheel(tmp_path / "dist") == names_in_wheel(dist)


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory) -> Path:
    """The `bin` of a new environment that has the wheel; its dependencies are those of this environment."""
    home = tmp_path_factory.mktemp("elsewhere") / "env"
    venv.create(home, with_pip=False)
    (packages,) = home.glob("lib/python*/site-packages")
    # a path in a .pth file is searched for packages alone: the editable install that lies there has no say
    (packages / "dependencies.pth").write_text(str(Path(torch.__file__).parents[1]))
    (wheel,) = dist.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "-q"]
    subprocess.run([*pip, "--disable-pip-version-check", "--no-deps", "--no-index", str(wheel)], check=True)
    return home / "bin"


def run(command: list[str], folder: Path) -> str:
    """Run in a folder, without this checkout in the environment; return what was printed."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="bin/ is called Scripts there")
def test_the_wheel_works_outside_the_checkout(installed, tmp_path):
    told = "import saintprune; print(saintprune.__file__); from saintprune import prune; print(prune.__module__)"
    assert run([str(installed / "python"), "-c", told], tmp_path).startswith(str(installed.parent))
    before, command = files_below(installed.parent), [str(installed / "saintprune"), *SMALL]
    assert "pruning=" in run([command[0], "--help"], tmp_path)
    shown = run([*command, "pruning=tome"], tmp_path)
    assert "record: " in shown and len(list(tmp_path.glob("outputs/**/metrics.json"))) == 1
    target = ["task=calibrate", "pruning=tome", "calibration.target=flops:0.8", "calibration.samples=8"]
    assert "use it with: pruning=vit_s14/tome_flops0.8" in run([*command, *target], tmp_path)
    assert (tmp_path / "saintprune_conf/pruning/vit_s14/tome_flops0.8.yaml").is_file()
    run([*command, "task=benchmark", "pruning=vit_s14/tome_flops0.8"], tmp_path)
    assert files_below(installed.parent) == before, "a run wrote into the environment"
