"""Samples of all jobs: whose they are, in the order of the table."""

import numpy as np
import pytest
from PIL import Image

from oboro.report.collect import collect
from oboro.report.strip import strip_image
from report.sweeps import samples


def right(strip, width, rows, height):
    """The samples' part of the strip, row by row."""
    top = strip.height - rows * height
    box = (strip.width - width, top, strip.width, strip.height)
    part = np.asarray(strip.crop(box))
    return [part[i * height : (i + 1) * height] for i in range(rows)]


def left(strip, width, rows, height):
    pixels = np.asarray(strip)[:, :-width]
    top = strip.height - rows * height
    return [pixels[:top], *(pixels[top + i * height : top + (i + 1) * height] for i in range(rows))]


def test_rows_are_the_samples_in_the_order_of_the_table(sweep):
    sweep.grid()
    benchmark = collect(sweep.folder)
    pictures = {row.folder.name: samples(row.folder) for row in benchmark.rows}
    found = right(strip_image(benchmark), 700, 24, 70)
    assert [row.folder.name for row in benchmark.rows] != [str(k) for k in range(24)], "the bite: an order of its own"
    for row, pixels in zip(benchmark.rows, found, strict=True):
        assert np.array_equal(pixels, np.asarray(pictures[row.folder.name].convert("RGB")))


def test_images_have_one_width_whatever_they_came_in(sweep):
    for k, height in enumerate((70, 140)):
        samples(sweep.job(1.0 + k, evaluations_per_sample=k + 1), height=height)
    first, second = right(strip_image(collect(sweep.folder)), 700, 2, 70)
    small = Image.open(sweep.folder / "1" / "samples.png").resize((700, 70), Image.Resampling.LANCZOS)
    assert first.shape == second.shape and np.abs(second[..., 0].astype(int) - np.asarray(small)).max() <= 1


def test_large_images_are_made_smaller(sweep):
    samples(sweep.job(1.0), height=520, columns=2)
    assert strip_image(collect(sweep.folder)).height < 250


def test_a_job_without_samples_keeps_its_row(sweep):
    for k in range(3):
        sweep.job(1.0 + k, evaluations_per_sample=k + 1)
    last = samples(sweep.folder / "2")
    found = right(strip_image(collect(sweep.folder)), 700, 3, 70)
    assert np.array_equal(found[2], np.asarray(last.convert("RGB")))
    assert (found[0] == 255).all() and (found[1] == 255).all()


@pytest.mark.parametrize(
    ("changed", "others"),
    [({"evaluations_per_sample": 12}, {}), ({"sampler": "Heun(steps=31)"}, {}), ({}, {"distance": 7.5})],
)
def test_the_text_beside_a_row_is_its_own(sweep, changed, others, tmp_path):
    """Another setting or value of the middle job changes the text of its row alone."""
    strips = []
    for k, (settings, value) in enumerate((({}, 3.0), (changed, others.get("distance", 3.0)))):
        sweep.folder, sweep.jobs = tmp_path / str(k), 0
        for steps in (10, 20, 30):
            own = settings if steps == 20 else {}
            distance = value if steps == 20 else 2.0 + steps / 10
            evaluations = {"evaluations_per_sample": steps // 2, "sampler": f"Heun(steps={steps})", **own}
            samples(sweep.job(distance, **evaluations))
        strips.append(left(strip_image(collect(sweep.folder)), 700, 3, 70))
    same = [a.shape == b.shape and np.array_equal(a, b) for a, b in zip(*strips, strict=True)]
    assert same == [True, True, False, True]


def test_text_keeps_off_the_samples(sweep):
    sweep.grid()
    benchmark = collect(sweep.folder)
    for row in benchmark.rows:
        samples(row.folder)
    for pixels in left(strip_image(benchmark), 700, 24, 70):
        ink = (pixels < 255).any(-1)
        assert ink.any() and not ink[:, -4:].any() and not ink[:, :4].any()
        assert not ink[:2].any() and not ink[-2:].any(), "and off the row above and below"
