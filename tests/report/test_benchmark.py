"""Evaluations of a sweep: what may stand in one column."""

import csv
import json
from itertools import product
from pathlib import Path

import pytest
import torch

from oboro.base.errors import UserError
from oboro.base.secret import visible
from oboro.base.settings import settings
from oboro.base.spreadsheet import original
from oboro.evaluate.protocol import digest
from oboro.evaluate.result import read_result
from oboro.guidance import PerCondition
from oboro.metrics import Value
from oboro.report.benchmark import varying
from oboro.report.benchmark_table import column_protocol, write
from oboro.report.collect import collect, flat
from oboro.sampler import DDIM
from report.sweeps import FD, PRECISION, spread

IMAGES = (
    "samples",
    "quantisation",
    "extractor",
    "extractor_digest",
    "reference_samples",
    "reference_fingerprint",
    "reference_split",
)


def table(sweep):
    benchmark = collect(sweep.folder)
    write(benchmark, sweep.folder)
    with (sweep.folder / "benchmark.csv").open(newline="") as file:
        return benchmark, list(csv.DictReader(file)), json.loads((sweep.folder / "benchmark.json").read_text())


def evaluation(sweep, row):
    return json.loads((sweep.folder / row["job"] / "evaluation.json").read_text())


def test_protocols_never_share_a_column(sweep):
    """Over all combinations of what a measurement holds, and of what is compared."""
    for seed, chunk, device, ema, k in product((0, 1), (50, 100), ("cpu", "cuda"), ("std005", "std010"), (3, 5)):
        sweep.job(1.5, 0.5, seed=seed, chunk=chunk, device=device, ema=ema, how=f"PrecisionRecall(k={k})")
    benchmark, rows, _ = table(sweep)
    assert len(rows) == 32 and len(benchmark.columns) == 8 + 16
    for column in benchmark.columns.values():
        found = [evaluation(sweep, row) for row in rows if row[column.name]]
        assert len(found) == (4 if column.metric == FD else 2)
        assert len({(digest(f["protocol"]), json.dumps(f["metrics"][column.metric]["settings"])) for f in found}) == 1
        assert column.name.startswith(f"{column.metric}@{digest(found[0]['protocol'])}")


def test_what_is_compared_shares_a_column(sweep):
    sweep.job(1.0, sampler="Heun(steps=5)", ema="std010", guidance="Unguided()", evaluations_per_sample=9, step=1)
    sweep.job(2.0, checkpoint="/elsewhere/last.ckpt")
    benchmark, _, found = table(sweep)
    assert list(benchmark.columns) == [FD] and benchmark.notes == []
    assert found["columns"][FD]["real"] == 0.25 and found["columns"][FD]["better"] == -1


def test_the_note_names_what_differs_and_nothing_else(sweep):
    sweep.job(1.0, seed=0, chunk=50)
    sweep.job(2.0, seed=7, chunk=50)
    first, second = collect(sweep.folder).columns
    (note,) = collect(sweep.folder).notes
    assert f"@{first.partition('@')[2]}: seed 0; @{second.partition('@')[2]}: seed 7" in note
    assert "chunk" not in note and "sampler" not in note


def test_numbers_survive_the_files_exactly(sweep, rng):
    values = [0.1 + 0.2, 1e-300, -1.5e300, 5e-324, 3.0, *torch.rand(20, generator=rng, dtype=torch.float64).tolist()]
    for k, value in enumerate(values):
        sweep.job(value, 1 / (k + 3), seconds=k + 0.123, evaluations_per_sample=k + 1.125)
    sweep.job(float("nan"), float("inf"), evaluations_per_sample=99)
    _, rows, found = table(sweep)
    for k, value in enumerate(values):
        for row in (rows[k], found["rows"][k]):
            assert (row["job"], float(row[FD]), float(row[PRECISION])) == (str(k), value, 1 / (k + 3))
            assert float(row["seconds"]) == k + 0.123 and float(row["seconds_per_sample"]) == (k + 0.123) / 2000
            assert float(row["evaluations_per_sample"]) == k + 1.125
    assert float(rows[-1][FD]) != float(rows[-1][FD]) and float(rows[-1][PRECISION]) == float("inf")


