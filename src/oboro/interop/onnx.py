"""A denoiser and a decoder as ONNX files, for programs without PyTorch."""

import logging
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import fields
from importlib.util import find_spec
from math import pi
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from oboro.base.errors import UserError
from oboro.base.json_text import json_text
from oboro.condition import Control, End, GuidanceScale, Signal, Signals
from oboro.condition import Image as Picture
from oboro.conditioner import Image
from oboro.denoiser import Denoiser
from oboro.lesson import lesson_of
from oboro.restore.checkpoint import check_kind, load_checkpoint
from oboro.restore.merge import merged
from oboro.restore.rebuild import averaged, build_task
from oboro.sampler import Node
from oboro.schedule import expand_as
from oboro.task import Generation

NEEDED = ("onnx", "onnxscript")
DENOISER, DECODER, ONE_STEP, SETTINGS = "denoiser.onnx", "decoder.onnx", "one_step.onnx", "settings.json"


class AtLevel(nn.Module):
    """x̂0 = D(x_t, alpha, sigma, cond) of a denoiser, (B, ...) and (B,): without its schedule, so that whoever runs
    the file chooses the noise levels. ``cond`` are the ``inputs`` of signals of ``kinds``; a flow map also has
    ``end_alpha`` and ``end_sigma`` (B,), the noise level where it lands."""

    def __init__(self, denoiser: Denoiser, kinds: Mapping[str, type[Signal]]):
        super().__init__()
        self.network = denoiser.network
        self.parameterization = denoiser.parameterization
        self.kinds = dict(kinds)
        self.reads_end = denoiser.reads_end
        self.reads_guidance_scale = denoiser.reads_guidance_scale

    def forward(
        self,
        x_t: Tensor,
        alpha: Tensor,
        sigma: Tensor,
        cond: dict[str, Tensor],
        end_alpha: Tensor | None = None,
        end_sigma: Tensor | None = None,
    ) -> Tensor:
        c = self.parameterization(alpha, sigma)
        signals = {
            name: kind(**{field: cond[key] for field, key in keys(name, kind).items()})
            for name, kind in self.kinds.items()
            if cond
        }
        if self.reads_guidance_scale:
            signals["guidance_scale"] = GuidanceScale(cond.get("guidance_scale", torch.ones_like(alpha)))
        if end_alpha is not None and end_sigma is not None:
            signals["end"] = End(torch.atan2(end_sigma, end_alpha) * (2 / pi))
        output = self.network(expand_as(c.c_in, x_t) * x_t, c.c_noise, signals)[:, : x_t.shape[1]]
        return expand_as(c.c_skip, x_t) * x_t + expand_as(c.c_out, x_t) * output


class OneStep(nn.Module):
    """Standard normal noise (B, ...) ↦ the data to which a model jumps from ``start``; ``cond`` as of ``AtLevel``."""

    def __init__(self, at: AtLevel, start: Node):
        super().__init__()
        self.at = at
        self.start = start

    def forward(self, noise: Tensor, cond: dict[str, Tensor]) -> Tensor:
        one = torch.ones_like(noise.flatten(1)[:, 0])
        end = (one, 0 * one) if self.at.reads_end else (None, None)
        return self.at(self.start.sigma * noise, self.start.alpha * one, self.start.sigma * one, cond, *end)


def keys(name: str, kind: type[Signal]) -> dict[str, str]:
    """What the tensors of a signal are called in the file: the first has the signal's name, ``text``, and the others
    their own behind it, ``text_mask``."""
    first, *others = (field.name for field in fields(kind))
    return {first: name, **{other: f"{name}_{other}" for other in others}}


def inputs(signals: Signals) -> dict[str, Tensor]:
    """The tensors of ``signals`` by their names in the file."""
    return {
        keys(name, type(signal))[field]: tensor
        for name, signal in signals.items()
        for field, tensor in signal.tensors().items()
    }


class Decoding(nn.Module):
    """Latents ↦ images in [-1, 1]."""

    def __init__(self, codec: nn.Module):
        super().__init__()
        self.codec = codec

    def forward(self, z: Tensor) -> Tensor:
        return self.codec.decode(z).clamp(-1, 1)


