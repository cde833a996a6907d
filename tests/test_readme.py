"""What README shows is run, and its tables are those of the records."""

import re
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def test_the_three_lines_run():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    found: dict = {}
    torch.manual_seed(0)
    exec(code, found)
    assert found["logits"].shape == (2, 1000)
    assert found["run"].tokens_per_layer[-1] == 99
    assert "forward" not in found["net"].blocks[0].__dict__


def test_the_tables_come_from_records():
    command = [sys.executable, str(ROOT / "scripts" / "results_table.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
