"""Parts that are right by themselves and wrong together, found before anything is trained or drawn.

Each rule reads what the parts declare (whether a sampler draws noise, whether a guidance leaves out the condition),
so a new part is held to it by its own answer and not by its name.
"""

from collections.abc import Iterator
from math import isclose

import torch

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.conditioner import Conditioner
from oboro.conditioner import Image as Picture
from oboro.denoiser.latent import encodes
from oboro.guidance import Guidance
from oboro.lesson import Lesson, lesson_in, lesson_of
from oboro.sampler import nodes
from oboro.task import few_steps, guidance_scale, measurements
from oboro.task.parts import Parts, name

# alpha / sigma at the first node. Samplers begin there with noise alone; more would be missed in the mean of an image.
NEGLIGIBLE = 0.1


def check(parts: Parts, measured: bool = False) -> None:
    """Raises ``UserError`` with the first contradiction and the nearest combination that makes sense.

    ``measured``: whether samples are drawn of a measurement. The guidance is applied once, so that a file it needs is
    read now or reported as missing.
    """
    for reason in (*contradictions(parts), *measurements.contradictions(parts, measured)):
        raise UserError(reason)
    for reason in compared(parts.guidance, lesson_of(parts.loss)):
        raise UserError(reason)
    parts.guidance(parts.denoiser, parts.sampler.nodes(parts.denoiser.schedule))


def contradictions(parts: Parts) -> Iterator[str]:
    """Sentences with the reason and the remedy."""
    yield from conditions(parts.guidance, parts.conditioner)
    yield from coupled(parts)
    yield from steps(parts)
    yield from holes(parts)
    yield from ends(parts)
    yield from guidance_scale.contradictions(parts)
    yield from few_steps.contradictions(parts)
    yield from one_level(parts)
    yield from one_step(parts)
    if parts.sampler.asks_variance and not parts.loss.teaches_variance:
        yield (
            f"{name(parts.sampler)} draws with a variance that {name(parts.loss)} does not teach; train with "
            "loss=hybrid model.learned_variance=true, or choose sampler=ddim_ancestral."
        )


def conditions(guidance: Guidance, conditioner: Conditioner) -> Iterator[str]:
    """Whether the model knows what guidance is going to ask."""
    given = conditioner.gives
    droppable = {key for key, kind in given.items() if not kind.stays}
    left_out = guidance.leaves_out(droppable)
    undropped = left_out & droppable - conditioner.dropped
    if guidance.drops and not (given and left_out):
        yield (
            f"{name(guidance)} compares the model with and without its condition, and this model has none; choose "
            "guidance=unguided or guidance=autoguidance, or train with conditioner=label or text."
        )
    elif undropped:
        yield (
            f"{name(guidance)} asks the model without its condition {', '.join(sorted(undropped))}, which "
            "conditioner.dropout=0 never trains; train with conditioner.dropout=0.1, or choose guidance=unguided or "
            "guidance=autoguidance."
        )
    away, count = getattr(guidance, "negative", {}).get("label"), conditioner.num_classes
    if away is not None and "label" in given and not 0 <= away < count:
        yield (
            f"{name(guidance)} goes away from class {away} of label and there are 0 to {count - 1}; set "
            "guidance.negative to one of them."
        )
    missing = [
        f"{key} as a {kind.__name__.lower()}" if key in given else key
        for key, kind in sorted(guidance.reads.items())
        if not issubclass(given.get(key, type(None)), kind)
    ]
    if missing:
        yield (
            f"{name(guidance)} needs the condition {', '.join(missing)}, and the model has "
            f"{', '.join(sorted(given)) or 'none'}; choose another guidance, or change what it names with "
            "guidance.label, guidance.negative or guidance.scales."
        )


def ends(parts: Parts) -> Iterator[str]:
    """Whether the network sees where it is taught to jump to."""
    if parts.loss.needs_end and not parts.denoiser.reads_end:
        yield (
            f"{name(parts.loss)} teaches jumps to any end and {name(parts.denoiser.network)} reads none; set "
            "model.reads_end=true, or choose loss=continuous_consistency, whose jumps all end in data."
        )


