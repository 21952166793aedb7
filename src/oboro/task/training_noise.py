"""What a training step draws, and which part of it each rank and micro-batch has."""

from collections.abc import Iterable

import torch
from lightning import Trainer
from torch import nn

from oboro.base.draws import BatchGenerator, Noise
from oboro.base.seeding import derive_seed, generator
from oboro.model.dropout import Dropout, dropouts


class TrainingNoise:
    """The generators of a micro-batch: one for losses, conditioners and codecs, and torch's global one for dropout.

    ``global``: draws are functions of (seed, step) and the place of a sample in the batch of that step. Every part
    draws for the whole batch and keeps its own rows, which costs ranks times micro-batches as many draws. Dropout is
    part of it where all layers that train are oboro's or torch's.

    ``per_rank``: functions of (seed, step, micro-batch, rank). So are, with ``global`` too, those that losses and
    layers of one's own make with torch's functions.

    For one process without accumulation both are the same numbers.
    """

    def __init__(self, seed: int, noise: Noise):
        self.seed = seed
        self.noise = noise
        self._dropouts: list[Dropout] | None = None

    def prepare(self, modules: Iterable[nn.Module]) -> None:
        """Take note of the layers that training runs through, in the mode in which it does."""
        self._dropouts = dropouts(modules)

    def start(self, trainer: Trainer, micro_batch: int, device: torch.device) -> torch.Generator:
        """The generator of ``micro_batch``, 0 for the first of a step; the global one is seeded for it."""
        step = trainer.global_step
        own = step, micro_batch, trainer.global_rank
        if self.noise == "per_rank" or trainer.world_size * trainer.accumulate_grad_batches == 1:
            torch.manual_seed(derive_seed(self.seed, "dropout", *own))
            return generator(self.seed, "train", *own, device=device)
        rows, size = trainer.datamodule.rows(micro_batch).to(device), trainer.datamodule.batch_size
        for dropout in self._dropouts or ():
            dropout.rows, dropout.size = rows, size
        torch.manual_seed(derive_seed(self.seed, "dropout", *(own if self._dropouts is None else (step, 0, 0))))
        whole = generator(self.seed, "train", step, 0, 0, device=device)
        return BatchGenerator(whole, derive_seed(self.seed, "train part", *own), rows, size)

    def stop(self) -> None:
        """After the backward pass of a micro-batch, which may run layers once more: they may see other batches."""
        for dropout in self._dropouts or ():
            dropout.rows = None
