"""The documentation site builds without a warning and without a network, and says what README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from docs_hooks import PAGES, linked, section  # noqa: E402


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of the site; anything that MkDocs, mkdocstrings or griffe warns of is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr
    return folder


def words(page: Path) -> str:
    """Return a page's text."""
    return re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))


def test_every_page_has_its_source_in_it(site):
    assert "Your model, untouched." in words(site / "index.html")
    assert "TimmViT(net).pruned(plan)" in words(site / "guide" / "python.html")
    assert "LargestKeys" in words(site / "guide" / "methods.html")
    assert "This is notebooks/03_compare_models.ipynb" in words(site / "notebooks" / "03_compare_models.html")
    for page in site.rglob("*.html"):
        assert "<!-- include" not in page.read_text(encoding="utf-8"), page
    stages = {path.stem for path in (ROOT / "conf" / "stage").glob("*.yaml")}
    assert all(name in words(site / "methods.html") for name in stages)
    assert "PiToMe" in words(site / "api" / "methods.html")


def test_what_is_exported_is_in_the_reference(site):
    import saintprune

    anchors = "".join(page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html"))
    for name in saintprune.__all__:
        home = next(module for module, names in saintprune._HOMES.items() if name in names)
        assert f'id="{home}.{name}"' in anchors, f"{name} is exported, but no page of the API has it"


def test_nothing_is_fetched_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(?:script|img|iframe)[^>]*\ssrc=\"(?:https?:)?//", text), page
        assert not re.search(r"<link[^>]*rel=\"(?:stylesheet|preconnect)\"[^>]*href=\"(?:https?:)?//", text), page


def test_each_page_is_in_the_navigation():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = set(re.findall(r"[\w/.-]+\.md", yaml.safe_dump(nav)))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert listed == pages | set(PAGES.values())


def test_a_section_ends_where_the_next_one_begins(tmp_path):
    file = tmp_path / "a.md"
    file.write_text("# A\nintro\n## B\none\n```\n# no heading\n```\n### C\ntwo\n## D\nthree\n")
    assert section(file, "B") == "one\n```\n# no heading\n```\n### C\ntwo"
    assert section(file, "B", alone=True) == "one\n```\n# no heading\n```"
    assert section(file, "A", alone=True) == "intro" and section(file, "D") == "three"
    with pytest.raises(ValueError, match="no heading 'E'"):
        section(file, "E")


@pytest.mark.parametrize(
    ("link", "folder", "page", "expected"),
    [
        ("[log](docs/log.md)", "", "index.md", "[log](log.md)"),
        ("[log](docs/log.md#x)", "", "guide/python.md", "[log](../log.md#x)"),
        ("![curves](figures/vit_s14-curves.png)", "docs", "findings.md", "![curves](figures/vit_s14-curves.png)"),
        ("[how](CONTRIBUTING.md)", "", "guide/python.md", "[how](../contributing.md)"),
        (
            "[one](notebooks/01_token_evolution.ipynb)", "", "guide/python.md",
            "[one](../notebooks/01_token_evolution.md)",
        ),
        ("[cite](CITATION.cff), [all](docs/decisions)", "", "index.md", "cite, all"),
        ("[paper](https://arxiv.org/abs/1)", "", "index.md", "[paper](https://arxiv.org/abs/1)"),
    ],
)  # fmt: skip
def test_links_lead_to_pages_or_are_text(link, folder, page, expected):
    assert linked(link, folder, page) == expected
