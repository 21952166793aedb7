"""The picture of few steps: what each line goes through."""

import pytest

from oboro.metrics import Value
from oboro.report.collect import collect
from oboro.report.curve import best_at_each, curve_figure, has_curve, shown
from report.sweeps import Sweep

TEACHER, STUDENT = ("/runs/teacher/checkpoints/last.ckpt", "/runs/student/checkpoints/last.ckpt")
SCORES = {  # evaluations: the teacher's with two solvers, the student's
    1: (90.0, 80.0, 12.0),
    2: (40.0, 45.0, 8.0),
    4: (20.0, 15.0, 7.0),
}


def written(folder, trained=(1000, 5000)):
    sweep = Sweep(folder)
    for evaluations, scores in SCORES.items():
        for k, (score, sampler) in enumerate(zip(scores, ("DDIM", "Euler", "DDIM"), strict=True)):
            path = sweep.job(
                score,
                checkpoint=STUDENT if k == 2 else TEACHER,
                sampler=f"{sampler}(steps={evaluations})",
                evaluations_per_sample=evaluations,
                extra={"recall_fashion_2000": Value(0.1 * evaluations, better=1, settings={"name": "Recall"})},
            )
            text = (path / "evaluation.json").read_text().rstrip("}\n ")
            known = trained[k == 2]
            (path / "evaluation.json").write_text(text + (f', "training_evaluations": {known}}}' if known else "}"))
    return sweep.folder


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    return collect(written(tmp_path_factory.mktemp("curve")))


def lines(axes):
    return {
        line.get_label(): list(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True))
        for line in axes.lines
        if line.get_label() in ("teacher", "student")
    }


def test_of_each_model_the_best_at_equal_evaluations_is_joined(benchmark):
    found = best_at_each(benchmark.rows, shown(benchmark)[0])
    scores = {name: [row.numbers["fd_fashion_2000"].value for row in rows] for name, rows in found.items()}
    assert scores == {"teacher": [80.0, 40.0, 15.0], "student": [12.0, 8.0, 7.0]}


def test_panels_are_of_distance_and_recall_against_both_costs(benchmark):
    figure = curve_figure(benchmark)
    distance, cost, recall, _ = figure.axes
    assert lines(distance) == {"teacher": [(1, 80), (2, 40), (4, 15)], "student": [(1, 12), (2, 8), (4, 7)]}
    assert {x for x, _ in lines(cost)["teacher"]} == {1000} and {x for x, _ in lines(cost)["student"]} == {5000}
    assert lines(recall)["student"] == [(1, 0.1), (2, 0.2), (4, 0.4)]


def test_a_model_of_unknown_cost_is_in_the_first_panel_alone(tmp_path):
    found = collect(written(tmp_path, (None, 5000)))
    figure = curve_figure(found)
    assert set(lines(figure.axes[0])) == {"teacher", "student"} and lines(figure.axes[1])["teacher"] == []


def test_there_is_a_curve_where_models_and_evaluations_differ(benchmark, tmp_path):
    assert has_curve(benchmark)
    one = Sweep(tmp_path / "one")
    one.job(5.0), one.job(4.0, evaluations_per_sample=20)
    assert not has_curve(collect(one.folder))


def test_several_sweeps_are_read_as_one(benchmark, tmp_path):
    other = Sweep(tmp_path)
    other.job(3.0, checkpoint="/runs/other/checkpoints/last.ckpt", evaluations_per_sample=8)
    both = collect(benchmark.rows[0].folder.parent, tmp_path)
    assert len(both.rows) == len(benchmark.rows) + 1
    assert set(best_at_each(both.rows, shown(both)[0])) == {"teacher", "student", "other"}
