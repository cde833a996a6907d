"""What several test folders share."""

import sys
from pathlib import Path

import torch

# tests are imported by path (import-mode=importlib); this lets them share the modules named here
sys.path.insert(0, str(Path(__file__).parent))

# the networks of the tests are tiny: threads would only wait for each other
torch.set_num_threads(1)
