import subprocess
import sys

import pytest

from oboro.base.waiting import others_running, wait_without_spinning


@pytest.mark.parametrize(
    ("environment", "running", "chosen"),
    [({}, 4, True), ({}, 3, False), ({"GOMP_SPINCOUNT": "7"}, 9, False), ({"OMP_WAIT_POLICY": "active"}, 9, False)],
)
def test_threads_sleep_where_others_hold_all_processors_and_nobody_chose(environment, running, chosen):
    before = dict(environment)
    assert wait_without_spinning(environment, running, cores=4) == chosen
    assert environment == (before | {"GOMP_SPINCOUNT": "0"} if chosen else before)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_processes_that_compute_are_counted(tmp_path):
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        assert any(others_running() >= 3 for _ in range(100))  # once all of them have started
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert others_running(tmp_path / "none") == 0
    (tmp_path / "odd").write_text("so")
    assert others_running(tmp_path / "odd") == 0
