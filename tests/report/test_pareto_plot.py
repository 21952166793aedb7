"""The picture of a benchmark: what is drawn is what was found, and nothing covers it."""

import matplotlib
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.text import Text

from oboro.base.errors import UserError
from oboro.report.collect import collect
from oboro.report.pareto_front import pareto_front
from oboro.report.pareto_plot import benchmark_figure
from report.sweeps import FD, PRECISION, Sweep, spread


def points(line):
    return sorted(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True))


def named(axes, name):
    return next(line for line in axes.lines if line.get_label() == name)


def series(axes):
    """Lines of rows, by name."""
    rest = ("ringed", "front", "_")
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith(rest)}


def legend(figure):
    return [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    sweep = Sweep(tmp_path_factory.mktemp("grid"))
    sweep.grid()
    return collect(sweep.folder)


@pytest.fixture(scope="module")
def figures(grid):
    """By the number that they show."""
    return {name: benchmark_figure(grid, name) for name in (FD, PRECISION)}


@pytest.mark.parametrize("name", [FD, PRECISION])
def test_every_row_is_a_point_of_its_sampler_and_scale(grid, figures, name):
    figure = figures[name]
    costs = (lambda row: row.evaluations, lambda row: row.seconds)
    for axes, cost in zip(figure.axes, costs, strict=True):
        lines = series(axes)
        assert len(lines) == 6
        for label, line in lines.items():
            sampler, scale = label.split(", scale ")
            rows = [
                r for r in grid.rows if (r.settings["sampler"], r.settings["guidance.scale"]) == (sampler, int(scale))
            ]
            assert points(line) == sorted((cost(row), row.numbers[name].value) for row in rows)
            assert list(line.get_xdata()) == sorted(line.get_xdata()), "joined in order of evaluations"


def test_colour_and_marker_tell_samplers_and_filling_and_dashes_scales(figures):
    lines = series(figures[FD].axes[0])
    for look, part in (
        (lambda a: (a.get_color(), a.get_marker()), 0),
        (lambda a: (a.get_fillstyle(), str(a._dash_pattern)), 1),
    ):
        found = {}
        for label, line in lines.items():
            found.setdefault(label.split(", ")[part], set()).add(look(line))
        assert all(len(looks) == 1 for looks in found.values())
        assert len(set().union(*found.values())) == len(found) == (3, 2)[part]


@pytest.mark.parametrize(("name", "better"), [(FD, -1), (PRECISION, 1)])
def test_rings_and_steps_are_the_pareto_front(grid, figures, name, better):
    figure = figures[name]
    for axes, cost in zip(figure.axes, (lambda row: row.evaluations, lambda row: row.seconds), strict=True):
        costs, values = [cost(row) for row in grid.rows], [row.numbers[name].value for row in grid.rows]
        front = [(costs[i], values[i]) for i in pareto_front(costs, values, better)]
        assert points(named(axes, "ringed")) == sorted(front)
        x, y = map(list, named(axes, "front").get_data())
        for at, value in zip(costs, values, strict=True):
            best = max((v for c, v in front if c <= at), key=lambda v: better * v, default=None)
            assert best is None or better * value <= better * best
            under = [v for start, end, v in zip(x[::2], x[1::2], y[::2], strict=True) if start <= at <= end]
            assert best is None or best in under, "the steps run at the best value that a cost buys"


def test_real_images_are_a_line_at_their_value(figures):
    figure = figures[FD]
    for axes in figure.axes:
        (line,) = [line for line in axes.lines if set(line.get_ydata()) == {0.25}]
        assert axes.get_ylim()[0] < 0.25 and line.get_linestyle() == "--"
    assert "real data, 0.25" in legend(figure)


def test_real_images_far_off_are_said_and_not_drawn(sweep):
    for k in (1, 2):
        sweep.job(100.0 + k, sampler=f"Heun(steps={k})", evaluations_per_sample=k)
    figure = benchmark_figure(collect(sweep.folder))
    assert figure.axes[0].get_ylim()[0] > 100 and "outside" in legend(figure)[-1]


def test_bars_are_the_spread_of_repeats(sweep):
    for k in (1, 2, 3):
        repeats = spread(FD, 4.0 / k, 0.5 / k)
        sweep.job(9.0, repeats=repeats, sampler=f"Heun(steps={k})", evaluations_per_sample=k)
    figure = benchmark_figure(collect(sweep.folder))
    for axes in figure.axes:
        (bars,) = axes.collections
        ends = [tuple(segment[:, 1]) for segment in bars.get_segments()]
        assert ends == [pytest.approx((3.5 / k, 4.5 / k)) for k in (1, 2, 3)]
        assert axes.get_ylim()[1] > 4.5


def test_costs_are_logarithmic_with_plain_numbers(figures):
    for axes in figures[FD].axes:
        assert axes.get_xscale() == "log"
        ticks, texts = axes.get_xticks(), [text.get_text() for text in axes.get_xticklabels()]
        assert len(ticks) >= 3
        assert [float(text) for text in texts] == pytest.approx(list(ticks))
        assert not any("e" in text or "$" in text for text in texts)


@pytest.mark.parametrize(("worst", "scale"), [(9.9, "linear"), (10.1, "log")])
def test_values_are_logarithmic_beyond_a_decade(sweep, worst, scale):
    for k, value in enumerate((worst, 1.0), start=1):
        sweep.job(value, sampler=f"Heun(steps={k})", evaluations_per_sample=k)
    assert benchmark_figure(collect(sweep.folder)).axes[0].get_yscale() == scale


def test_values_below_zero_are_linear(sweep):
    for k, value in enumerate((100.0, -1.0), start=1):
        sweep.job(value, sampler=f"Heun(steps={k})", evaluations_per_sample=k)
    assert benchmark_figure(collect(sweep.folder)).axes[0].get_yscale() == "linear"


def test_a_sweep_of_averages_is_drawn_over_their_length(sweep):
    found = {0.02: 5.0, 0.05: 3.0, 0.1: 2.0, 0.15: 4.0}
    for std, value in reversed(found.items()):
        sweep.job(value, ema=f"std{f'{std:.3f}'.replace('.', '')}")
    (axes,) = benchmark_figure(collect(sweep.folder)).axes
    (line,) = series(axes).values()
    assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) == found
    assert list(line.get_xdata()) == sorted(found)
    assert axes.get_xscale() == "linear" and "EMA std" in axes.get_xlabel()
    assert points(named(axes, "ringed")) == [(0.1, 2.0)]
    assert "2 at 0.1" in [text.get_text() for text in axes.texts]


