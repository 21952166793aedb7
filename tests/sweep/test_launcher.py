"""A job is the single run of its overrides."""

import json
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import runs
from oboro.base.errors import UserError
from oboro.base.grammar import quoted
from oboro.sweep import Job, Options
from oboro.sweep.job import last_error
from oboro.sweep.process import free_port

pytestmark = pytest.mark.slow  # processes and whole runs

ROOT = Path(__file__).resolve().parents[2]


def test_values_arrive_as_they_would_in_a_single_run(place):
    typed = [
        "'a b, c'",
        '"it\'s"',
        r"'\'x\' \"y\"'",
        "[1,two,'3, 4']",
        "{a: 1, b: [x]}",
        "'[1]'",
        "null",
        "1e-3",
        "a:b/c",
    ]
    run = place.run("-m", f"value={','.join(typed)}", "hydra.launcher.parallel=2")
    assert run.status == 0, run.stderr
    assert run.seen("0")["module"] is None
    parsed = OverridesParser.create().parse_overrides([f"value={value}" for value in typed])
    expected = [OmegaConf.to_container(OmegaConf.create([p.value() for p in parsed]))][0]
    assert [run.seen(str(n))["config"]["value"] for n in range(len(typed))] == expected
    assert expected[0] == "a b, c" and expected[4] == {"a": 1, "b": ["x"]} and expected[7] == 0.001


@pytest.mark.parametrize(
    "name",
    ["a b", "it's", 'say "x"', "a,b=c", "[1,{a: 2}]", r"back\slash", "end\\", r"\'", r"\\'", "$HOME", "${x}", "ü—"],
)
def test_a_quoted_name_is_read_as_it_was(name):
    value = OverridesParser.create().parse_override(f"hydra.run.dir={quoted(name)}").value()
    assert OmegaConf.create({"dir": value}).dir == name


def test_a_job_has_the_folder_that_hydra_names(place):
    subdir = "hydra.sweep.subdir='${hydra.job.override_dirname} of ${hydra.job.num}'"
    run = place.run("-m", "x=1,2", "value='it\\'s'", 'hydra.sweep.dir="my sweep, 1=1"', subdir, folder="my sweep, 1=1")
    assert run.status == 0, run.stderr
    assert [job["path"] for job in run.jobs] == [f"value='it\\'s',x={n + 1} of {n}" for n in (0, 1)]
    assert [run.seen(job["path"])["config"]["x"] for job in run.jobs] == [1, 2]
    folders = {path.name for path in run.folder.iterdir() if path.is_dir()}
    assert folders == {job["path"] for job in run.jobs} and not (place.folder / "alone").exists()


def test_what_is_said_to_hydra_holds_in_the_jobs(place):
    other = (place.folder / "conf" / "tiny.yaml").read_text() + "  mode: MULTIRUN\n"  # its jobs must not sweep again
    (place.folder / "conf" / "other.yaml").write_text(other.replace("act: fine", "act: fine\nextra: true"))
    for_hydra = ["hydra.verbose=[a,b]", "hydra.job.name=named", "hydra.sweep.dir=there", "hydra/hydra_logging=none"]
    run = place.run("--config-name", "other", "x=1,2", *for_hydra, folder="there")
    assert run.status == 0, run.stderr
    for n in (0, 1):
        seen = run.seen(str(n))
        assert seen["hydra"] == ["['a', 'b']", "named", n]
        assert seen["config"]["extra"] is True
        assert "hydra/hydra_logging=none" in seen["argv"] and not any("sweep.dir" in a for a in seen["argv"])


def test_a_module_is_started_as_a_module(place):
    package = place.folder / "package"
    package.mkdir()
    for name in ("tiny.py", "conf"):
        (place.folder / name).rename(package / name)
    for folder in (package, package / "conf"):
        (folder / "__init__.py").touch()
    place.program = ["-m", "package.tiny"]
    run = place.run("-m", "x=1,2")
    assert run.status == 0, run.stderr
    assert [run.seen(str(n))["module"] for n in (0, 1)] == ["package.tiny"] * 2


def test_jobs_share_no_port_no_gpu_and_nothing_of_another_run(place):
    left = {"LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_PORT": "1234", "PL_GLOBAL_SEED": "7", "HYDRA_FULL_ERROR": "1"}
    options = ["hydra.launcher.parallel=2", "hydra.launcher.gpus_per_job=2"]
    run = place.run("-m", "x=1,2", *options, **left, CUDA_VISIBLE_DEVICES="4,5,6,7", PL_TRAINER_DEVICES="2")
    first, second = (run.seen(str(n))["environment"] for n in (0, 1))
    assert [first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]] == ["4,5", "6,7"]
    assert first["MASTER_PORT"] != second["MASTER_PORT"] and "1234" not in (first["MASTER_PORT"], second["MASTER_PORT"])
    assert not (left.keys() - {"MASTER_PORT"}) & (first.keys() | second.keys())
    assert first["PL_TRAINER_DEVICES"] == "2"  # a default that the user set


def test_a_free_port_is_none_that_another_job_was_given():
    taken = {port for port in range(65536) if port % 4 < 2}
    assert all(free_port(taken) % 4 >= 2 for _ in range(20))


def test_gpus_are_counted_from_zero_where_none_are_named(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [Options(parallel=3, gpus_per_job=2).devices(slot) for slot in range(3)] == [
        ["0", "1"],
        ["2", "3"],
        ["4", "5"],
    ]
    assert Options(parallel=3).devices(1) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="need 1"):
        Options(gpus_per_job=1).devices(0)


