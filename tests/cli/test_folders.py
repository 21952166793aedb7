"""A folder has one run: what is refused before anything is written, what goes on, and what moves aside."""

import fcntl
import json
import os
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import runs
from oboro.cli import running
from oboro.cli.claim import claim_run
from oboro.cli.folder import ASIDE, WRITES, State, contents, create
from oboro.cli.running import LOCK, Record

SHORT = (runs.NO_EVALUATION, "callbacks.checkpoints.every_n_steps=2", "trainer.max_steps=4")


def train(folder: Path, *typed: str) -> runs.Run:
    run = runs.call("train.py", *runs.outputs(folder, *runs.toy(*SHORT, *typed)), cwd=folder.parent)
    return runs.Run(run.status, run.stdout, run.stderr, folder)


def files(folder: Path) -> dict[str, bytes]:
    """All files below ``folder`` with their bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> runs.Run:
    return runs.succeeded(train(tmp_path_factory.mktemp("finished") / "run"))


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    """A copy of a finished run, in ``tmp_path / "run"``."""
    return Path(shutil.copytree(finished.folder, tmp_path / "run"))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ((), "logged up to step 4); add resume=auto to go on, overwrite=true to start over"),
        (("overwrite=no",), "logged up to step 4); add resume=auto to go on, overwrite=true to start over"),
        (("seed=1",), "add resume=auto to go on"),
        (("resume=auto", "overwrite=true"), "overwrite=true starts over and resume goes on; leave one of the two out."),
    ],
)
def test_a_used_folder_is_refused_and_stays_as_it_is(folder, typed, message):
    before = files(folder)
    run = train(folder, *typed)
    assert run.status == 1 and message in run.stderr.splitlines()[-1]
    assert files(folder) == before


def test_another_command_does_not_share_the_folder_of_a_run(folder):
    before = files(folder)
    last = folder / "checkpoints" / "last.ckpt"
    for script in ("sample.py", "evaluate.py"):
        run = runs.call(script, *runs.outputs(folder, f"checkpoint={last}", "overwrite=true"), cwd=folder.parent)
        assert run.status == 1 and "has a run of train (" in run.stderr and "and a folder is for one run" in run.stderr
    assert files(folder) == before


@pytest.mark.slow
def test_overwriting_moves_what_the_command_wrote_and_nothing_else(folder):
    (folder / "notes.txt").write_text("mine")
    before = files(folder)
    run = runs.succeeded(train(folder, "seed=1", "overwrite=true"))
    moved = files(folder / ASIDE / "1")
    assert f"what the folder held is in {folder / ASIDE / '1'} now" in run.stderr
    assert moved == {k: v for k, v in before.items() if k not in (LOCK, "notes.txt")}
    assert (folder / "notes.txt").read_text() == "mine"
    assert run.checkpoint()["config"]["seed"] == 1 and len(run.rows) == len(before["metrics.jsonl"].splitlines())
    runs.succeeded(train(folder, "seed=2", "overwrite=true"))
    assert files(folder / ASIDE / "1") == moved and (folder / ASIDE / "2" / "train.log").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    "mistake",
    ["model.channels=-8", "+model.channelz=8", "data=image_folder data.root=/nowhere", "sampler=learned_variance"],
)
def test_a_mistake_leaves_what_was_to_be_overwritten_in_its_place(folder, mistake):
    before = files(folder)
    run = train(folder, *mistake.split(), "overwrite=true")
    assert run.status == 1 and "the run has not begun: what" in run.stderr, run.stderr
    assert run.stderr.splitlines()[-1].startswith("error: ") and not (folder / ASIDE).exists()
    assert {k: v for k, v in files(folder).items() if k != LOCK} == {k: v for k, v in before.items() if k != LOCK}
    assert contents(folder, "train").state is State.FINISHED


def test_what_a_run_needs_does_not_move_away(folder):
    before = files(folder)
    run = train(folder, f"init={folder}/checkpoints/last.ckpt", "overwrite=true")
    assert run.status == 1 and "init names a file that overwrite=true moves away" in run.stderr
    assert {k: v for k, v in files(folder).items() if k != LOCK} == {k: v for k, v in before.items() if k != LOCK}


@pytest.mark.slow
def test_a_folder_with_files_of_others_is_no_used_one(tmp_path):
    folder = tmp_path / "mine"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    (folder / "train.log").write_text("of a start that failed")
    assert contents(folder, "train").state is State.EMPTY
    runs.succeeded(train(folder))
    assert contents(folder, "train").state is State.FINISHED


@pytest.mark.slow
def test_a_start_that_failed_leaves_no_used_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    assert train(folder, "data.validation=100000000").status == 1
    runs.succeeded(train(folder))


@pytest.mark.slow
def test_old_samples_are_never_among_new_ones(finished, tmp_path):
    typed = [f"checkpoint={finished.last}", "accelerator=cpu", "sampler.steps=1"]

    def draw(*more: str) -> runs.Run:
        return runs.call("sample.py", *runs.outputs(tmp_path / "out", *typed, *more), cwd=tmp_path)

    runs.succeeded(draw("n=4"))
    before = files(tmp_path / "out")
    refused = draw("n=2", "seed=1")
    assert refused.status == 1 and "has a run of sample (" in refused.stderr and "add overwrite=true" in refused.stderr
    assert files(tmp_path / "out") == before
    runs.succeeded(draw("n=2", "seed=1", "overwrite=true"))
    assert len(list((tmp_path / "out" / "images").iterdir())) == 2
    assert len(list((tmp_path / "out" / ASIDE / "1" / "images").iterdir())) == 4


@pytest.mark.slow
def test_runs_of_one_second_have_folders_of_their_own(tmp_path):
    """By the clock; each is made by the run that gets it."""
    assert [create(tmp_path / "day" / "a").name for _ in range(3)] == ["a", "a-2", "a-3"]
    typed = runs.toy(*SHORT, "hydra.run.dir=day/${now:%Y}")
    made = [runs.succeeded(runs.call("train.py", *typed, f"seed={seed}", cwd=tmp_path)) for seed in (0, 1)]
    assert len(made) == 2
    first, second = (p.parent.parent for p in sorted(tmp_path.glob("day/20*/checkpoints/last.ckpt")))
    assert second.name == f"{first.name}-2"
    seeds = [runs.Run(0, "", "", f).checkpoint()["config"]["seed"] for f in (first, second)]
    written = [json.loads(row)["step"] for row in (second / "metrics.jsonl").read_text().splitlines()]
    assert seeds == [0, 1] and written.count(4) <= 2
    assert "dir: day/${now:%Y}-2" in (second / ".hydra" / "hydra.yaml").read_text()


@pytest.mark.slow  # it imports tensorboard
def test_every_file_of_a_run_is_known(tmp_path):
    """Else ``overwrite`` would leave some of it behind."""
    everything = "callbacks=[snapshots,sample_metrics,sample_grid,checkpoints,throughput]"
    run = runs.train(tmp_path / "run", everything, "logger=[jsonl,tensorboard]", *runs.CALLBACKS)
    known = {*WRITES["train"], ".hydra", "train.log", LOCK}
    assert {path.name for path in run.folder.iterdir()} <= known


def test_pictures_of_others_are_not_taken_for_a_run(finished, tmp_path):
    (tmp_path / "out" / "images").mkdir(parents=True)
    (tmp_path / "out" / "images" / "cat.png").write_text("mine")
    typed = [f"checkpoint={finished.last}", "accelerator=cpu"]
    run = runs.call("sample.py", *runs.outputs(tmp_path / "out", *typed), cwd=tmp_path)
    assert run.status == 1 and "out has images already, which sample writes; add overwrite=true" in run.stderr


def test_machines_that_share_a_file_system_never_share_a_folder(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(create, [tmp_path / "day" / "12-00-00"] * 64))
    assert len(set(made)) == 64


@pytest.mark.parametrize(
    ("kind", "message"),
    [("file", "is a file"), ("below a file", "cannot make the folder"), ("long", "name too long")],
)
def test_a_folder_that_cannot_be_is_refused(tmp_path, kind, message):
    (tmp_path / "file").write_text("mine")
    place = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "run", "long": tmp_path / ("x" * 300)}[kind]
    run = runs.call("train.py", *runs.outputs(place, *runs.toy(*SHORT)), cwd=tmp_path)
    assert run.status == 1 and message in run.stderr and len(run.stderr.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_link_and_another_way_to_write_a_folder_are_that_folder(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "elsewhere").mkdir()
    for place, cwd in (("link", tmp_path), ("../run", tmp_path / "elsewhere"), ("./run/../run/", tmp_path)):
        run = runs.call("train.py", f"hydra.run.dir={place}", *runs.toy(*SHORT), cwd=cwd)
        assert run.status == 1 and "add resume=auto to go on" in run.stderr


def test_a_folder_may_have_any_name(tmp_path):
    folder = tmp_path / "a, b=[1] {c} é $d 'e'"
    runs.succeeded(runs.call("train.py", f"hydra.run.dir={folder}", *runs.toy(*SHORT), cwd=tmp_path))
    run = runs.call("train.py", f"hydra.run.dir={folder}", *runs.toy(*SHORT, "resume=auto"), cwd=tmp_path)
    assert run.status == 0 and f"the run in {folder} is finished" in run.stderr


TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
SRUN = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}


@pytest.mark.parametrize("ranks", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_ranks_that_others_start_have_one_folder_and_the_first_writes(tmp_path, monkeypatch, ranks):
    """They run Hydra each, perhaps in another second; a sweep is not theirs."""
    first = {name: "0" if name.endswith(("RANK", "PROCID")) else value for name, value in ranks.items()}
    for name, value in first.items():
        monkeypatch.setenv(name, value)
    run = runs.call("train.py", *runs.toy(*SHORT), cwd=tmp_path)
    assert run.status == 1 and "2 processes share this run" in run.stderr and not list(tmp_path.iterdir())
    run = runs.call("train.py", "-m", *runs.toy(*SHORT, "seed=0,1"), cwd=tmp_path)
    assert run.status == 1 and "without torchrun or srun" in run.stderr and not list(tmp_path.iterdir())
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    with initialize_config_dir(str(runs.ROOT / "conf"), version_base="1.3"):
        config = compose("train", [f"hydra.run.dir={tmp_path}/run"], return_hydra_config=True)
    claim_run(config, "train")
    assert not list(tmp_path.iterdir())
    assert config.hydra.output_subdir is None and config.hydra.job_logging.root.handlers == ["console"]


@pytest.mark.slow
def test_a_sweep_has_a_folder_of_its_own(checkpoint, tmp_path):
    """Jobs within one process; the second sweep is refused, or what the first left moves aside."""
    typed = [f"checkpoint={checkpoint}", "accelerator=cpu", "n=2", "sampler.steps=1", "hydra.sweep.dir=out"]
    runs.succeeded(runs.call("sample.py", "-m", *typed, "seed=0,1", cwd=tmp_path))
    before = files(tmp_path / "out")
    run = runs.call("sample.py", "-m", *typed, "seed=2,3", cwd=tmp_path)
    assert run.status == 1 and "out has a sweep; run its failed jobs again" in run.stderr
    assert {k: v for k, v in files(tmp_path / "out").items() if k != LOCK} == {
        k: v for k, v in before.items() if k != LOCK
    }
    runs.succeeded(runs.call("sample.py", "-m", *typed, "seed=2,3", "overwrite=true", cwd=tmp_path))
    old = files(tmp_path / "out" / ASIDE / "1")
    assert old == {k: v for k, v in before.items() if k != LOCK}
    assert (tmp_path / "out" / "1" / "images" / "000001.png").read_bytes() != old["1/images/000001.png"]
    for number, seed in enumerate((2, 3)):  # each job keeps the configuration that it began with
        assert f"seed: {seed}" in (tmp_path / "out" / str(number) / ".hydra" / "config.yaml").read_text()
        assert not (tmp_path / "out" / str(number) / ASIDE).exists()
    runs.succeeded(runs.call("sample.py", "-m", *typed, "seed=4", "overwrite=true", cwd=tmp_path))
    assert files(tmp_path / "out" / ASIDE / "1") == old and (tmp_path / "out" / ASIDE / "2" / "1" / "images").is_dir()
    one = runs.call(
        "sample.py", "-m", *typed[:-1], "hydra.sweep.dir=one", "hydra.sweep.subdir=x", "seed=0,1", cwd=tmp_path
    )
    assert one.status == 1 and "one/x has a run" in one.stderr


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ["hydra.sweep.subdir=x", "hydra.launcher.parallel=0", "model.channelz=8"])
def test_a_mistake_in_a_sweep_leaves_what_was_to_be_overwritten_in_its_place(tmp_path, mistake):
    """One that it meets before it has started a job."""
    folder = tmp_path / "out"
    (folder / "0" / ".hydra").mkdir(parents=True)
    for name in ("jobs.json", "multirun.yaml", "0/result.json", "0/.hydra/config.yaml", "notes.txt"):
        (folder / name).write_text(name)
    before = files(folder)
    typed = (f"hydra.sweep.dir={folder}", *runs.toy("seed=1,2"), "overwrite=true", mistake)
    for _ in range(2):  # the second time with what the first has left
        run = runs.call("train.py", "-m", *typed, cwd=tmp_path)
        assert run.status == 1 and run.stderr.splitlines()[-1].startswith("error: "), run.stderr
        assert {k: v for k, v in files(folder).items() if k not in (LOCK, ".lock")} == before
        assert not (folder / ASIDE).exists()
        assert "the sweep has not begun" in run.stderr or "what the folder held" not in run.stderr


def test_an_export_has_a_folder_of_its_own(checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "decoder.onnx").write_text("of another model")
    for command in ("export", "onnx"):
        run = runs.call("oboro", command, str(checkpoint), "out", cwd=tmp_path)
        assert run.status != 0 and "out has decoder.onnx in it already" in run.stderr


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_a_folder_in_which_a_run_goes_on_is_refused(finished, tmp_path, monkeypatch, locks):
    """Each command, before anything is written, whatever words are added; without locks by the number of the process
    where that is one of this machine."""
    folder = tmp_path / "run"
    folder.mkdir()
    record = Record("train", socket.gethostname(), os.getppid(), "2026-01-31T12:00:00")
    (folder / LOCK).write_text(json.dumps(asdict(record)))
    if not locks:
        monkeypatch.setattr(running, "fcntl", None)
    with (folder / LOCK).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = files(folder)
        drawing = [f"checkpoint={finished.last}", "accelerator=cpu"]
        for words in ((), ("resume=auto",), ("overwrite=true",), (f"resume={finished.last}",)):
            assert going_on(train(folder, *words))
        for script in ("sample.py", "evaluate.py"):
            assert going_on(runs.call(script, *runs.outputs(folder, *drawing, "overwrite=true"), cwd=tmp_path))
        assert contents(folder, "train").state is State.RUNNING
        assert files(folder) == before


def going_on(run: runs.Run) -> bool:
    line = run.stderr.splitlines()[-1]
    return run.status == 1 and f"since 2026-01-31 12:00 (process {os.getppid()} on " in line and "going on in" in line
