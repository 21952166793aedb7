"""Going on with a run: what may differ from what its checkpoint was trained with, and what may not.

The rule: what changes the function that is being learned, or the stream of data and noise that it is learned from, is
refused. What changes only how the run is carried out or looked at is applied, and shown. Of the optimizer everything
but its class may change: its state fits every learning rate.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.utils import _locate
from hydra.utils import get_class, instantiate

from oboro.base.errors import UserError
from oboro.base.paths import with_absolute_paths
from oboro.restore.beside import BESIDE, LEFT_OUT, moved, output_folder, restored
from oboro.restore.checkpoint import check_kind, option_of
from oboro.restore.evaluated import unfinished

Place = tuple[str, ...]
COMPARED = ("seed", "task", "data", "extractor", "metrics", *BESIDE)
ABSENT = "absent"
# Where data lie: another place is no other data where the fingerprint is the same.
PLACES_OF_DATA = ("root", "path", "shards", "prior_root", "hints", "cache_dir", "num_workers")
LEARNED = {"distillation": ("sampler",)}  # of a task: what is looked at in others, and what it learns
LOOKED_AT = ("sampler", "guidance", "extractor", "metrics", "callbacks", "logger")
OPTIMIZERS = ("optimizer", "fake_optimizer", "discriminator_optimizer")
CARRIED_OUT = ("divergence",)  # what follows a step that fails
# Of the trainer: what changes which samples a step sees.
STREAM = ("use_distributed_sampler", "limit_train_batches", "overfit_batches", "reload_dataloaders_every_n_epochs")
# Of any part: memory against time, and what pictures during training show.
HOW_IT_RUNS = ("checkpointing", "prompts", "compile")
TEACHER = ".teacher.path"  # where it lies; which it is, is told by its digest
NOISE = "task.noise"  # on how many devices a run has which noise: as the number of devices itself
FUNCTION = "it changes the function that is being learned"
OF_DATA = "it changes the data that a step sees"
REASONS = {
    "seed": "the order of the data and the noise follow from it",
    "ema": "the averages that are kept cannot become others",
    **dict.fromkeys(OPTIMIZERS, "its state is of another optimizer"),
    "data": OF_DATA,
    "trainer": OF_DATA,
}


class NothingLeft(UserError):
    """The run is at its last step already."""


@dataclass(frozen=True)
class Difference:
    """A setting by its name on the command line, in the checkpoint and in the run that goes on from it."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {shown(self.before)} in the checkpoint, {shown(self.now)} now"

    @property
    def refusal(self) -> str | None:
        """Why training cannot go on with it; None where it can."""
        root, _, rest = self.key.partition(".")
        name = self.key.rpartition(".")[2]
        if self.key == NOISE or root in (*LOOKED_AT, *CARRIED_OUT):
            return None
        if self.key.endswith(TEACHER):
            return None
        if root not in ("data", "trainer", "seed", "ema") and name in HOW_IT_RUNS:
            return None
        if root == "trainer" and rest not in STREAM:
            return None
        if root == "data" and rest.partition(".")[0] in PLACES_OF_DATA:
            return None
        if root in OPTIMIZERS and rest not in ("", "_target_"):
            return None
        if root == "data" and rest == "seed":
            return REASONS["seed"]
        return REASONS.get(root, FUNCTION)


def go_on(
    now: dict[str, Any], checkpoint: dict[str, Any], path: str | Path, wiring: Callable[[str], Mapping[str, Place]]
) -> list[str]:
    """What to say of a run with the stored configuration ``now`` that goes on from ``checkpoint``: a line for each
    setting that differs. ``wiring`` gives the options that a kind of task is made of, by their places in it.

    Raises ``UserError`` where it cannot go on with one of them, or where nothing is left to train or to measure.
    """
    kind = option_of(get_class(now["task"]["_target_"]))
    check_kind(checkpoint, path, kind)
    config = checkpoint["config"]
    beside, left_out = restored(config, path)
    here = {group: moved(node, output_folder(config), now["output_dir"]) for group, node in beside.items()}
    without = with_absolute_paths({group: node for group, node in config.items() if group not in BESIDE})
    before = {**without, **here, LEFT_OUT: left_out}
    differing = differences(before, now, wiring(kind))
    refuse(differing, path, LEARNED.get(kind, ()))
    step, last = checkpoint["global_step"], now["trainer"]["max_steps"]
    if step != last or not unfinished(checkpoint, Path(path)):
        check_steps(step, last, path)
    absent = [name for name in left_out if not at_name(now, name)]
    return [
        *(str(d) for d in differing),
        *(
            f"{name} is not taken from a checkpoint; name it again, or trust its package, if it shall go on"
            for name in absent
        ),
        *(
            []
            if "fingerprint" in checkpoint
            else [f"{path} has no fingerprint of its data; they could not be compared"]
        ),
        *rates(before, now, checkpoint["global_step"]),
    ]


def at_name(config: dict[str, Any], name: str) -> bool:
    """Whether a run has the callback, logger or part of the trainer ``name``."""
    group, _, key = name.partition(".")
    return key in config.get(group, {}) or name in config.get(LEFT_OUT, [])