TRACE = "Traceback (most recent call last):\n  File 'a'\n    f()\n"
LOGS = {
    "step 3\nerror: data.root is missing; set data.root=...\nbye\n": "data.root is missing; set data.root=...",
    f"{TRACE}my.Error: no: luck\nstep 3\n": "my.Error: no: luck",
    "".join(f"[rank1]: {line}\n" for line in [*TRACE.splitlines(), "OSError: gone", "NCCL says"]): "OSError: gone",
    f"{TRACE}KeyError: 1\n\nDuring handling of the above\n\n{TRACE}E: 2": "E: 2",
    "x" * 200_000 + "\nerror: last\n": "last",
    "all is well\nno error: at all\n": None,
    "": None,
}


@pytest.mark.parametrize("log", LOGS, ids=[str(message) for message in LOGS.values()])
def test_the_last_error_of_a_log_is_found(log, tmp_path):
    (tmp_path / "output.log").write_text(log)
    assert last_error(tmp_path / "output.log") == LOGS[log]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"values": [1]}', '{"values": {"a": "b"}}', '{"values": {}, "objective": "a"}']
)
def test_a_job_whose_result_cannot_be_read_has_failed(content, tmp_path):
    (tmp_path / "result.json").write_text(content)
    job = Job(0, [], [], "0")
    job.end("done", None, 1.0, tmp_path)
    assert job.status == "failed" and "result.json" in job.reason and job.values == {}
    job.end("killed by SIGKILL", None, 1.0, tmp_path)
    assert job.status == "killed by SIGKILL"


def test_a_search_goes_on_after_a_failed_trial_and_finds_the_least(place):
    """With the plugin's own max_failure_rate of 0; trial 2 has no finite objective and trial 4 raises."""
    script = (place.folder / "tiny.py").read_text()
    odd = """
    number = hydra_config.job.num
    config.x = float("nan") if number == 2 else config.x
    act = "raise" if number == 4 else "fine"
    """
    (place.folder / "tiny.py").write_text(script.replace('print("act", act)', odd))
    search = [
        "hydra/sweeper=optuna",
        "hydra.sweeper.sampler.seed=0",
        "hydra.sweeper.n_trials=8",
        "hydra.sweeper.n_jobs=2",
    ]
    run = place.run("-m", "x=interval(-2, 3)", *search, "hydra.launcher.parallel=2")
    assert run.statuses == ["done"] * 4 + ["failed"] + ["done"] * 3 and run.status == 1
    losses = {job["number"]: job["values"]["loss"] for job in run.jobs if job["number"] not in (2, 4)}
    best = yaml.safe_load((run.folder / "optimization_results.yaml").read_text())
    assert best["best_value"] == min(losses.values()) and (best["best_params"]["x"] - 0.5) ** 2 == best["best_value"]
    assert (
        "job 4 failed: ValueError: no such luck" in run.stdout
        and "job 2 done, without a finite objective" in run.stdout
    )


def test_a_search_in_which_every_trial_fails_says_so_in_one_line(place):
    run = place.run("-m", "act=raise", "x=interval(0,1)", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1")
    assert run.status == 1 and run.stderr.splitlines()[-1].startswith("error: 1 of 1 jobs failed, job 0 first")


def test_the_shipped_search_varies_keys_that_exist():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", ["hparams_search=optuna"], return_hydra_config=True)
        sweeper = config.hydra.sweeper
        assert "Optuna" in sweeper._target_ and sweeper.direction == "minimize" and sweeper.n_jobs == 1
        for key, space in sweeper.params.items():
            override = OverridesParser.create().parse_override(f"{key}={space}")
            values = override.sweep_string_iterator() if override.is_choice_sweep() else [override.value().start]
            for value in values:
                compose("train", [f"{key}={value}"])


def test_a_script_that_would_not_report_is_told(place):
    script = (place.folder / "tiny.py").read_text()
    (place.folder / "tiny.py").write_text(script.replace("sweep.run(main)", "main()"))
    run = place.run("-m", "x=1,2")
    assert run.status == 1 and "oboro.sweep.run(main)" in run.stderr and not (run.folder / "0").exists()


@pytest.mark.slow
def test_two_jobs_of_two_ranks_each_make_two_runs(tmp_path):
    """At once, and in the folders that the shipped configuration gives them."""
    two = ["seed=1,2", "trainer.devices=2", "trainer.strategy=ddp", "callbacks=[checkpoints]"]
    run = runs.succeeded(runs.shell("train.py", "-m", *runs.toy(*two), "hydra.launcher.parallel=2", cwd=tmp_path))
    (sweep,) = (tmp_path / "outputs").glob("*/*")  # rank 1 starts no sweep of its own
    jobs = json.loads((sweep / "jobs.json").read_text())["jobs"]
    assert [(job["varied"], job["status"], job["path"]) for job in jobs] == [
        (["seed=1"], "done", "0"),
        (["seed=2"], "done", "1"),
    ]
    assert {path.name for path in sweep.iterdir()} == {"0", "1", "jobs.json", "multirun.yaml", ".lock", ".running"}
    weights = []
    for folder in (sweep / "0", sweep / "1"):
        assert (folder / "train_ddp_process_1.log").exists()  # where Hydra has the second rank log
        job = runs.Run(0, "", "", folder)
        steps = [row["step"] for row in job.rows if "train/loss" in row]
        assert steps == [1, 2] and job.checkpoint()["global_step"] == 2
        weights.append(job.checkpoint()["state_dict"])
    assert not runs.equal(*map(dict, weights))
    assert "seed=1" in run.stdout and run.stderr.count("done") == 2
