"""What tests of training, and of the toy in the folder below, share: `tiny.py`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
