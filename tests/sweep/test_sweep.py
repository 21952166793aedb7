"""A sweep goes on whatever becomes of its jobs, says so, and repeats what failed."""

import fcntl
import os
import signal

import pytest

pytestmark = pytest.mark.slow  # processes and whole runs

FATES = {
    "raise": ("failed", "ValueError: no such luck"),
    "exit": ("failed", "exit status 3"),
    "kill": ("killed by SIGKILL", None),
    "hold": ("timed out", "after 10 s"),
    "fine": ("done", None),
}


@pytest.fixture(scope="module")
def five(shared_place):
    """A job of each fate, two at once."""
    options = ["hydra.launcher.parallel=2", "hydra.launcher.timeout=10"]
    return shared_place.run("-m", f"act={','.join(FATES)}", "x=0.25", *options)


def is_locked(path) -> bool:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def wait_for_end(path) -> None:
    """Until whoever holds the lock is gone: a process that was killed takes a moment to end."""
    while is_locked(path):
        pass


def test_every_job_runs_and_its_fate_is_written_down(five):
    assert [(job["status"], job["reason"]) for job in five.jobs] == list(FATES.values())
    assert [job["number"] for job in five.jobs] == five.started == list(range(5))
    assert [job["overrides"] for job in five.jobs] == [[f"act={act}", "x=0.25"] for act in FATES]
    assert [job["varied"] for job in five.jobs] == [[f"act={act}"] for act in FATES]
    assert five.account["command"][:3] == ["tiny.py", "-m", f"act={','.join(FATES)}"]
    assert five.jobs[4]["values"] == {"loss": 0.0625, "other": 7.0} and five.jobs[0]["values"] == {}
    assert (five.folder / five.jobs[4]["path"] / "result.json").exists()


def test_the_table_has_a_row_a_job_and_the_last_line_a_remedy(five):
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in five.stdout.splitlines() if "act=" in line
    ]
    assert [row[:3] for row in rows] == [
        ["0", "act=raise", "failed"],
        ["1", "act=exit", "failed"],
        ["2", "act=kill", "killed by"],
        ["3", "act=hold", "timed out"],
        ["4", "act=fine", "done"],
    ]
    assert rows[4][3:5] == ["0.0625", "7"] and rows[0][3:5] == ["", ""]
    assert "0 failed: ValueError: no such luck\n1 failed: exit status 3\n" in five.stdout
    assert five.status == 1
    assert five.stderr.splitlines()[-1] == (
        "error: 4 of 5 jobs failed, job 0 first (failed: ValueError: no such luck); "
        "run them again with `python tiny.py rerun_failed=sweep`."
    )


def test_what_a_job_prints_is_in_its_folder_also_when_it_is_killed(five):
    for number, act in enumerate(FATES):
        assert f"act {act}\n" in (five.folder / str(number) / "output.log").read_text()


def test_the_children_of_a_job_that_timed_out_end_with_it(five):
    assert "holding" in (five.folder / "3" / "output.log").read_text()
    wait_for_end(five.folder / "3" / "held")


def test_failed_jobs_run_again_in_their_folders_and_finished_ones_do_not(shared_place, five):
    before = (five.folder / "4" / "seen.json").stat().st_mtime_ns
    shared_place.mend()
    again = shared_place.run("rerun_failed=sweep", "hydra.launcher.timeout=100")
    assert again.status == 0 and again.started == [0, 1, 2, 3] and again.statuses == ["done"] * 5
    assert [again.seen(str(n))["config"]["act"] for n in range(5)] == list(FATES)
    assert again.account["options"] == {"parallel": 2, "gpus_per_job": 0, "timeout": 100}
    assert (five.folder / "4" / "seen.json").stat().st_mtime_ns == before
    assert again.stdout.count("done") == 5 and "error" not in again.stderr
    assert (five.folder / "0.attempt1" / "output.log").exists() and not (five.folder / "0" / "held").exists()
    idle = shared_place.run("rerun_failed=sweep")
    assert idle.status == 0 and idle.started == [] and idle.stdout.count("done") == 5


def test_a_signal_ends_the_running_jobs_and_tells_what_is_known(place):
    sweep = place.start_and_hold("-m", "act=fine,hold,exit")
    sweep.send_signal(signal.SIGTERM)
    ended = place.finish(sweep)
    assert ended.status == 143 and ended.statuses == ["done", "stopped", "waiting"]
    wait_for_end(ended.folder / "1" / "held")
    assert [line.split("│")[3].strip() for line in ended.stdout.splitlines() if "act=" in line] == ended.statuses
    assert ended.stderr.splitlines()[-1].startswith("error: the sweep was stopped with 1 of 3 jobs done;")
    place.mend()
    rest = place.run("rerun_failed=sweep")
    assert rest.status == 0 and rest.started == [1, 2]


def test_a_killed_sweep_leaves_a_true_account_and_no_second_one_beside_its_orphans(place):
    sweep = place.start_and_hold("-m", "act=fine,hold,exit")
    sweep.kill()
    assert place.finish(sweep).statuses == ["done", "running", "waiting"]
    for attempt in (["rerun_failed=sweep"], ["-m", "x=1,2"]):
        refused = place.run(*attempt)
        assert refused.status == 1 and "still running" in refused.stderr and refused.started == []
    os.killpg(int((place.folder / "sweep" / "1" / "held").read_text()), signal.SIGKILL)
    wait_for_end(place.folder / "sweep" / ".lock")
    place.mend()
    rest = place.run("rerun_failed=sweep")
    assert rest.status == 0 and rest.started == [1, 2] and rest.statuses == ["done"] * 3


@pytest.mark.parametrize(
    ("typed", "mentions"),
    [
        (["rerun_failed=nowhere"], ["nowhere/jobs.json", "hydra.sweep.dir"]),
        (["rerun_failed=nowhere", "x=2"], ["x=2", "leave it out"]),
        (["-m", "x=1,2", "hydra.launcher.parallel=0"], ["parallel=0", "1 or more"]),
        (["-m", "x=1,2", "hydra.sweep.subdir=all"], ["share the folder all", "hydra.job.num"]),
        (["-m", "x=1,2", "hydra.launcher.parallel=2", "hydra.launcher.gpus_per_job=2"], ["need 4", "4,5,6", "lower"]),
    ],
)
def test_mistakes_start_nothing(place, typed, mentions):
    run = place.run(*typed, CUDA_VISIBLE_DEVICES="4,5,6")
    assert run.status == 1 and run.started == []
    assert all(mention in run.stderr for mention in mentions), run.stderr
