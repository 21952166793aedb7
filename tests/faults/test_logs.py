"""F40, F41: what is logged is kept, once, whatever happens to a logger, a disk or a process."""

import csv
import json
import os
import time
from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import runs
from injection import disk
from oboro.logger import JSONL, guarded, read_rows

SHORT = (runs.NO_EVALUATION, "trainer.max_steps=4", "callbacks.checkpoints.every_n_steps=2")
BOARD = "logger=[jsonl,tensorboard]"
# what is typed, the logger that fails
DOWN = {
    "W&B is not installed": ("+logger.w={_target_: lightning.pytorch.loggers.WandbLogger}", "WandbLogger"),
    "MLflow is not installed": ("+logger.m={_target_: lightning.pytorch.loggers.MLFlowLogger}", "MLFlowLogger"),
    "fails at every row": ("+logger.f={_target_: injection.Failing, save_dir: '${output_dir}'}", "Failing"),
    "fails later": ("+logger.f={_target_: injection.Failing, save_dir: '${output_dir}', first: 3}", "Failing"),
}


def numbers(folder: Path) -> list[dict]:
    """The record without what the clock says."""
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in read_rows(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> list[dict]:
    """The record of a run to which nothing happens."""
    return numbers(runs.train(tmp_path_factory.mktemp("whole"), *SHORT).folder)


@pytest.mark.slow
@pytest.mark.parametrize(("logger", "name"), DOWN.values(), ids=DOWN)
def test_a_logger_that_fails_costs_one_line_and_no_number(logger, name, whole, tmp_path):
    run = runs.train(tmp_path, *SHORT, logger)
    assert numbers(tmp_path) == whole
    assert run.stderr.count(f"{name} fails") == 1 and "Traceback" not in run.stderr


@pytest.mark.parametrize("loggers", [BOARD, "logger=[tensorboard]"])
def test_a_file_in_the_place_of_tensorboard_costs_no_number(loggers, whole, tmp_path):
    """Where no other logger is chosen, too: the record is then written for its sake."""
    (tmp_path / "board").mkdir()
    (tmp_path / "board/tensorboard").touch()
    run = runs.train(tmp_path / "run", *SHORT, loggers, f"logger.tensorboard.save_dir={tmp_path / 'board'}")
    assert numbers(run.folder) == whole
    assert run.stderr.count("TensorBoardLogger fails") == 1 and "Traceback" not in run.stderr


def test_a_logger_that_recovers_goes_on(tmp_path):
    long = (runs.NO_EVALUATION, "trainer.max_steps=12", "trainer.val_check_interval=12")
    runs.train(tmp_path, *long, "+logger.f={_target_: injection.Failing, save_dir: '${output_dir}', first: 2, last: 3}")
    with (tmp_path / "csv/metrics.csv").open() as file:
        steps = {int(row["step"]) for row in csv.DictReader(file)}
    assert 1 in steps and 12 in steps and not steps & {2, 3}


@pytest.mark.parametrize("typed", ["logger.tensorboard.nmae=x", "+logger.w={_target_: lightning.NoLogger}"])
def test_a_mistake_in_a_logger_ends_the_run_before_it_trains(typed, tmp_path):
    run = runs.call("train.py", *runs.outputs(tmp_path, *runs.toy(*SHORT, BOARD, typed)), cwd=tmp_path)
    assert run.status == 1 and run.stderr.startswith("error: ") and not (tmp_path / "metrics.jsonl").exists()


def test_a_torn_line_swallows_none(tmp_path):
    """As a kill in the middle of a line leaves it."""
    JSONL(str(tmp_path), images_per_step=1).log_metrics({"loss": 1}, 1)
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    JSONL(str(tmp_path), images_per_step=1).log_metrics({"loss": 3}, 3)
    assert [(row["step"], row["loss"]) for row in read_rows(path)] == [(1, 1), (3, 3)]
    assert path.read_text().endswith("}\n")


def test_rows_that_the_disk_does_not_take_are_written_later(tmp_path, capsys):
    logger, path = JSONL(str(tmp_path), images_per_step=1), tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    logger.log_metrics({"loss": 1}, 1)
    logger.log_metrics({"loss": 2}, 2)
    path.unlink()
    logger.log_metrics({"loss": float("nan")}, 3)
    assert [json.loads(line, parse_constant=pytest.fail)["step"] for line in path.open()] == [1, 2, 3]
    assert read_rows(path)[2]["loss"] != read_rows(path)[2]["loss"]


@pytest.mark.slow
def test_a_resumed_run_repeats_no_step_in_any_file_and_its_seconds_go_on(tmp_path):
    settings = "save_dir: '${output_dir}', name: csv, version: '', flush_logs_every_n_steps: 1"
    table = f"+logger.csv={{_target_: lightning.pytorch.loggers.CSVLogger, {settings}}}"
    cut = "+callbacks.fault={_target_: injection.Fault, does: raise, step: 4}"
    chosen = (*SHORT, BOARD, "trainer.max_steps=6", "callbacks.checkpoints.every_n_steps=3")
    typed = runs.toy(*chosen, table, cut)
    assert runs.call("train.py", *runs.outputs(tmp_path, *typed), cwd=tmp_path).status == 1
    before = [row["seconds"] for row in read_rows(tmp_path / "metrics.jsonl") if row["step"] <= 3]
    resumed = runs.outputs(tmp_path, f"resume={tmp_path}", table)
    runs.succeeded(runs.call("train.py", *resumed, cwd=tmp_path))
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
    assert rows[len(before)]["seconds"] >= before[-1] > 0
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    with (tmp_path / "csv/metrics.csv").open() as file:
        assert {int(row["step"]) for row in csv.DictReader(file)} == {4, 5, 6}
    assert (tmp_path / "csv/metrics.until-3.csv").exists()


def test_a_disk_that_fills_under_tensorboard_costs_a_line_each(tmp_path, caplog, capsys):
    """Its thread fails, the caller some rows later; the record that waits has all rows from then on."""
    spare = JSONL(str(tmp_path / "record"), images_per_step=1)
    board = guarded(TensorBoardLogger(str(tmp_path / "board"), name="", version="", max_queue=1), spare)
    with disk(500):
        for step in range(1, 200):
            board.log_metrics({"loss": 0.5}, step)
            board.save()
    board.log_metrics({"loss": 0.5}, 200)
    board.finalize("success")
    spare.finalize("success")
    steps = [row["step"] for row in read_rows(spare.path)]
    assert steps == sorted(set(steps)) and len(steps) > 150 and steps[-1] >= 199
    assert (
        caplog.text.count("TensorBoardLogger fails") == 1 and caplog.text.count("metrics.jsonl cannot be written") == 1
    )
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_clock_that_jumps_back_loses_no_row_and_no_checkpoint(whole, tmp_path, monkeypatch):
    """F41: an hour at every look at it, after a start tomorrow."""
    kept = (*SHORT, "callbacks.checkpoints.every_n_steps=1", "callbacks.checkpoints.keep_last=2")
    run = runs.train(tmp_path, *kept, "trainer.max_steps=2")
    tomorrow = time.time() + 86400
    for path in [p for p in tmp_path.rglob("*") if p.is_file()]:
        os.utime(path, (tomorrow, tomorrow))
    looks = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: tomorrow - 3600 * next(looks))
    run = runs.train(tmp_path, *kept, "resume=auto")
    assert sorted(p.name for p in run.last.parent.glob("step-*")) == ["step-00000003.ckpt", "step-00000004.ckpt"]
    assert numbers(tmp_path) == whole
    seconds = [row["seconds"] for row in run.rows]
    assert seconds == sorted(seconds) and seconds[-1] < 3600
