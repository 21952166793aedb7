"""The printed table: everything that was found, in lines that fit, the best of it marked."""

import json

import pytest
from rich.console import Console

from oboro.metrics import Value
from oboro.report.benchmark_table import benchmark_table, folded, shared_ending
from oboro.report.collect import collect
from report.sweeps import FD, PRECISION, spread


def lines(benchmark, width=100, quality=None):
    """(text, what of it is bold) of each line."""
    console = Console(width=width, force_terminal=True, color_system="standard")
    rendered = console.render_lines(benchmark_table(benchmark, quality), pad=False)
    return [
        ("".join(s.text for s in line), {s.text.strip() for s in line if s.style and s.style.bold} - {""})
        for line in rendered
    ]


def job_lines(benchmark, **keywords):
    """Lines of jobs: the star, if there is one, and the cells after it."""
    found = []
    for text, bold in lines(benchmark, **keywords):
        cells = text.split()
        star = cells[:1] == ["*"]
        if cells[star : star + 1] and cells[star].isdigit():
            found.append((star, cells[star:], bold))
    return found


def test_every_number_of_every_job_is_there_in_order(sweep):
    sweep.grid()
    benchmark = collect(sweep.folder)
    found = job_lines(benchmark)
    assert [cells[0] for _, cells, _ in found] == [row.folder.name for row in benchmark.rows]
    for (_, cells, _), row in zip(found, benchmark.rows, strict=True):
        settings = [str(row.settings[k]) for k in ("sampler", "sampler.steps")] + [
            f"{row.settings['guidance.scale']:g}"
        ]
        assert cells[1:5] == [*settings, f"{row.evaluations}"]
        for text, value in zip(
            cells[5:], (row.seconds, row.numbers[FD].value, row.numbers[PRECISION].value), strict=True
        ):
            assert float(text) == pytest.approx(value, abs=0.5 * 10.0 ** -len(text.partition(".")[2]))
    evaluations = [float(cells[4]) for _, cells, _ in found]
    assert evaluations == sorted(evaluations)


def test_the_best_of_each_column_is_bold_and_nothing_else(sweep):
    for fd, precision in ((3.0, 0.7), (1.0, 0.5), (2.0, 0.9), (1.0, 0.6)):
        sweep.job(fd, precision, sampler=f"Heun(steps={sweep.jobs + 1})", evaluations_per_sample=sweep.jobs + 1)
    bold = [bold for _, _, bold in job_lines(collect(sweep.folder))]
    assert bold == [set(), {"1.000"}, {"0.9000"}, {"1.000"}]


@pytest.mark.parametrize(
    ("quality", "stars"), [(FD, [True, True, False, False]), (PRECISION, [True, False, True, False])]
)
def test_a_star_marks_the_front(sweep, quality, stars):
    for fd, precision in ((3.0, 0.7), (1.0, 0.5), (2.0, 0.9), (1.0, 0.6)):
        sweep.job(fd, precision, sampler=f"Heun(steps={sweep.jobs + 1})", evaluations_per_sample=sweep.jobs + 1)
    assert [star for star, _, _ in job_lines(collect(sweep.folder), quality=quality)] == stars


def test_what_is_equal_in_all_rows_is_said_once(sweep):
    for steps in (5, 10):
        sweep.job(1.0, sampler=f"DDIM(steps={steps}, eta=0.25)", evaluations_per_sample=steps, step=4321)
    text = "\n".join(text for text, _ in lines(collect(sweep.folder)))
    for said in ("DDIM", "eta 0.25", "4,321", "/runs/first/checkpoints/last.ckpt", "Unguided()", "std005"):
        assert text.count(said) == 1, said
    assert "steps" in text and "Heun" not in text


def test_no_line_is_wider_than_the_table_and_no_number_is_lost(sweep):
    names = [f"{name}_fashion_2000" for name in ("recall", "density", "coverage", "accuracy", "memorized", "novelty")]
    for k in range(3):
        extra = {name: Value(0.1234 + i + k / 100, better=1, real=0.5) for i, name in enumerate(names)}
        sweep.job(1.0, 0.5, extra=extra, sampler=f"DPMSolverPP(steps={k + 10})", evaluations_per_sample=k + 10)
    found = lines(collect(sweep.folder), width=300)
    assert max(len(text.rstrip()) for text, _ in found if not text.startswith((FD, "all rows"))) <= 100
    text = "\n".join(text for text, _ in found)
    for i, k in ((i, k) for i in range(6) for k in range(3)):
        assert f" {0.1234 + i + k / 100:.3f}" in text
    for name in ("recall", "density", "coverage", "accuracy", "memorized", "novelty"):
        assert f" {name} " in text


def test_repeats_are_mean_and_spread(sweep):
    sweep.job(9.0, repeats=spread(FD, 1.25, 0.0625))
    assert "1.250 ± 0.062" in "\n".join(text for text, _ in lines(collect(sweep.folder)))


def test_real_images_stand_below(sweep):
    sweep.job(1.0, 0.5)
    (cells,) = [text.split() for text, _ in lines(collect(sweep.folder)) if text.split()[:1] == ["real"]]
    assert cells == ["real", "0.250", "0.8000"]


def test_notes_are_printed(sweep):
    sweep.job(1.0)
    sweep.fail()
    assert "note: 1 of 2 jobs ended without an evaluation.json: 1." in [
        text for text, _ in lines(collect(sweep.folder))
    ]


def test_headings_leave_out_what_names_share(sweep):
    """Extractor and number of images, where two metrics have them; a name of another kind stays whole."""
    sweep.job(1.0, extra={"bits_per_dim_100": Value(3.0, better=-1)})
    assert shared_ending(list(collect(sweep.folder).columns.values())) == ""
    sweep.job(1.0, 0.5)
    benchmark = collect(sweep.folder)
    assert shared_ending(list(benchmark.columns.values())) == "_fashion_2000"
    text = [text for text, _ in lines(benchmark)]
    assert any({"fd", "precision", "bits_per_dim_100"} <= set(line.split()) for line in text)
    assert "Headings leave _fashion_2000 out." in text


def test_folding_keeps_the_name():
    for name in ("precision_inception_50000@1a2b3c4d", "fd", "a_very_long_name_of_a_metric@PrecisionRecall(k=5)"):
        assert folded(name).replace("\n", "") == name
    assert folded("fd_fashion_2000@1a2b3c4d") == "fd_fashion_2000\n@1a2b3c4d"


def test_baselines_stand_below_the_jobs_each_once(sweep):
    for k, steps in enumerate((10, 5)):
        path = sweep.job(1.0 + k, sampler=f"DDIM(steps={steps}, eta=0.0)") / "evaluation.json"
        result = json.loads(path.read_text())
        fd = {"value": 7.5, "better": -1, "settings": result["metrics"][FD]["settings"]}
        result["baselines"] = {"copy": {FD: fd}, "mean": {FD: {**fd, "value": 8.25 + k}}}
        path.write_text(json.dumps(result))
    benchmark = collect(sweep.folder)
    assert [(row.settings["baseline"], row.numbers[FD].value) for row in benchmark.baselines] == [
        ("copy", 7.5),
        ("mean", 8.25),
        ("mean", 9.25),
    ]
    rows = [text.split() for text, _ in lines(benchmark)]
    assert ["copy", "7.500"] in rows and ["mean", "8.250"] in rows and ["mean", "9.250"] in rows
    assert {row.evaluations for row in benchmark.rows} == {10}, "they are no rows of a Pareto front"
