"""Whether a few-step student is asked where it has learned to answer, and learns where it is going to be asked."""

from collections.abc import Iterator
from math import isclose

import torch

from oboro.base.counted import counted
from oboro.lesson import lesson_of
from oboro.sampler import Sampler
from oboro.schedule import Schedule
from oboro.task.parts import Parts, name

SAME = 1e-6  # of two times, and of two noise levels


def contradictions(parts: Parts) -> Iterator[str]:
    """Whether the sampler goes where the model learned to go."""
    loss, sampler, schedule = parts.loss, parts.sampler, parts.denoiser.schedule
    if loss.teaches_jumps and not sampler.jumps:
        yield (
            f"{name(sampler)} takes x̂0 for a mean and {name(loss)} teaches the end of the flow; choose "
            "sampler=ddim_consistency, or sampler.steps=1."
        )
    made = lesson_of(loss).steps
    if made is not None and not (sampler.names_ends and not sampler.stochastic and equal(sampler, schedule, made)):
        stops = float(schedule(torch.zeros((), dtype=torch.float64, device="cpu"))[1]) > 0
        grid = " sampler/grid=uniform_to_data" if stops else ""
        yield (
            f"{name(loss)} teaches {counted(made, 'steps')} of the uniform grid and nothing between them; choose "
            f"sampler=ddim sampler.steps={made}{grid}."
        )
    least = getattr(loss, "least_noise", None)
    if least is not None:
        low = next((n for n in sampler.nodes(schedule)[:-1] if n.ratio < least * (1 - SAME)), None)
        if low is not None:
            yield (
                f"{name(loss)} teaches noise of sigma / alpha = {least:g} and more, and {name(sampler)} asks at "
                f"{low.ratio:.3g}; lower sampler.steps, or name times above with sampler/grid=times."
            )
    yield from unlearned(parts)


def equal(sampler: Sampler, schedule: Schedule, steps: int) -> bool:
    """Whether the nodes lie at t = 1 - i / ``steps``."""
    asked = [node.t for node in sampler.nodes(schedule)[:-1]]
    return len(asked) == steps and all(isclose(t, 1 - i / steps, abs_tol=SAME) for i, t in enumerate(asked))


def unlearned(parts: Parts) -> Iterator[str]:
    """Whether a student that was trained to draw with a few steps is asked there alone."""
    learned = getattr(parts, "learned_nodes", None)
    if learned is None:
        return
    for node in parts.sampler.nodes(parts.denoiser.schedule)[:-1]:
        if not any(isclose(node.angle, other.angle, abs_tol=SAME) for other in learned):
            times = ", ".join(f"{other.t:.3g}" for other in learned)
            yield (
                f"the student has learned to draw at t={times} alone, with sampler.steps={len(learned)}, and is asked "
                f"at t={node.t:.3g}; set sampler.steps={len(learned)}, or train one with other steps."
            )
            return


def in_training(parts: Parts) -> Iterator[str]:
    """Whether the loss teaches what it is said to."""
    loss, schedule = parts.loss, parts.denoiser.schedule
    alpha, _ = schedule(torch.ones((), dtype=torch.float64, device="cpu"))
    if getattr(loss, "weight", None) == "gap" and float(alpha) == 0:
        yield (
            f"loss.weight=gap is 1 / (difference of sigma / alpha), which is 0 at t=1 on {name(schedule)}: one step "
            "begins where nothing is learned; set loss.weight=angle, or choose schedule=karras."
        )
    if (data := getattr(loss, "sigma_data", None)) is not None:
        weighted = getattr(getattr(loss.weighting, "base", loss.weighting), "sigma_data", data)
        if weighted != data:
            yield (
                f"loss.sigma_data={data:g} and the weight is for data of {weighted:g}; set "
                f"loss.weighting.base.sigma_data={data:g} as well."
            )
    if getattr(loss, "guided", False):
        droppable = {key for key, kind in parts.conditioner.gives.items() if not kind.stays}
        if not droppable:
            yield (
                f"{name(loss)} with a scale of guidance compares the model with and without its condition, and this "
                "model has none; leave loss.guidance_scale out, or train with conditioner=label or text."
            )
        elif undropped := droppable - parts.conditioner.dropped:
            yield (
                f"{name(loss)} with a scale of guidance asks the model without its condition "
                f"{', '.join(sorted(undropped))}, which conditioner.dropout=0 never trains; set "
                "conditioner.dropout=0.1."
            )
