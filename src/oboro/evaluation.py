"""One number about generated samples, the same on any number of ranks, leaving training untouched."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oboro import distributed
from oboro.data import ImageData, to_uint8
from oboro.metrics import Metric
from oboro.task import Diffusion


@dataclass(frozen=True)
class Protocol:
    """How many samples are drawn, from which seed, in chunks of which size, from which averaged weights."""

    n: int
    seed: int = 0
    chunk: int = 100
    ema: str | None = None


def reference(metric: Metric, data: ImageData, device: torch.device) -> Any:
    """What ``metric`` compares with: the training images, summarised on rank 0 first and then read from the cache."""
    metric.load(device)
    with distributed.first_rank_first():
        return metric.reference(data.train_images, data.train_images.fingerprint, "train", data.cache_dir)


def evaluate(
    task: Diffusion,
    metric: Metric,
    against: Any,
    data: ImageData,
    protocol: Protocol,
    *,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    done: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """``{name: value}`` of ``metric`` on samples 0..n-1 of the averaged weights, on every rank.

    Samples are drawn with the class frequencies of the training data, quantised to 8 bits as files would be, and turned
    into features chunk by chunk. The weights and the training mode of ``task`` come back on every way out.
    """

    def features(ids: list[int]) -> Tensor:
        cond = task.conditioner.for_samples(ids, data.label_frequencies)
        with autocast():
            images = task.generate(ids, protocol.seed, cond, data.image_shape)
        return metric.features(to_uint8(images))

    with task.averaged(protocol.ema):
        rows = distributed.map_samples(protocol.n, protocol.chunk, features, task.device, done)
    return metric.value(rows, against)


def describe(task: Diffusion, metric: Metric, against: Any, data: ImageData, protocol: Protocol) -> dict[str, Any]:
    """Everything that two numbers must share to be compared, in plain values."""
    profile = protocol.ema or task.ema.default
    return {
        **metric.protocol(protocol.n, against, data.train_images.fingerprint, "train"),
        "seed": protocol.seed,
        "chunk": protocol.chunk,
        "ema": profile,
        "sampler": plain(task.sampler),
        "evaluations_per_sample": task.sampler.evaluations(task.denoiser.schedule),
        "guidance": plain(task.guidance),
    }


def plain(config: object) -> str:
    """``Heun(steps=18)``: a small configuration object as text."""
    values = ", ".join(f"{k}={v}" for k, v in vars(config).items() if not k.startswith("_"))
    return f"{type(config).__name__}({values})"
