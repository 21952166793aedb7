"""Times of a few steps, searched by what samples score."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import log, pi, tan

import torch

from oboro.sampler import nodes
from oboro.schedule import Schedule

NOISY = 0.1  # alpha / sigma at the first time: with more signal a walk would miss it (task.contradictions)


def angle(schedule: Schedule, t: float) -> float:
    """2/pi arctan(sigma / alpha) at ``t``: noise levels of all schedules on [0, 1]."""
    return nodes(schedule, [t])[0].angle


def time_of(schedule: Schedule, at: float) -> float:
    """The time of an angle, held in [0, 1]."""
    log_snr = torch.tensor([-2 * log(tan(pi / 2 * min(max(at, 1e-9), 1 - 1e-9)))], dtype=torch.float64, device="cpu")
    return schedule.t_from_log_snr(log_snr).clamp(0, 1).item()


def tuned_times(
    start: Sequence[float], schedule: Schedule, score: Callable[[list[float]], float], rounds: int, candidates: int = 4
) -> tuple[list[float], float, float]:
    """The times, with that of the data at the end, for which ``score`` is lowest, that score, and the one of
    ``start``.

    Coordinate search from ``start``: in each of ``rounds`` every time but the last takes the best of its own place and
    of ``candidates`` others, even in the angle of the noise level. In the first round they fill what lies between its
    neighbours, and in each later one half of that about its place. The first time stays where hardly any signal is
    left. ``score`` is called once for each list.
    """
    known: dict[tuple[float, ...], float] = {}

    def of(times: Sequence[float]) -> float:
        key = tuple(times)
        if key not in known:
            known[key] = score(list(times))
        return known[key]

    best, top = list(start), angle(schedule, 1.0)
    lowest = 2 / pi * torch.atan(torch.tensor(1 / NOISY)).item()
    for k in range(rounds):
        for i in range(len(best) - 1):
            below = angle(schedule, best[i + 1]) if i + 2 < len(best) else 0.0
            above = top if i == 0 else angle(schedule, best[i - 1])
            below = max(below, min(lowest, top)) if i == 0 else below
            here, width = angle(schedule, best[i]), (above - below) / 2**k
            low, high = max(below, here - width / 2) if k else below, min(above, here + width / 2) if k else above
            places = [low + (high - low) * (j + 1) / (candidates + 1) for j in range(candidates)]
            tried = [[*best[:i], time_of(schedule, place), *best[i + 1 :]] for place in places]
            best = min([best, *(times for times in tried if falling(times))], key=of)
    return best, of(best), of(start)


def falling(times: Sequence[float]) -> bool:
    return all(b < a for a, b in pairwise(times))
