"""What a task trains: one network, or several with an optimizer and an update ratio each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from oboro.base.errors import UserError
from oboro.optimizer import Optimizer


@dataclass(frozen=True)
class Learner:
    """A network and how it is trained; what of it requires a gradient belongs to its optimizer.

    Attributes:
        network: what is trained.
        optimizer: of its own. Warm-up and decay count the steps of the run, not the updates of this network.
        every: the network is updated in steps 0, ``every``, 2 ``every``, …: 5 for a generator whose opponent takes five
            steps for each of its own (DMD2, arXiv:2405.14867, sec. 4.2).
        averaged: whether the weights are averaged as those of ``Task.learned`` are, which always are.
        beside: modules that the same optimizer trains and nothing averages, such as a loss that learns.
    """

    network: nn.Module
    optimizer: Optimizer
    every: int = 1
    averaged: bool = False
    beside: tuple[nn.Module, ...] = ()

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for _, p in self.named_parameters]

    @property
    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """By the names that each of its modules has for them."""
        modules = (self.network, *self.beside)
        return [(name, p) for module in modules for name, p in module.named_parameters() if p.requires_grad]


class Together(torch.optim.Optimizer):
    """Several optimizers as one, so that a step of the run is one step whatever the number of networks.

    ``step`` updates the networks for which ``due(name)`` holds. The groups are those of all, in order, which is what a
    learning-rate schedule and a gradient scaler see. The state is {"networks": {name: state of its optimizer}}.
    Raises ``ValueError`` where two optimizers have a parameter in common.
    """

    def __init__(self, optimizers: Mapping[str, torch.optim.Optimizer], due: Callable[[str], bool]):
        self.optimizers = dict(optimizers)
        self.due = due
        super().__init__([group for o in self.optimizers.values() for group in o.param_groups], {})

    @property
    def state(self) -> dict[torch.Tensor, Any]:
        """What the optimizers keep for each parameter. Not a place to write to."""
        return {p: kept for o in self.optimizers.values() for p, kept in o.state.items()}

    @state.setter
    def state(self, nothing: Any) -> None:
        """torch's constructor begins with an empty one."""

    @property
    def active(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers of the networks that are updated in this step."""
        return {name: optimizer for name, optimizer in self.optimizers.items() if self.due(name)}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.active.values():
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"networks": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ``UserError`` for the state of other networks."""
        if set(state_dict.get("networks", ())) != set(self.optimizers):
            raise UserError(
                f"the checkpoint has optimizers of {', '.join(state_dict.get('networks', ['one network']))} and the "
                f"task trains {', '.join(self.optimizers)}; start from its weights with init=<the checkpoint>."
            )
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state_dict["networks"][name])
        self.param_groups[:] = [group for o in self.optimizers.values() for group in o.param_groups]


