"""The notebooks run from top to bottom on a few samples, hold no code of their own, and are kept without outputs."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CODE_LINES, DEFINITION_LINES = 15, 5
SAMPLES = "2"


def read(path: Path) -> nbformat.NotebookNode:
    """Return a notebook as it is stored."""
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the sources of its cells of code."""
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks() -> None:
    names = ["01_token_evolution", "02_see_what_is_dropped", "03_compare_models"]
    assert [path.stem for path in NOTEBOOKS] == names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_kept_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert not cell.metadata, "metadata of a tool: clear them"
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, "clear the outputs before you commit"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_only_calls_what_the_package_holds(path: Path) -> None:
    for source in code(read(path)):
        assert len([line for line in source.splitlines() if line.strip()]) <= CODE_LINES, source
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
                assert (node.end_lineno or 0) - node.lineno < DEFINITION_LINES, source


def execute(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> nbformat.NotebookNode:
    """Run a notebook in a kernel of this Python, in a folder; return it with its outputs.

    What a kernel writes on stderr, warnings among it, is an error here.
    """
    for name, value in {
        "SAINTPRUNE_SAMPLES": SAMPLES,
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(tmp_path),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_PLATFORM_DIRS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"), prepend=":" if sys.platform != "win32" else ";")
    notebook = read(path)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            assert output.get("name") != "stderr", f"{cell.source}\n\n{output.text}"
    return notebook


def pictures(notebook: nbformat.NotebookNode) -> int:
    """Return how many pictures the notebook shows."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def text(notebook: nbformat.NotebookNode) -> str:
    """Return what the notebook prints, and the tables that it shows."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/markdown", "") for output in outputs)


def test_token_evolution_runs(monkeypatch, tmp_path) -> None:
    found = execute(NOTEBOOKS[0], ROOT / "notebooks", monkeypatch, tmp_path)
    assert pictures(found) == 3
    assert "three stages: " in text(found) and "model: vit_s14" in text(found) and "blocks: (" in text(found)


def test_see_what_is_dropped_runs(monkeypatch, tmp_path) -> None:
    found = execute(NOTEBOOKS[1], ROOT, monkeypatch, tmp_path)
    assert pictures(found) == int(SAMPLES) + 2
    assert {"random:", "saint:", "tome:"} <= set(text(found).split())


@pytest.mark.slow
def test_compare_models_runs(monkeypatch, tmp_path) -> None:
    found = execute(NOTEBOOKS[2], ROOT, monkeypatch, tmp_path)
    assert pictures(found) == 3
    assert text(found).count("\n| ViT-S/14") == text(found).count("\n| SmolLM2-135M") == 3


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_the_others_run_from_their_folder_too(path: Path, monkeypatch, tmp_path) -> None:
    execute(path, path.parent, monkeypatch, tmp_path)