def test_checkpoints_are_drawn_over_their_step_one_line_a_run(sweep):
    for run in "ab":
        for step in (1000, 2000, 4000):
            checkpoint = f"/outputs/{run}/checkpoints/step{step}.ckpt"
            sweep.job(step / 1000 + ord(run), checkpoint=checkpoint, step=step)
    figure = benchmark_figure(collect(sweep.folder))
    (axes,) = figure.axes
    lines = series(axes)
    assert {name: points(line) for name, line in lines.items()} == {
        run: [(step, step / 1000 + ord(run)) for step in (1000, 2000, 4000)] for run in "ab"
    }
    assert axes.get_xlabel() == "training step" and legend(figure)[:2] == ["a", "b"]


def test_a_sweep_of_one_number_is_drawn_over_it_though_its_cost_varies(sweep):
    """Scale 1 costs half of the others."""
    for scale in (1.0, 1.5, 3.0):
        evaluations = 10 if scale == 1 else 20
        sweep.job(scale, guidance=f"ClassifierFree(scale={scale})", evaluations_per_sample=evaluations)
    (axes,) = benchmark_figure(collect(sweep.folder)).axes
    assert axes.get_xlabel() == "scale" and next(iter(series(axes).values())).get_xdata() == [1.0, 1.5, 3.0]