def holes(parts: Parts) -> Iterator[str]:
    """Whether what the loss leaves out comes from somewhere."""
    if getattr(parts.loss, "region", "all") == "all":
        return
    pictures = [single for single in parts.conditioner.singles if isinstance(single, Picture) and single.hint.has_hole]
    if not pictures:
        yield (
            "loss.region=hole learns the hole of a picture and no condition has one; choose hint=mask_box or another "
            "mask with conditioner=image, or loss.region=all."
        )
    elif any(single.latent for single in pictures):
        yield (
            "loss.region=hole is for models of pixels: latents at the border of a hole have a part of it; choose "
            "loss.region=all."
        )
    elif not any(single.hint.keeps_known for single in pictures):
        yield (
            "loss.region=hole teaches nothing of known pixels, and with hint.keep_known=false samples do not have them "
            "from the picture; set hint.keep_known=true, or loss.region=all."
        )


def coupled(parts: Parts) -> Iterator[str]:
    """Whether x̂0 is the mean that the sampler takes it for."""
    if not parts.loss.coupling.independent and parts.sampler.stochastic:
        yield (
            f"{name(parts.sampler)} draws noise by the score of x_t, which a model trained with "
            f"{name(parts.loss.coupling)} does not know, only the flow; choose a sampler without noise, such as "
            "sampler=heun or sampler.eta=0, or train with loss/coupling=independent."
        )
    if not parts.loss.coupling.independent and parts.guidance.follows_score:
        yield (
            f"{name(parts.guidance)} adds to the score of x_t, which a model trained with {name(parts.loss.coupling)} "
            "does not know, only the flow; choose guidance=classifier_free, or train with loss/coupling=independent."
        )
    limit = lesson_of(parts.loss).limit
    if limit is not None and parts.guidance.follows_score:
        yield (
            f"{name(parts.guidance)} adds to the score of x_t, which only the mean of the data gives, and a model of "
            f"{name(parts.loss)} {limit}; choose guidance=classifier_free, or a checkpoint of loss=denoising."
        )
    parameterization = parts.denoiser.parameterization
    if parameterization.boundary and not parts.loss.teaches_jumps:
        yield (
            f"{name(parameterization)} holds x̂0 for the end of the flow and {name(parts.loss)} teaches a mean; choose "
            "parameterization=edm, which is the same without a boundary."
        )
    if parameterization.boundary and not parts.sampler.jumps:
        yield (
            f"{name(parts.sampler)} takes x̂0 for a mean and {name(parameterization)} holds it for the end of the flow; "
            "choose sampler=ddim_consistency, or parameterization=edm for samplers that solve the flow."
        )


def compared(guidance: Guidance, own: Lesson) -> Iterator[str]:
    """Whether the models that ``guidance`` reads answer the question that the guided one has learned to answer."""
    for model in guidance.compared:
        other = lesson_in(model.checkpoint["config"]["task"])
        if other != own:
            only = f"{model.path} {other.limit}" if other.limit else f"the guided one {own.limit}"
            yield (
                f"{name(guidance)} compares two models of one kind, and {only}; set its weak.path to a model that was "
                "trained with the same loss."
            )


def one_level(parts: Parts) -> Iterator[str]:
    """Whether a model of a single noise level is asked there alone."""
    taught, schedule = lesson_of(parts.loss).time, parts.denoiser.schedule
    if taught is None:
        return
    asked = [node.t for node in parts.sampler.nodes(schedule)[:-1]]
    other = next((t for t in asked if not isclose(t, taught, rel_tol=1e-6)), None)
    if other is not None:
        remedy = "sampler=ddim sampler.steps=1" if taught == 1 else f"sampler=walk_back sampler.level={taught:g}"
        yield (
            f"loss/time=fixed teaches the noise level of t={taught:g} alone and {name(parts.sampler)} asks at "
            f"t={other:.3g}; choose {remedy}."
        )


