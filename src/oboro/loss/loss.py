"""What a task of noise levels needs of its loss."""

from typing import Any, Protocol

import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from oboro.condition import Condition
from oboro.denoiser import Denoiser
from oboro.loss.coupling import Coupling
from oboro.teacher import Teacher


def guidance_scales(loss: Any) -> tuple[float, float] | None:
    """The lowest and the highest scale of guidance of which a network learns each by ``loss``, or None."""
    scales = getattr(loss, "guidance_scales", None) or getattr(getattr(loss, "teacher", None), "guidance_scales", None)
    return None if scales is None else (min(scales), max(scales))


class Loss(Protocol):
    """(denoiser, x (B, ...), cond, generator) ↦ the loss of each sample (B,).

    ``teaches_variance``: the network has twice the channels of a sample. ``teaches_jumps``: to the end of the flow.
    ``needs_end``: the network reads the end of a jump. One that has ``watched``, a mapping, puts there what of its last
    call is worth a line in the log.
    ``teacher``: the trained model that it learns from, if there is one. ``evaluations``: how many times networks are
    evaluated for a sample of training, the passes back apart; None where that is not known.
    """

    teaches_variance: bool
    teaches_jumps: bool
    needs_end: bool
    teacher: Teacher | None

    @property
    def evaluations(self) -> int | None: ...

    @property
    def coupling(self) -> Coupling: ...

    def __call__(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, generator: torch.Generator, step: int = 0
    ) -> Tensor:
        """``step`` is that of the run, counted from 0: all that changes over a run is a function of it."""

    def at_quantile(self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        """The same functional at given quantiles of p(t) and noise: the loss of validation."""


def declared(key: str, *, _root_: DictConfig) -> Any:
    """``${loss:needs_end}`` in YAML: what the class of the run's loss says of itself; False for a task without one, and
    for one that says nothing. ``${loss:needs_guidance_scale}``: whether it has scales, or its teacher has."""
    loss = _root_.get("loss") or {}
    if key == "needs_guidance_scale":
        return any(node.get("guidance_scales") is not None for node in (loss, loss.get("teacher") or {}))
    target = loss.get("_target_")
    return getattr(get_class(target), key, False) if target else False


OmegaConf.register_new_resolver("loss", declared, replace=True)