def optimizers(
    learners: Mapping[str, Learner], max_steps: int, due: Callable[[str], bool]
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """The optimizer of all ``learners`` and the schedule of their learning rates.

    One learner has a plain torch optimizer. Raises ``ValueError`` unless at least one of the learners has ``every=1``:
    a step in which nothing is updated is none.
    """
    if 1 not in [learner.every for learner in learners.values()]:
        raise ValueError(f"none of {', '.join(learners)} is updated in every step; set every=1 for one of them")
    if len(learners) == 1:
        (learner,) = learners.values()
        return learner.optimizer(learner.parameters, max_steps)
    built = {name: learner.optimizer.build(learner.parameters) for name, learner in learners.items()}
    factors = [
        learner.optimizer.factor_of(max_steps) for name, learner in learners.items() for _ in built[name].param_groups
    ]
    together = Together(built, due)
    return together, torch.optim.lr_scheduler.LambdaLR(together, factors)


def separated(checkpoint: dict[str, Any], learners: Mapping[str, Learner]) -> None:
    """Give each of several ``learners`` its part of a training state in which one optimizer had all parameters.

    Before networks had optimizers of their own, that of an autoencoder had its discriminator's weights at the end.
    """
    states, schedules = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    if len(learners) == 1 or len(states) != 1 or len(states[0].get("param_groups", ())) != 1:
        return
    (state,), (group,) = states, states[0]["param_groups"]
    networks, first = {}, 0
    for name, learner in learners.items():
        n = len(learner.parameters)
        kept = {i - first: s for i, s in state["state"].items() if first <= i < first + n}
        networks[name] = {"state": kept, "param_groups": [{**group, "params": list(range(n))}]}
        first += n
    checkpoint["optimizer_states"] = [{"networks": networks}]
    many = {key: schedules[0][key] * len(learners) for key in ("base_lrs", "_last_lr", "lr_lambdas")}
    checkpoint["lr_schedulers"] = [{**schedules[0], **many}]


MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")  # that have the shape of their weight


def check_states(checkpoint: dict[str, Any], learners: Mapping[str, Learner], path: object) -> None:
    """Raises ``UserError`` where the optimizers of the checkpoint ``path``, ``separated``, are not those of the
    ``learners``: torch would begin with an empty state, or stop in the first step."""
    state = checkpoint["optimizer_states"][0]
    states = state.get("networks", {}) if len(learners) > 1 else dict.fromkeys(learners, state)
    for name, learner in learners.items():
        kept = states.get(name, {})
        groups, moments = kept.get("param_groups", []), kept.get("state", {})
        weights = learner.parameters
        count = sum(len(group.get("params", ())) for group in groups)
        lost = not moments and took_steps(checkpoint) and any("betas" in group for group in groups)
        if count != len(weights) or lost:
            what = f"is of {count} weights and the model has {len(weights)}" if count != len(weights) else "is empty"
            raise UserError(f"{path} is not whole: {OPTIMIZER_OF.format(name)} {what}; {ANEW.format(path)}")
        order = [i for group in groups for i in group["params"]]
        for i, weight in zip(order, weights, strict=True):
            for key in MOMENTS:
                value = moments.get(i, {}).get(key)
                if isinstance(value, torch.Tensor) and value.shape != weight.shape:
                    raise UserError(
                        f"{path} is damaged: {key} of weight {i} in {OPTIMIZER_OF.format(name)} is "
                        f"{tuple(value.shape)} and the weight {tuple(weight.shape)}; {ANEW.format(path)}"
                    )


def took_steps(checkpoint: dict[str, Any]) -> bool:
    """Whether an optimizer must have stepped: none of the steps may have overflowed in 16 bits, or been left out."""
    overflows, skipped = "MixedPrecision" in checkpoint, checkpoint.get("divergence", {}).get("skipped", 0) > 0
    return checkpoint["global_step"] >= 1 and not overflows and not skipped


OPTIMIZER_OF = "the state of the optimizer of the {}"
ANEW = "use another .ckpt file of the run, or start from its weights with init={}."


def settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What an optimizer that was just built has for each of its groups beside the parameters."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def lowered(chosen: list[dict[str, Any]], factor: float) -> list[dict[str, Any]]:
    """``settings`` with the learning rate times ``factor``."""
    return [{**group, "initial_lr": group["initial_lr"] * factor} for group in chosen]


def apply_settings(
    optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LambdaLR, chosen: list[dict[str, Any]]
) -> None:
    """Give ``optimizer``, whose state was restored, the settings that it was built with, and the learning rate that
    ``schedule`` has for them at its step: lr factor(step). The same bits where the settings are the same."""
    schedule.base_lrs = [group["initial_lr"] for group in chosen]
    rates = [
        rate * factor(schedule.last_epoch) for rate, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    ]
    for group, own, rate in zip(optimizer.param_groups, chosen, rates, strict=True):
        group.update({**own, "lr": rate})
    schedule._last_lr = rates