def shown(value: Any) -> str:
    """A value of a configuration in a few words: of a part its class."""
    if isinstance(value, dict):
        return str(value.get("_target_", "a part" if value else "{}")).rpartition(".")[2]
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def differences(before: dict[str, Any], now: dict[str, Any], names: Mapping[str, Place]) -> list[Difference]:
    """The settings that two configurations of a run do not share, of the groups that both have.

    ``names`` are the options that the task is made of, by their place in it: {"model": ("denoiser", "network")}.
    """
    differing = []
    for group in COMPARED:
        if group in before and group in now:
            differing += list(walk(before[group], now[group], (group,)))
    lost = {name for config in (before, now) for name in config.get(LEFT_OUT, [])}
    renamed: list[Difference] = []
    for d in differing:
        difference = Difference(named(d.key.split("."), names), d.before, d.now)
        if not under(d.key, lost) and difference not in renamed:  # the seed is the task's, too
            renamed.append(difference)
    return [d for d in renamed if not follows(d, renamed)]


def walk(a: Any, b: Any, place: Place) -> Iterator[Difference]:
    """Where two nodes differ. Of parts of different classes only that; an argument that one lacks has its default."""
    key = ".".join(place)
    if not isinstance(a, dict) or not isinstance(b, dict):
        if a != b:
            yield Difference(key, a, b)
    elif a.get("_target_") != b.get("_target_"):
        yield Difference(key, a, b)
    else:
        defaults = defaults_of(a.get("_target_"))
        for name in [*a, *(k for k in b if k not in a)]:
            values = [node.get(name, defaults.get(name, ABSENT)) for node in (a, b)]
            yield from walk(*values, (*place, name))


def defaults_of(target: Any) -> dict[str, Any]:
    """The arguments of a class that have a default."""
    try:
        parameters = inspect.signature(_locate(target)).parameters  # the public get_class writes to the log
    except Exception:  # no class, or one without a signature
        return {}
    return {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}


def named(place: list[str], names: Mapping[str, Place]) -> str:
    """The name on the command line of a place in a run's configuration."""
    if place[0] == "task":
        for name, inner in names.items():
            if tuple(place[1 : 1 + len(inner)]) == inner:
                return ".".join([name, *place[1 + len(inner) :]])
    return ".".join(place)


def under(key: str, names: set[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def follows(difference: Difference, others: list[Difference]) -> bool:
    """Whether it is a copy of a setting of the run that a callback or the data have: of its metrics or its seed."""
    parts = difference.key.split(".")
    if parts[0] == "callbacks" and len(parts) > 2 and parts[2] in ("extractor", "metrics"):
        source = ".".join(parts[2:])
    elif parts[-1] == "seed" and len(parts) > 1 and parts[0] in ("data", "task"):
        source = "seed"
    else:
        return False
    same = {d.key: (d.before, d.now) for d in others}
    return same.get(source) == (difference.before, difference.now)


def refuse(differing: list[Difference], path: str | Path, learned: Sequence[str] = ()) -> None:
    """Raises ``UserError`` where training cannot go on from the checkpoint with one of these differences; those of the
    groups ``learned`` change what is learned."""
    reasons = [FUNCTION if d.key.partition(".")[0] in learned else d.refusal for d in differing]
    refused = [(d, reason) for d, reason in zip(differing, reasons, strict=True) if reason]
    if not refused:
        return
    first, reason = refused[0]
    others = f" (and so for {', '.join(d.key for d, _ in refused[1:4])})" if refused[1:] else ""
    raise UserError(
        f"training cannot go on from {path} with {first}{others}: {reason}; leave it out, or start anew from its "
        f"weights with init={path}."
    )


def check_steps(step: int, max_steps: int, path: str | Path) -> None:
    """Raises ``NothingLeft`` where nothing is left to train."""
    if isinstance(max_steps, int) and 0 <= max_steps <= step:
        raise NothingLeft(f"{path} is already at step {step}; raise trainer.max_steps, which is {max_steps}.")


def rates(before: dict[str, Any], now: dict[str, Any], step: int) -> list[str]:
    """What the learning rate of each optimizer does at ``step`` where the decay of a run has got another end."""
    ends = [config.get("trainer", {}).get("max_steps", -1) for config in (before, now)]
    lines = []
    for name in OPTIMIZERS:
        nodes = [config["task"].get(name) for config in (before, now)]
        if ends[0] == ends[1] or not all(nodes):
            continue
        optimizers = [instantiate(node, _convert_="all") for node in nodes]
        old, new = (o.lr * o.factor(step, end) for o, end in zip(optimizers, ends, strict=True))
        if optimizers[1].factor(step, ends[0]) != optimizers[1].factor(step, ends[1]):
            to = "no end" if ends[1] < 0 else f"its end at step {ends[1]}"
            was = "no end" if ends[0] < 0 else f"step {ends[0]}"
            lines.append(
                f"the decay of {name} has {to} in place of {was}: after step {step} the rate was {old:.4g} and is "
                f"{new:.4g} now"
            )
    return lines
