"""Modules of a user's own, named in `imports`: those in the working folder can be imported too."""

from __future__ import annotations

import sys
from pathlib import Path


def importable_from(folder: Path | str) -> None:
    """Let this process import modules of a folder, after everything that is installed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