def test_averages_at_different_costs_are_drawn_over_cost(sweep):
    for std in ("005", "010"):
        for steps in (5, 10):
            sweep.job(1.0 / steps, ema=f"std{std}", sampler=f"Heun(steps={steps})", evaluations_per_sample=steps)
    figure = benchmark_figure(collect(sweep.folder))
    assert len(figure.axes) == 2 and set(series(figure.axes[0])) == {"EMA std 0.05", "EMA std 0.1"}


def test_numbers_measured_otherwise_are_not_drawn(sweep):
    for k in (1, 2):
        for seed in (0, 1):
            sweep.job(k + 10.0 * seed, seed=seed, sampler=f"Heun(steps={k})", evaluations_per_sample=k)
    benchmark = collect(sweep.folder)
    figure = benchmark_figure(benchmark)
    (line,) = series(figure.axes[0]).values()
    assert points(line) == [(1.0, 1.0), (2.0, 2.0)]
    assert "2 jobs without this number" in figure.get_supxlabel().replace("\n", " ")
    assert next(iter(benchmark.columns)) in figure.get_suptitle()


def test_one_job_and_no_number(sweep):
    sweep.job(2.0, float("nan"))
    benchmark = collect(sweep.folder)
    assert [points(line) for line in series(benchmark_figure(benchmark).axes[0]).values()] == [[(10.0, 2.0)]]
    with pytest.raises(UserError, match="not finite"):
        benchmark_figure(benchmark, PRECISION)


def test_title_and_caption_say_what_was_measured(figures):
    figure = figures[FD]
    caption = figure.get_supxlabel().replace("\n", " ")
    assert FD in figure.get_suptitle() and "2,000" in figure.get_suptitle() and "lower" in figure.get_suptitle()
    for said in (
        "fashion@4fd7f9",
        "uint8 round",
        "seed 0",
        "60,000 train@8e0b96",
        "std005",
        "32-true on cpu",
        "30,000",
    ):
        assert said in caption
    assert "DDIM(" not in caption, "what varies is not said as if it did not"


def boxes(figure):
    """Extents of labels, points and legend of each panel, in pixels."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        labels = [text.get_window_extent() for text in axes.texts]
        at = [xy for line in series(axes).values() for xy in axes.transData.transform(line.get_xydata())]
        yield axes, labels, at


@pytest.mark.parametrize("name", [FD, PRECISION])
def test_labels_cover_no_point_and_no_label(figures, name):
    figure = figures[name]
    for axes, labels, at in boxes(figure):
        assert labels, "some of the front has a name"
        for i, box in enumerate(labels):
            assert not any(box.x0 - 4 < x < box.x1 + 4 and box.y0 - 4 < y < box.y1 + 4 for x, y in at)
            assert not box.count_overlaps(labels[:i])
            assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            assert axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1


@pytest.mark.parametrize("name", [FD, PRECISION])
def test_text_is_large_enough_inside_and_apart_from_the_data(figures, name):
    figure = figures[name]
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in texts) >= 8
    frame = figure.axes[-1].get_legend().get_window_extent()
    assert not any(frame.overlaps(axes.bbox) for axes in figure.axes)
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
    for axes in figure.axes:
        ticks = [text.get_window_extent() for text in axes.get_xticklabels()]
        assert not any(box.count_overlaps(ticks[:i]) for i, box in enumerate(ticks))


def test_no_global_figure_and_no_changed_setting(grid):
    before = dict(matplotlib.rcParams)
    benchmark_figure(grid)
    assert not Gcf.figs and dict(matplotlib.rcParams) == before


def test_a_long_legend_stays_inside_of_the_picture_and_above_the_caption(tmp_path):
    sweep = Sweep(tmp_path)
    for k in range(18):
        for steps in (5, 10):
            sampler = f"Sampler{k}(steps={steps}, some_setting={k}.0)"
            sweep.job(9 - steps / 10 + k, sampler=sampler, evaluations_per_sample=steps)
    figure = benchmark_figure(collect(sweep.folder))
    figure.draw_without_rendering()
    box, caption = figure.axes[-1].get_legend().get_window_extent(), figure._supxlabel.get_window_extent()
    assert len(legend(figure)) == 20 and box.y0 > caption.y1 and box.x1 <= figure.bbox.x1
