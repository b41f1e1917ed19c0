"""What tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images, which are not part of the repository: $MSRIM_DATA or ../shared/data beside it."""
    folder = Path(os.environ.get("MSRIM_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set MSRIM_DATA")
    return folder
