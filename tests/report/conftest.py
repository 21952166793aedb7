import pytest

from report.sweeps import Sweep


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    return Sweep(tmp_path / "sweep")