def one_step(parts: Parts) -> Iterator[str]:
    """Whether a network that reads a few numbers of pure noise is taught and asked as such, and a loss that encodes
    has a network that can."""
    network, loss = parts.denoiser.network, parts.loss
    if getattr(loss, "encodes", False) and not encodes(network):
        yield f"{name(loss)} asks for the latent of a sample and {name(network)} has no encoder; choose model=vae."
    if not hasattr(network, "latent"):
        return
    if not lesson_of(loss).generates_alone:
        yield (
            f"{name(network)} makes samples of noise in one step and {name(loss)} teaches another thing; choose "
            "task=gan, or loss=variational with model=vae, or model=unet_tiny."
        )
    one = torch.ones(1, dtype=torch.float64, device="cpu")
    alpha, sigma = parts.denoiser.schedule(one)
    c_skip = parts.denoiser.parameterization(alpha, sigma).c_skip
    if c_skip.abs().max() > 0:
        yield (
            f"{name(network)} makes whole samples and {name(parts.denoiser.parameterization)} adds the noise to them "
            "that it is asked with; choose parameterization=x0."
        )


def check_learning(parts: Parts) -> None:
    """Raises ``UserError`` where the loss does not teach what it is said to. For training: what has been learned is
    drawn from and measured all the same."""
    for reason in few_steps.in_training(parts):
        raise UserError(reason)


def check_teacher(parts: Parts) -> None:
    """Raises ``UserError`` where the teacher does not know what the loss asks it. For training: to draw from a student
    nothing of its teacher is read."""
    for reason in taught(parts):
        raise UserError(reason)


def taught(parts: Parts) -> Iterator[str]:
    """Sentences with the reason and the remedy."""
    loss, teacher = parts.loss, parts.loss.teacher
    if teacher is None:
        return
    lesson = teacher.lesson
    if lesson.jumps and not getattr(loss, "learns_from_jumps", False):
        yield (
            f"the teacher {teacher.path} jumps to the end of the flow, and {name(loss)} asks it for means; name the "
            "model that it was made of with loss.teacher.path=<a checkpoint>."
        )
    if not lesson.jumps and getattr(loss, "learns_from_jumps", False):
        yield (
            f"the teacher {teacher.path} is a denoiser, and {name(loss)} goes on from a consistency model; train one "
            "with loss=consistency_easy and start from it with init=<its checkpoint>."
        )
    if lesson.time is not None:
        yield (
            f"the teacher {teacher.path} knows one noise level and {name(loss)} asks it at many; name a model of "
            "task=diffusion with loss.teacher.path=<a checkpoint>."
        )
    made, asked = lesson.steps, getattr(loss, "asks_steps", None)
    if made is not None and made != asked and lesson.time is None:
        other = f" of {asked} steps" if asked else ""
        yield (
            f"the teacher {teacher.path} makes {counted(made, 'steps')} of the uniform grid and knows nothing between "
            f"them, and {name(loss)} asks it for others{other}; choose loss=progressive loss.steps={max(made // 2, 1)} "
            "loss.teacher_steps=2 loss.solver=ddim, or name the model that it was made of with "
            "loss.teacher.path=<a checkpoint>."
        )
    yield from compared(teacher.guidance, lesson)
    if teacher.drops and not teacher.knows_no_condition:
        yield (
            f"{name(teacher.guidance)} asks the teacher {teacher.path} without its condition, which it was never "
            "trained on; choose guidance@loss.teacher.guidance=unguided."
        )


def steps(parts: Parts) -> Iterator[str]:
    """Whether the grid is one for this schedule and this guidance."""
    sampler, schedule = parts.sampler, parts.denoiser.schedule
    first, (end,) = sampler.nodes(schedule)[0], nodes(schedule, [1.0])
    if first.t < 1 and first.alpha > NEGLIGIBLE * first.sigma and not sampler.forgets_start:
        ends = "all signal is gone" if end.alpha == 0 else f"{end.alpha / end.sigma:.2g} is left"
        yield (
            f"{name(sampler.grid)} with {counted(sampler.steps, 'steps')} begins at t={first.t:.3g}, where the signal "
            f"still is {first.alpha / first.sigma:.2g} of the noise and sampling has none ({ends} at t=1); choose "
            "sampler/grid=trailing or sampler/grid=uniform, or more steps."
        )
    if parts.guidance.stepwise and not sampler.walks_grid:
        yield (
            f"{name(parts.guidance)} means the steps of a time grid and {name(sampler)} takes others; choose "
            "guidance=classifier_free, or a sampler with fixed steps such as sampler=dpm_solver_pp."
        )
