"""The names that users import, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys

import hetal.client


def test_names_are_these_and_all_exist() -> None:
    names = "Client Dataset History Journal KeySet Model Progress SoftmaxSpec Tls TrainedJob load"
    assert hetal.client.__all__ == names.split()
    assert all(hasattr(hetal.client, name) for name in hetal.client.__all__)


def test_the_server_front_does_not_load_openfhe() -> None:
    code = "import sys, hetal, hetal.protocol.wire, hetal.server.app; sys.exit('openfhe' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
