"""Parts that work together and do something else than they seem to, for the user to know before the work begins."""

from collections.abc import Iterator, Sequence

from oboro.base.counted import counted
from oboro.base.remark import remark
from oboro.optimizer import Optimizer
from oboro.sampler.grid import Uniform
from oboro.task.parts import Parts, name

# Relative size of an update below which pictures differ by one level of 256 at most, as rounding in bf16 makes them,
# too: measured with adapters of 3 (2e-5), 20 (5e-4) and 200 steps (2e-2: a tenth of all pixels by two levels or more).
VISIBLE = 1e-3


def say(parts: Parts, labels: Sequence[int] = ()) -> None:
    """A remark for each; ``labels`` are the classes that are going to be drawn, if they are chosen already."""
    for sentence in remarks(parts, labels):
        remark(sentence)


def remarks(parts: Parts, labels: Sequence[int] = ()) -> Iterator[str]:
    """Sentences with what happens, and with the way to what was probably meant."""
    guidance, sampler = parts.guidance, parts.sampler
    if idle := guidance.idle:
        listed = " and ".join(f"guidance.{key}" for key in idle)
        yield (
            f"{name(guidance)} leaves the model as it is with this guidance.scale, so {listed} "
            f"change{'s' if len(idle) == 1 else ''} nothing; set another guidance.scale, such as 3."
        )
    target = guidance.target
    if target is not None and "label" in parts.conditioner.gives and set(labels) != {target}:
        yield (
            f"{name(guidance)} pulls every sample towards class {target}, by guidance.label, and the model draws the "
            f"class of each sample's own label; set label={target} as well, or leave guidance.label out."
        )
    listed_steps = sampler.grid.listed_steps
    if sampler.walks_grid and listed_steps not in (None, sampler.steps):
        yield (
            f"sampler.grid lists {listed_steps + 1} values, a grid of {counted(listed_steps, 'steps')}, and "
            "sampler.steps is "
            f"{sampler.steps}, so {name(sampler.grid)} is interpolated; set sampler.steps={listed_steps} for the "
            "values as they are listed."
        )
    if not sampler.walks_grid and not isinstance(sampler.grid, Uniform):
        yield (
            f"{name(sampler)} chooses its own steps and takes of sampler.grid the ends alone; leave sampler/grid out, "
            "or choose a sampler with fixed steps such as sampler=dpm_solver_pp."
        )


def remark_small(update: float) -> None:
    """Of an adapter that moves its layers by ``update``, relative to their weights, where no picture shows it."""
    if update < VISIBLE:
        remark(
            f"the adapter changes its layers by {100 * update:.2g} % of their weights, which samples hardly show; "
            "raise trainer.max_steps or optimizer.lr."
        )


def remark_warmup(optimizer: Optimizer, max_steps: int) -> None:
    """Where the learning rate is 0 throughout, or training ends before it is reached."""
    if optimizer.lr == 0:
        remark("optimizer.lr=0 leaves the weights as they are; set a rate above 0 to train.")
    if 0 < max_steps < optimizer.warmup_steps:
        peak = max(optimizer.factor(step, max_steps) for step in range(max_steps))
        remark(
            f"optimizer.warmup_steps={optimizer.warmup_steps} is more than trainer.max_steps={max_steps}, so the "
            f"learning rate reaches {100 * peak:.2g} % of optimizer.lr at most; lower optimizer.warmup_steps to train "
            "at the full rate."
        )
