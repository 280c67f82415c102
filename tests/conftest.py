"""Settings that must hold before any test module imports OpenFHE or matplotlib."""

from __future__ import annotations

import os

# OpenMP reads these once, at import. Spinning threads beside other processes cost threefold (docs/parameters.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
from hypothesis import settings

# Ciphertext operations take too long for a deadline per example; a fixed seed keeps CI's verdict the commit's own.
settings.register_profile("hetal", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("hetal")


@pytest.fixture(scope="session", autouse=True)
def journal_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests send is no business of the user's own journal."""
    os.environ["HETAL_JOURNAL_DIR"] = str(tmp_path_factory.mktemp("journal"))