def test_a_row_has_its_settings_even_where_all_are_equal(sweep):
    sweep.job(1.0, sampler="DDIM(steps=7, eta=0.5)", guidance="ClassifierFree(scale=1.5)", ema="std010", step=123)
    row = table(sweep)[1][0]
    expected = {
        "checkpoint": "/runs/first/checkpoints/last.ckpt",
        "step": "123",
        "ema": "std010",
        "ema_std": "0.1",
        "sampler": "DDIM",
        "sampler.steps": "7",
        "sampler.eta": "0.5",
        "guidance": "ClassifierFree",
        "guidance.scale": "1.5",
        "evaluations_per_sample": "10",
        "samples": "2000",
    }
    assert expected.items() <= row.items()


def test_an_unknown_is_empty(sweep):
    sweep.job(1.0, 0.5)
    sweep.job(2.0)
    rows = table(sweep)[1]
    assert [row[PRECISION] for row in rows] == ["0.5", ""]


def test_mean_and_spread_of_repeats(sweep):
    sweep.job(9.0, repeats=spread(FD, 1.25, 0.0625))
    sweep.job(2.0)
    benchmark, rows, _ = table(sweep)
    assert [(row[FD], row[f"{FD}_std"]) for row in rows] == [("1.25", "0.0625"), ("2.0", "")]
    assert [row.numbers[FD] for row in benchmark.rows] == [(1.25, 0.0625), (2.0, None)]


def test_failed_jobs_and_earlier_attempts_are_left_out_and_jobs_counted(sweep):
    sweep.job(1.0)
    sweep.fail()
    (sweep.job(2.0) / "evaluation.json").write_text('{"values": {')  # ended while it wrote
    (sweep.folder / "pictures").mkdir()
    sweep.job(3.0).rename(sweep.folder / "1.attempt1")
    benchmark = collect(sweep.folder)
    assert [row.folder.name for row in benchmark.rows] == ["0"]
    assert benchmark.notes == ["2 of 3 jobs ended without an evaluation.json: 1, 2."]


def test_a_sweep_without_any_number_is_a_mistake_of_the_user(sweep):
    sweep.fail()
    with pytest.raises(UserError, match="no job in"):
        collect(sweep.folder)
    with pytest.raises(UserError, match="name another folder"):
        collect(sweep.folder / "nowhere")


def test_warnings_are_passed_on_once(sweep):
    doubtful = Value(1.0, better=0, warning="100 images are few")
    for _ in range(3):
        sweep.job(1.0, extra={"kd": doubtful})
    assert collect(sweep.folder).notes == ["kd: 100 images are few."]


def test_rows_come_by_evaluations_then_settings_as_numbers(sweep):
    for steps, scale in ((100, 1.0), (9, 10.0), (9, 2.0)):
        text = f"ClassifierFree(scale={scale})"
        sweep.job(1.0, sampler=f"DDIM(steps={steps}, eta=0.0)", guidance=text, evaluations_per_sample=steps)
    sweep.job(1.0, sampler="Heun(steps=200)", evaluations_per_sample=50)
    assert [row.folder.name for row in collect(sweep.folder).rows] == ["2", "1", "3", "0"]


def test_what_varies_is_said_once(sweep):
    """A checkpoint's name follows from run and step; the name of an average from its length."""
    for run, step, std in product("ab", (100, 200), ("005", "010")):
        name = f"/outputs/{run}/checkpoints/step{step}.ckpt"
        sweep.job(1.0, checkpoint=name, step=step, ema=f"std{std}")
    rows = collect(sweep.folder).rows
    assert set(varying(rows)) == {"run", "step", "ema_std"}
    assert {row.settings["run"] for row in rows} == {"a", "b"}
    sweep.job(1.0, checkpoint="/outputs/b/checkpoints/best.ckpt", step=200)
    sweep.job(1.0, ema="constant")
    assert {"file", "ema"} < set(varying(collect(sweep.folder).rows)), "now they do not follow"


def test_a_setting_of_one_sampler_alone_does_not_vary(sweep):
    sweep.job(1.0, sampler="DDIM(steps=9, eta=0.0)")
    sweep.job(1.0, sampler="Heun(steps=5)")
    assert varying(collect(sweep.folder).rows) == ["sampler", "sampler.steps"]
    sweep.job(1.0, sampler="DDIM(steps=9, eta=1.0)")
    assert varying(collect(sweep.folder).rows) == ["sampler", "sampler.steps", "sampler.eta"]


