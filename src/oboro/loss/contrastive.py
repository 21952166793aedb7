"""Losses of pairs of images and texts: the right one among all of the batch, on all ranks."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oboro.base import distributed


class PairLoss(nn.Module, ABC):
    """One number for each pair, from its logits with the images and texts of all pairs.

    A logit is ``scale cos(image, text) + bias``. Pair i is positive with itself, and, with ``equal_captions``, with
    every pair of the same caption: captions that repeat in a batch would else be pushed away from their own images.
    """

    needs_bias: bool  # whether a bias of the logits changes the loss

    def __init__(self, equal_captions: bool = True):
        super().__init__()
        self.equal_captions = equal_captions

    @abstractmethod
    def of_logits(self, image: Tensor, text: Tensor, positive: Tensor) -> Tensor:
        """The loss (B,) of logits (B, N) of B images with N texts and of B texts with N images.

        ``positive`` (B, N), bool, is the same for both.
        """

    def forward(self, image: Tensor, text: Tensor, captions: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """The loss (B,) of unit vectors ``image`` and ``text`` (B, E) among those of all ranks.

        ``captions`` (B, L), int64: rows are equal where captions are. B is the same on all ranks. The mean over all
        ranks' pairs, and its gradient, are those of one rank that has all pairs.
        """
        images, texts = distributed.gather_with_gradients(torch.cat([image, text], 1)).chunk(2, 1)
        others = distributed.gather_with_gradients(captions)
        first = distributed.rank() * len(image)
        return self.among(image, text, captions, images, texts, others, first, scale, bias)

    def among(
        self,
        image: Tensor,
        text: Tensor,
        captions: Tensor,
        images: Tensor,
        texts: Tensor,
        others: Tensor,
        first: int,
        scale: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        """The loss of B pairs which are ``first`` … ``first`` + B - 1 of the N pairs ``images``, ``texts``, ``others``.

        In the precision of the vectors, whatever the run trains in: a logit of 100 has no room in half of it.
        """
        with torch.autocast(image.device.type, enabled=False):
            shift = 0.0 if bias is None else bias
            positive = torch.arange(len(others), device=image.device) == (
                first + torch.arange(len(image), device=image.device)[:, None]
            )
            if self.equal_captions:
                positive = positive | (captions[:, None] == others).all(2)
            return self.of_logits(scale * image @ texts.T + shift, scale * text @ images.T + shift, positive)


class Contrastive(PairLoss):
    """Symmetric InfoNCE: -1/2 (log p(text_i | image_i) + log p(image_i | text_i)), p a softmax of the logits over N.

    van den Oord et al. 2018 (arXiv:1807.03748, eq. 4), both ways as in CLIP (arXiv:2103.00020, fig. 3). Of m positives
    each has the target 1/m, so the loss is log m at least; where all captions differ it is InfoNCE.
    """

    needs_bias = False

    def of_logits(self, image: Tensor, text: Tensor, positive: Tensor) -> Tensor:
        target = positive.to(image) / positive.sum(1, keepdim=True)
        ways = (-(target * logits.log_softmax(1)).sum(1) for logits in (image, text))
        return sum(ways) / 2  # type: ignore[return-value]  # a sum of tensors, not of none


class SigLIP(PairLoss):
    """-sum_j log sigmoid(z_ij logit_ij) with z = 1 for positives and -1 for others (Zhai et al. 2023, arXiv:2303.15343,
    eq. 1), image i with all N texts; the mean over i is the loss of the paper."""

    needs_bias = True

    def of_logits(self, image: Tensor, text: Tensor, positive: Tensor) -> Tensor:
        return -F.logsigmoid(torch.where(positive, image, -image)).sum(1)
