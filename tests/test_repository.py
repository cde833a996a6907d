"""The repository keeps its own promises: import contracts, versions that agree, links that lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def repository_files() -> list[Path]:
    """Return what git holds or would add; in an unpacked archive, what is not hidden or made by a tool."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode == 0:
        found = [ROOT / name for name in listing.stdout.split("\0") if name]
    else:
        made = {"__pycache__", "build", "dist", "outputs", "multirun", "wandb"}
        found = [
            path
            for path in ROOT.rglob("*")
            if not any(
                part in made or (part.startswith(".") and part != ".ci") for part in path.relative_to(ROOT).parts[:-1]
            )
        ]
    return sorted(path for path in found if path.is_file())


def text_of(path: Path) -> str | None:
    """Return a file's text, or None where it is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


# --- imports ------------------------------------------------------------------------------------------------


def test_import_contracts_are_kept() -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as main; main()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("package", "allowed"),
    [("saintprune.reduction", {"torch", "saintprune.kernels"}), ("saintprune.kernels", {"torch", "triton"})],
)
def test_pure_maths_imports_torch_and_nothing_else(package: str, allowed: set[str]) -> None:
    graph = grimp.build_graph("saintprune", include_external_packages=True, cache_dir=None)
    inside = {name for name in graph.modules if (name + ".").startswith(f"{package}.")}
    assert inside, f"{package} has gone"
    imported = set().union(*(graph.find_modules_directly_imported_by(name) for name in inside)) - inside
    assert {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names} == allowed


@pytest.mark.parametrize("module", ["saintprune", "saintprune.config", "saintprune.cli"])
def test_import_is_light(module: str) -> None:
    heavy = {"torch", "timm", "lightning", "transformers"}
    code = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


# --- the repository speaks for itself -----------------------------------------------------------------------

FOREIGN = {
    "a path on somebody's machine": re.compile(r"(?<![\w./-])/(?:root|home|work|workspace|Users)/"),
    "a folder that is not part of this repository": re.compile(r"(?<![\w-])(?:shared|private|scratch)/\w"),
    "an index of packages": re.compile(r"(?:pypi|pythonhosted)\.org|--(?:(?:extra-)?index-url|find-links)|file:/{2}"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_no_file_mentions(what: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:160]}"
        for path in repository_files()
        for number, line in enumerate((text_of(path) or "").splitlines(), start=1)
        if FOREIGN[what].search(line)
    ]
    assert not found, f"{what}:\n" + "\n".join(found)


def test_no_relative_path_leaves_the_repository() -> None:
    found = []
    for path in repository_files():
        for match in re.finditer(r"(?<![\w.*/])(?:\.\./)+[\w.-]*", text_of(path) or ""):
            # a path is meant from the file's folder or from the root of the repository
            if not any((base / match[0]).resolve().is_relative_to(ROOT) for base in (path.parent, ROOT)):
                found.append(f"{path.relative_to(ROOT)}: {match[0]}")
    assert not found, "\n".join(found)


def test_links_in_the_documentation_lead_to_files() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    pages += [path for path in (ROOT / "CONTRIBUTING.md",) if path.exists()]
    broken = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)
        text = re.sub(r"`[^`\n]*`", "", text)
        targets = re.findall(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", text)
        targets += re.findall(r"^\[[^\]]+\]:\s+<?([^\s>]+)", text, flags=re.MULTILINE)
        targets += re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
        for target in targets:
            file = target.split("#")[0]
            if file and not re.match(r"[a-z][a-z0-9+.-]*:", file) and not (page.parent / file).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert not broken, "\n".join(broken)


# --- versions -----------------------------------------------------------------------------------------------


def declared() -> list[Requirement]:
    """Return every requirement in pyproject.toml; left out are the build's, the project's own extras, and `lmms` and
    `ray`, which live in environments of their own, with pins of their own.
    """
    extras = [lines for name, lines in PROJECT["optional-dependencies"].items() if name not in ("lmms", "ray")]
    lines = PROJECT["dependencies"] + [line for extra in extras for line in extra]
    return [item for item in map(Requirement, lines) if item.name != PROJECT["name"]]


def pins() -> dict[str, str]:
    """Return name -> version from requirements/constraints.txt; every line there is an exact pin."""
    found: dict[str, str] = {}
    for line in (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line := line.split("#")[0].strip():
            name, version = re.fullmatch(r"([\w.-]+)==([^\s;*]+)", line).groups()  # type: ignore[union-attr]
            assert canonicalize_name(name) not in found, f"{name} is pinned twice"
            found[canonicalize_name(name)] = version
    return found


@pytest.mark.parametrize("requirement", declared(), ids=lambda item: item.name)
def test_constraints_pin_every_dependency_within_its_range(requirement: Requirement) -> None:
    pinned = pins().get(canonicalize_name(requirement.name))
    assert pinned is not None, f"requirements/constraints.txt has no pin for {requirement.name}"
    assert requirement.specifier.contains(pinned), f"{requirement} does not admit {pinned}"


def test_conda_environment_lists_no_dependency_of_its_own() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["name"]
    *conda, pip = environment["dependencies"]
    assert [item.split("=")[0] for item in conda] == ["python", "pip"]
    assert conda[0].split("=")[1] in SpecifierSet(PROJECT["requires-python"])
    assert pip == {"pip": ["-c requirements/constraints.txt", "-e .[dev]"]}


def test_one_version_everywhere() -> None:
    version = PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == version
    assert citation["license"] == PROJECT["license"]
    assert f'__version__ = "{version}"' in (ROOT / "src/saintprune/__init__.py").read_text(encoding="utf-8")
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_makefile_admits_the_pythons_of_the_project() -> None:
    check = r"\(3, (\d+)\) <= sys\.version_info\[:2\] <= \(3, (\d+)\)"
    found = re.search(check, (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert found, "the Makefile no longer checks Python's version"
    low, high = int(found[1]), int(found[2])
    admitted = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(30) if f"3.{minor}" in admitted] == [
        f"3.{minor}" for minor in range(low, high + 1)
    ]
