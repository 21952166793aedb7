"""What can be known about a run's evaluation before the run begins."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from lightning import Trainer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from oboro.base import shards
from oboro.data import DataModule
from oboro.denoiser import Denoises
from oboro.evaluate.protocol import Protocol
from oboro.extractor import Extractor, Joint
from oboro.task import Generation

log = logging.getLogger(__name__)


def advise(
    trainer: Trainer, task: Generation, data: DataModule, extractor: Extractor | Joint, protocol: Protocol, every: int
) -> None:
    """Say, before training starts, if measuring costs more operations than the training between two measurements. All
    ranks: the weights may lie in shards."""
    interval = every or trainer.max_steps
    with untouched(task):
        cost, of_training = sample_flops(task, data, extractor), train_flops(task, data)
    ratio = protocol.n * cost / (interval * data.batch_size * of_training)
    if ratio > 1 and trainer.is_global_zero:
        log.warning(
            "measuring %s samples costs %.1f times as many operations as the %s steps between two measurements; "
            "raise callbacks.sample_metrics.every_n_steps, or lower callbacks.sample_metrics.n or sampler.steps",
            f"{protocol.n:,}",
            ratio,
            f"{interval:,}",
        )


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """In evaluation mode; modes, parameters and buffers are the same bits afterwards.

    A network may write to itself in a forward pass (EDM2 its weights, a batch norm its statistics), and what one rank
    alone runs would leave that rank with another network than the others. All ranks enter: each has all weights inside.
    """
    modes = [(part, part.training) for part in module.modules()]
    before = [(value, value.detach().clone()) for value in (*module.parameters(), *module.buffers())]
    module.eval()
    try:
        with shards.together(module):
            yield
    finally:
        for part, mode in modes:
            part.training = mode
        for value, kept in before:
            value.data.copy_(kept)


def train_flops(task: Generation, data: DataModule) -> int:
    """Operations of one training sample: a forward pass, and a backward pass of twice as many."""
    return 3 * max(1, _flops(lambda: _denoise(task, data, task.denoiser)))


def sample_flops(task: Generation, data: DataModule, extractor: Extractor | Joint) -> int:
    """Operations of drawing one sample with the task's sampler and guidance, and of looking at it."""
    grid = task.sampler.nodes(task.denoiser.schedule)
    guided = _flops(lambda: _denoise(task, data, task.guidance(task.denoiser, grid)))
    sample = torch.zeros(1, *data.modality.shape, dtype=data.modality.dtype)
    features = sum(_flops(lambda part=part: part(sample)) for part in extractor.parts)
    return task.sampler.evaluations(task.denoiser.schedule) * guided + features


def _denoise(task: Generation, data: DataModule, denoiser: Denoises) -> None:
    shape = task.codec.latent_shape(data.modality.shape)
    cond = task.seen(task.conditioner.for_samples([0], data.population).to(task.device))
    denoiser(torch.zeros(1, *shape, device=task.device), torch.full((1,), 0.5, device=task.device), cond)


def _flops(f: Callable[[], object]) -> int:
    """As counted by torch from the shapes of matrix products and convolutions."""
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        f()
    return counter.get_total_flops()