def count_at_most(knots: Any, values: Any, out_int32: bool = False, right: bool = False) -> Any:
    """``torch.searchsorted(knots, values, right=True)``, for which ONNX has no operator: how many knots are ≤ a value.

    A table of noise levels asks it. Called by the exporter with nodes of its graph.
    """
    from onnxscript import opset18 as op

    last = op.Constant(value_ints=[-1])
    at_most = op.LessOrEqual(knots, op.Unsqueeze(values, last))
    return op.ReduceSum(op.Cast(at_most, to=7), last, keepdims=0)  # 7 is int64


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)), since onnxruntime has Softplus in single precision alone."""
    from onnxscript import opset18 as op

    tail = op.Exp(op.Neg(op.Abs(x)))
    return op.Add(op.Relu(x), op.Log(op.Add(tail, op.CastLike(op.Constant(value_float=1.0), x))))


def write(module: nn.Module, arguments: dict[str, Any], names: list[str], output: str, path: Path) -> None:
    """``module`` as a file; the first axis of every argument may have any length."""
    shapes = torch.utils._pytree.tree_map(lambda _: {0: Dim.DYNAMIC}, arguments)
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad(), ExitStack() as after:
        after.callback(log.setLevel, level)
        warnings.simplefilter("ignore")  # advice on the exporter's own insides
        torch.onnx.export(
            module.eval(),
            (),
            path,
            kwargs=arguments,
            input_names=names,
            output_names=[output],
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=True,
            verbose=False,
            custom_translation_table={
                torch.ops.aten.searchsorted.Tensor: count_at_most,
                torch.ops.aten.softplus.default: softplus,
            },
        )


def export(checkpoint: str | Path, folder: str | Path, profile: str | None = None) -> None:
    """Write ``denoiser.onnx``, with a learned codec ``decoder.onnx``, of a model that jumps ``one_step.onnx``, and
    ``settings.json`` from a checkpoint.

    Sizes are those of training and batches of any length. The denoiser has the inputs x_t (B, C, H, W), alpha and sigma
    (B,), and the tensors of the condition (``keys``); without a condition it is another file,
    ``denoiser_unconditional.onnx``. ``one_step.onnx`` makes samples of standard normal ``noise`` (B, C, H, W). Raises
    ``UserError`` where the exporter's libraries are missing.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(f'ONNX files need the library {missing[0]}; pip install "oboro[onnx]".')
    content = merged(load_checkpoint(checkpoint))
    check_kind(content, checkpoint, "diffusion")
    task = build_task(content)
    averaged(task, checkpoint, profile)
    if any(issubclass(kind, Control) for kind in task.get_submodule("conditioner").gives.values()):
        raise UserError(
            f"{checkpoint} has a ControlNet, whose picture counts at times that an ONNX file does not know; "
            "export the checkpoint of its base."
        )
    export_task(task, Path(folder).expanduser())


def picture(single: Image, count: int, shape: tuple[int, ...]) -> Signal:
    """The signal of a picture, as the network sees it beside samples of ``shape`` (C, ...)."""
    channels = shape[0] if single.latent else single.image_channels
    known = torch.ones(count, *[1, *shape[1:]] * single.hint.has_hole, dtype=torch.bool)
    return Picture(torch.zeros(count, channels, *shape[1:]), known)


def export_task(task: Generation, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shape = task.codec.latent_shape(task.modality.shape)
    count = 2  # an axis of length 1 would be taken for a constant
    x, level = torch.zeros(count, *shape), torch.full((count,), 0.5)
    batch = {"caption": [""] * count, "label": torch.zeros(count, dtype=torch.int64)}
    cond = inputs(
        {
            s.name: picture(s, count, shape) if isinstance(s, Image) else s.signal(batch)
            for s in task.conditioner.singles
        }
    )
    if task.denoiser.reads_guidance_scale:
        cond["guidance_scale"] = torch.ones(count)
    module = AtLevel(task.denoiser, task.conditioner.gives)
    names = ["x_t", "alpha", "sigma"]
    ends = {"end_alpha": level.clone(), "end_sigma": level.clone()} if module.reads_end else {}
    for file, given in {DENOISER: cond, "denoiser_unconditional.onnx": {}}.items():
        if file == DENOISER or cond:
            write(
                module,
                {"x_t": x, "alpha": level, "sigma": level.clone(), "cond": given, **ends},
                [*names, *given, *ends],
                "x0",
                folder / file,
            )
    nodes = task.sampler.nodes(task.denoiser.schedule)
    jumps = task.loss.teaches_jumps or module.reads_end or lesson_of(task.loss).generates_alone
    if jumps:
        write(OneStep(module, nodes[0]), {"noise": x, "cond": cond}, ["noise", *cond], "x0", folder / ONE_STEP)
    learned = sum(p.numel() for p in task.codec.parameters()) > 0
    if learned:
        write(Decoding(task.codec), {"z": x}, ["z"], "image", folder / DECODER)
    settings = {
        "latent_shape": list(shape),
        "inputs": {key: {"shape": list(v.shape[1:]), "type": str(v.dtype)} for key, v in cond.items()},
        "decoder": DECODER if learned else None,
        "one_step": ONE_STEP if jumps else None,
        "grid": [{"t": n.t, "alpha": n.alpha, "sigma": n.sigma} for n in nodes],
    }
    (folder / SETTINGS).write_text(json_text(settings, indent=2) + "\n", encoding="utf-8")
