"""What README shows is run, and its tables are those of the records."""

import re
import subprocess
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig

import vlm_families

ROOT = Path(__file__).parents[1]


CODE = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_one_call_runs():
    found: dict = {}
    torch.manual_seed(0)
    exec(CODE[0].replace("vit_small", "vit_tiny"), found)  # the same, and sooner
    assert found["logits"].shape == (2, 1000)
    assert found["pruned"].calibrated.measured.flops <= 0.7
    assert "forward" not in found["net"].blocks[0].__dict__


def test_the_three_lines_run():
    found: dict = {}
    torch.manual_seed(0)
    exec(CODE[1], found)
    assert found["logits"].shape == (2, 1000)
    assert found["run"].tokens_per_layer[-1] == 99
    assert "forward" not in found["net"].blocks[0].__dict__


def test_the_lines_for_a_vision_language_model_run():
    model = vlm_families.build("llava", text_config=LlamaConfig(**vlm_families.text(num_hidden_layers=18)))
    found: dict = {"model": model, "inputs": vlm_families.inputs("llava", model, (1,), (0,))}
    assert len(CODE) == 3, "a block of code that no test runs"
    exec(CODE[2], found)
    assert len(found["run"].visual_tokens_per_layer) == 18 and len(found["run"].events) == 10
    assert "forward" not in model.model.__dict__


def test_the_tables_come_from_records():
    command = [sys.executable, str(ROOT / "scripts" / "results_table.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
