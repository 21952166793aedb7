"""The search for times, against scores whose minimum is known."""

import pytest

from oboro.evaluate.few_steps import angle, falling, time_of, tuned_times
from oboro.schedule import VP, Karras, Linear

SCHEDULES = {"linear": Linear(), "vp": VP(), "karras": Karras()}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_angles_are_those_of_the_schedule(schedule):
    for t in (0.1, 0.5, 0.9):
        assert time_of(schedule, angle(schedule, t)) == pytest.approx(t, rel=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_best_angles_are_found_on_every_schedule(schedule):
    """A score that is least at given angles: they are found as closely as the last round looks."""
    wanted = [0.97, 0.62, 0.33]
    asked = []

    def score(times):
        return sum((angle(schedule, t) - w) ** 2 for t, w in zip(times[:-1], wanted, strict=True))

    def once(times):
        asked.append(tuple(times))
        return score(times)

    times, best, before = tuned_times([1.0, 0.6, 0.3, 0.0], schedule, once, rounds=5)
    assert [angle(schedule, t) for t in times[:-1]] == pytest.approx(wanted, abs=0.012)
    assert best == min(map(score, asked)) < before == score([1.0, 0.6, 0.3, 0.0])
    assert len(asked) == len(set(asked)) and all(map(falling, asked))
    assert min(angle(schedule, times[0]) for times in asked) > 0.93  # alpha / sigma stays below a tenth


def test_no_round_leaves_the_times_as_they_are():
    times, best, before = tuned_times([1.0, 0.5, 0.0], Linear(), sum, rounds=0)
    assert times == [1.0, 0.5, 0.0] and best == before == 1.5
