"""Measurements, and what draws samples of them: whether one has the other."""

from collections.abc import Iterator
from dataclasses import replace

from oboro.base.errors import UserError
from oboro.codec import Codec, Identity
from oboro.condition import Image
from oboro.measurement import Measured
from oboro.task.parts import Parts, name


def contradictions(parts: Parts, measured: bool) -> Iterator[str]:
    """Whether what draws towards a measurement has one, and a measurement what draws towards it."""
    drawing = [name(part) for part in (parts.guidance, parts.sampler) if part.measures]
    if drawing and not measured:
        yield (
            f"{drawing[0]} draws towards a measurement and there is none; name it with measurement=mask_box "
            "measured=PICTURE in sample.py, or measurement=mask_box in evaluate.py, or choose guidance=unguided and "
            "another sampler."
        )
    pictures = any(issubclass(kind, Image) for kind in parts.conditioner.gives.values())
    if measured and not drawing and not pictures:
        yield (
            f"nothing draws towards the measurement with {name(parts.guidance)} and {name(parts.sampler)}; choose "
            "guidance=mmps, pigdm, ddnm or dps, or for masks sampler=repaint."
        )
    if parts.guidance.moves_ends and parts.sampler.order > 1:
        yield (
            f"{name(parts.guidance)} moves the end of each step, and {name(parts.sampler)} makes one of several "
            "evaluations; choose sampler=ddim_ancestral, or guidance=pigdm for other samplers."
        )


def check_measured(parts: Parts, codec: Codec, given: Measured) -> None:
    """Raises ``UserError`` where the parts cannot draw samples of this measurement, or not in latents."""
    if not isinstance(codec, Identity) and parts.guidance.measures and not parts.guidance.measures_latents:
        raise UserError(
            f"{name(parts.guidance)} replaces numbers of samples and the model makes latents; choose guidance=pigdm "
            "guidance.std=1, or guidance=dps, which go through the decoder."
        )
    if parts.sampler.measures:
        parts.sampler.check_measured(given if isinstance(codec, Identity) else replace(given, decode=codec.decode))
