"""Networks that read the scale of guidance: which scales training draws, and which may be asked for."""

from collections.abc import Iterator

from torch import Tensor

from oboro.condition import Condition
from oboro.guidance.embedded import at_scale
from oboro.loss import Loss
from oboro.loss.distribution_matching import DistributionMatching
from oboro.loss.loss import guidance_scales
from oboro.task.parts import Parts, name


def drawn(loss: Loss, cond: Condition, u: Tensor) -> Condition:
    """``cond`` with the scale at the quantile ``u`` (B,) of those that ``loss`` teaches, all equally likely."""
    scales = guidance_scales(loss)
    if scales is None:
        return cond
    lowest, highest = scales
    return at_scale(cond, lowest + (highest - lowest) * u)


def contradictions(parts: Parts) -> Iterator[str]:
    """Whether the network reads the scales that it is taught, and learned the one that is asked for."""
    scales, network = guidance_scales(parts.loss), type(parts.denoiser.network).__name__
    chosen = parts.guidance.learned_scale
    asked = 1.0 if chosen is None else chosen
    if scales is not None and not parts.denoiser.reads_guidance_scale:
        yield (
            f"{type(parts.loss).__name__} teaches guidance of several scales and {network} reads none; set "
            "model.reads_guidance_scale=true, or one scale with loss.teacher.guidance.scale."
        )
    if scales is not None and isinstance(parts.loss, DistributionMatching):
        yield (
            f"{type(parts.loss).__name__} has a score of the student's samples that knows no scale of guidance; leave "
            "loss.teacher.guidance_scales out and set loss.teacher.guidance.scale."
        )
    if chosen is not None and scales is None:
        yield (
            f"{name(parts.guidance)} asks for a scale of guidance and this model has learned none; choose "
            "guidance=classifier_free, or train a student with loss=consistency_latent_scales."
        )
    if scales is not None and not scales[0] <= asked <= scales[1]:
        yield (
            f"the model has learned guidance of scales from {scales[0]:g} to {scales[1]:g} and is asked for "
            f"{asked:g}; choose guidance=embedded and set guidance.scale to one of them."
        )
