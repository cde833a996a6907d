"""What MkDocs asks for while it builds the site (`make docs`): README and CONTRIBUTING as the source of pages, the
notebooks, the tables of stages and methods, and links that lead to pages.

In a page `<!-- include: README.md # Your images -->` stands for the body of that section; ` !` before the arrow leaves
out its subsections. `<!-- stages -->` stands for all files in `conf/stage/`, `<!-- methods -->` for the modules that
they name.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

import yaml
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}
PAGES |= {
    f"notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
STAGES = sorted((ROOT / "conf" / "stage").glob("*.yaml"))
METHOD = """::: {}
    options:
      show_root_heading: false
      show_root_toc_entry: false
      filters: ["!^_", "!^select$", "!^(reads|merges|decides)$"]
"""
LINK = re.compile(r"(!?)\[([^\]]+)\]\((?![a-z]+:|#)([^)\s]+)\)")


@event_priority(100)
def on_files(files: Files, config: Any) -> Files:
    """Add the pages whose sources lie outside docs/."""
    for source, page in PAGES.items():
        if source.endswith(".ipynb"):
            files.append(File.generated(config, page, content=as_markdown(ROOT / source)))
        elif page != "index.md":
            text = (ROOT / source).read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=linked(text, "", page)))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Fill in what a page includes, and let its links lead to pages."""
    name = page.file.src_uri
    if page.file.generated_by is None:
        markdown = linked(markdown, posixpath.dirname(f"docs/{name}"), name)
    if "<!-- stages -->" in markdown or "<!-- methods -->" in markdown:
        markdown = markdown.replace("<!-- stages -->", stages()).replace("<!-- methods -->", methods())
    return re.sub(
        r"<!-- include: (\S+) # (.+?)( !)? -->",
        lambda found: linked(section(ROOT / found[1], found[2], alone=bool(found[3])), "", name),
        markdown,
    )


def section(path: Path, heading: str, alone: bool = False) -> str:
    """Return the body of a section of a Markdown file; `alone` leaves out its subsections.

    Raises:
        ValueError: the file has no such heading.
    """
    text = path.read_text(encoding="utf-8")
    hidden = FENCE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)  # a comment in code is no heading
    found = re.search(rf"^(#+) {re.escape(heading)}$", hidden, re.MULTILINE)
    if found is None:
        raise ValueError(f"{path.name} has no heading {heading!r}, which a page of the documentation includes")
    deepest = 6 if alone else len(found[1])
    end = re.compile(rf"^#{{1,{deepest}}} ", re.MULTILINE).search(hidden, found.end())
    return text[found.end() : end.start() if end else None].strip()


def linked(markdown: str, folder: str, page: str) -> str:
    """Let links lead to pages of the site; what is no page of it becomes plain text.

    Args:
        markdown: with links as they lead to files from `folder`.
        folder: path in the repository.
        page: where the text goes, a path in the site.
    """

    def target(found: re.Match[str]) -> str:
        path, hash_, anchor = found[3].partition("#")
        place = posixpath.normpath(posixpath.join(folder, path))
        file = PAGES.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") else "")
        if not file or not ((ROOT / place).is_file()):
            return found[2]
        return f"{found[1]}[{found[2]}]({posixpath.relpath(file, posixpath.dirname(page) or '.')}{hash_}{anchor})"

    return LINK.sub(target, markdown)


def as_markdown(path: Path) -> str:
    """Return a notebook, which is kept without outputs, as a page."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"] == "code") for cell in cells]
    title, *rest = [f"```python\n{text}\n```" if is_code else text for text, is_code in texts]
    note = f'!!! note "This is `notebooks/{path.name}`, without its outputs: open it in Jupyter to run it."'
    return "\n\n".join([title, note, *rest])


def stages() -> str:
    """Return a table of the files in conf/stage/, and the files themselves, which say what each value means."""
    rows = ["| stage | where | blocks | method |", "|---|---|---|---|"]
    files = []
    for path in STAGES:
        text = path.read_text(encoding="utf-8").strip()
        stage = yaml.safe_load(text)
        target = stage["method"]["_target_"]
        rows.append(
            f"| `{path.stem}` | {stage['site']} | {stage['layers']} | [`{target.rpartition('.')[2]}`][{target}] |"
        )
        body = "\n".join(f"    {line}" for line in ["```yaml", *text.splitlines(), "```"])
        files.append(f'??? abstract "`conf/stage/{path.name}`"\n{body}')
    return "\n".join(rows) + "\n\n" + "\n\n".join(files)


def methods() -> str:
    """Return what mkdocstrings puts the methods' docstrings in place of, SAINT first."""
    targets = [yaml.safe_load(path.read_text(encoding="utf-8"))["method"]["_target_"] for path in STAGES]
    modules = sorted(
        {target.rpartition(".")[0] for target in targets}, key=lambda name: (not name.endswith(".saint"), name)
    )
    return "\n".join(METHOD.format(module) for module in modules)
