"""Class labels, dropped per sample."""

from collections.abc import Sequence

import torch
from torch import Tensor

from oboro.denoiser import Cond
from oboro.errors import UserError
from oboro.seeding import low_discrepancy

DROPPED = -1


class Label:
    """batch ↦ {"label": int64 (B,)}; a dropped label is -1, and so is a missing key for the network.

    ``dropout`` is the chance, independent for each sample of a training batch, that its label is dropped: the training
    of classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, algorithm 1).
    """

    def __init__(self, num_classes: int, dropout: float = 0.1):
        if num_classes < 1:
            raise UserError(
                "conditioner=label needs labelled data and data.num_classes is 0; "
                "set data.num_classes to the number of classes or use conditioner=unconditional."
            )
        self.num_classes = num_classes
        self.dropout = dropout

    def __call__(self, batch: dict[str, Tensor], generator: torch.Generator) -> Cond:
        """For training: labels with dropout drawn from ``generator``."""
        label = batch["label"]
        drop = torch.rand(label.shape, generator=generator, device=generator.device) < self.dropout
        return {"label": torch.where(drop.to(label.device), DROPPED, label)}

    def keep(self, batch: dict[str, Tensor]) -> Cond:
        """For evaluation: every label."""
        return {"label": batch["label"]}

    def for_samples(self, ids: Sequence[int], frequencies: Tensor | None) -> Cond:
        """Labels of generated samples, a function of the sample id alone.

        ``None``: class i mod num_classes, for pictures. With class ``frequencies`` (num_classes,): the quantile of
        their distribution at ``seeding.low_discrepancy(i)``, so that any run of ids has them in proportion.
        """
        i = torch.tensor(list(ids), dtype=torch.int64)
        if frequencies is None:
            return {"label": i % self.num_classes}
        cumulative = torch.cumsum(frequencies.double() / frequencies.sum(), 0)
        return {"label": torch.searchsorted(cumulative, low_discrepancy(i), right=True).clamp(max=self.num_classes - 1)}
