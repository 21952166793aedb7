"""Lines of metrics.jsonl; what a run writes into them is tested in cli/test_train.py."""

import json

from oboro.logger import JSONL


def test_a_line_has_step_images_seconds_and_the_values(tmp_path):
    logger = JSONL(str(tmp_path), images_per_step=8)
    logger.log_metrics({"epoch": 0, "loss": 0.5}, step=3)
    logger.log_metrics({"val/loss": 0.25, "n": 2}, step=5)
    first, second = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert {**first, "seconds": 0} == {"step": 3, "images": 24, "seconds": 0, "loss": 0.5}
    assert {**second, "seconds": 0} == {"step": 5, "images": 40, "seconds": 0, "val/loss": 0.25, "n": 2.0}
    assert 0 <= first["seconds"] <= second["seconds"]


def test_values_without_a_step_or_a_name_leave_no_line(tmp_path):
    logger = JSONL(str(tmp_path), images_per_step=8)
    logger.log_metrics({"loss": 0.5})
    logger.log_metrics({"epoch": 1}, step=2)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_resumed_run_goes_on_in_the_same_file(tmp_path):
    for step in (1, 2):
        JSONL(str(tmp_path), images_per_step=1).log_metrics({"loss": 0.5}, step)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()] == [1, 2]


def test_rows_after_the_checkpoint_move_aside_before_the_first_new_one(tmp_path):
    """A line that a kill left unfinished, too; in a new folder there is nothing to move."""
    before = JSONL(str(tmp_path), images_per_step=1)
    for step in (1, 2, 3):
        before.log_metrics({"loss": step}, step)
    with before.path.open("a") as file:
        file.write('{"step": 4, "lo')
    resumed = JSONL(str(tmp_path), images_per_step=1)
    resumed.go_on_from(2)
    assert len(before.path.read_text().splitlines()) == 4
    resumed.log_metrics({"loss": 3}, 3)
    resumed.log_metrics({"loss": 4}, 4)
    assert [json.loads(line)["step"] for line in before.path.open()] == [1, 2, 3, 4]
    assert len((tmp_path / "metrics.superseded.jsonl").read_text().splitlines()) == 2
    elsewhere = JSONL(str(tmp_path / "."), images_per_step=1)
    elsewhere.go_on_from(4)
    elsewhere.log_metrics({"loss": 5}, 5)
    assert [json.loads(line)["step"] for line in before.path.open()] == [1, 2, 3, 4, 5]


def test_a_row_of_the_step_that_a_run_goes_on_from_is_written_once(tmp_path):
    """Whatever its clock says; of another value, or of another step, it is another row."""
    before = JSONL(str(tmp_path), images_per_step=1)
    before.log_metrics({"loss": 2.0, "evaluation_seconds": 1.5}, 2)
    resumed = JSONL(str(tmp_path), images_per_step=1)
    resumed.go_on_from(2)
    for step, loss in ((2, 2.0), (2, 2.5), (3, 2.0), (3, 2.0)):
        resumed.log_metrics({"loss": loss, "evaluation_seconds": 2.5}, step)
    rows = [json.loads(line) for line in before.path.open()]
    assert [(row["step"], row["loss"]) for row in rows] == [(2, 2.0), (2, 2.5), (3, 2.0), (3, 2.0)]
