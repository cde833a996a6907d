"""What several test folders share."""

import sys
from pathlib import Path

# tests are imported by path (import-mode=importlib); this lets them share the modules named here
sys.path.insert(0, str(Path(__file__).parent))