def test_files_of_version_1_share_columns_with_those_of_today(sweep):
    """The same measurement on another sampler, written by each version."""
    file = Path(__file__).parents[1] / "evaluate/version_1.json"
    old, new = json.loads(file.read_text()), read_result(file)
    new["protocol"]["sampler"] = settings(DDIM(8))
    for k, result in enumerate((old, new)):
        (sweep.folder / str(k)).mkdir(parents=True)
        (sweep.folder / f"{k}/evaluation.json").write_text(json.dumps(result))
    benchmark, rows, _ = table(sweep)
    assert set(benchmark.columns) == {*old["values"], "bits_per_dim_4"}
    assert not [note for note in benchmark.notes if "do not compare" in note]
    assert [(row["sampler"], row["sampler.steps"], row["sampler.grid"], row["ema_std"]) for row in rows] == [
        ("DDIM", "8", "Uniform", "0.1"),
        ("Heun", "3", "Karras", "0.1"),
    ]
    assert varying(benchmark.rows) == ["sampler", "sampler.steps", "sampler.grid"]


def test_an_unknown_number_names_those_that_exist(sweep):
    sweep.job(1.0, 0.5)
    with pytest.raises(UserError, match=f"fid.*{FD}, {PRECISION}"):
        collect(sweep.folder).column("fid")


def test_likelihood_is_a_column_of_its_own(sweep):
    for k, name in enumerate(("std005", "std010")):
        path = sweep.job(1.0, ema=name) / "evaluation.json"
        likelihood = {
            "bits_per_dim_100": Value(
                3.0 + k / 3, better=-1, settings={"name": "probability-flow ODE", "steps": 32}
            ).plain()
        }
        path.write_text(json.dumps({**json.loads(path.read_text()), "likelihood": likelihood}))
    benchmark, rows, _ = table(sweep)
    assert [float(row["bits_per_dim_100"]) for row in rows] == [3.0, 3.0 + 1 / 3]
    assert benchmark.column("bits_per_dim_100").better == -1


def test_images_that_were_there_already_are_rows_too(sweep):
    """They have neither sampler nor checkpoint; a sweep over folders compares the folders."""
    for k, name in enumerate(("a.npz", "b.npz")):
        path = sweep.job(1.0 + k) / "evaluation.json"
        result = json.loads(path.read_text())
        protocol = {k: v for k, v in result["protocol"].items() if k in IMAGES} | {"images": name}
        protocol |= {"images_fingerprint": f"{k}123456"}
        path.write_text(
            json.dumps({k: result[k] for k in ("version", "values", "metrics", "seconds")} | {"protocol": protocol})
        )
    benchmark, rows, _ = table(sweep)
    assert "2,000 samples of files as shown against" in column_protocol(benchmark.rows, benchmark.column())
    assert varying(benchmark.rows) == ["images"] and list(benchmark.columns) == [FD]
    assert [(row["images"], row[FD], row["sampler"], row["checkpoint"]) for row in rows] == [
        ("a.npz", "1.0", "", ""),
        ("b.npz", "2.0", "", ""),
    ]


def test_no_field_is_a_formula_to_a_spreadsheet(sweep):
    hostile = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1,2)", "\t=1", "plain", "-0.5", "+1e3", "'=quoted"]
    for name in hostile:
        sweep.job(1.0, ema=name)
    _, rows, found = table(sweep)
    names = [row["ema"] for row in found["rows"]]
    assert sorted(names) == sorted(visible(name) for name in hostile)  # a tab would end a cell of the table
    fields = [field for row in rows for pair in row.items() for field in pair if not is_number(field)]
    assert "plain" in fields and not any(field.startswith(("=", "+", "-", "@", "\t", "\r")) for field in fields)
    assert [original(row["ema"]) for row in rows] == names


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_scales_by_their_condition_are_settings_of_their_own():
    scales = flat("guidance", settings(PerCondition({"image": 2.0, "text": 3.0})))
    assert scales["guidance"] == "PerCondition"
    assert (scales["guidance.scales.image"], scales["guidance.scales.text"]) == (2, 3)
