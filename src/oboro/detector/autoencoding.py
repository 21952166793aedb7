"""Reconstruction by an autoencoder."""

from collections.abc import Sequence

from torch import Tensor

from oboro.detector.detector import Pictures, Reconstructing
from oboro.task import Task
from oboro.task.reconstructs import reconstructed


class Autoencoding(Reconstructing):
    """x̂ = decode(encode(x)), nothing drawn: what does not fit through the bottleneck is lost (An & Cho 2015; Bergmann
    et al. 2018, arXiv:1807.02011, for maps). For checkpoints of task=autoencoder, and of networks that encode, such as
    a VAE."""

    needs = "reconstruction"

    @property
    def reconstructions(self) -> Sequence[str]:
        return [""]

    def reconstruct(self, task: Task | None, pictures: Pictures) -> Sequence[Sequence[Tensor]]:
        assert task is not None
        return [[reconstructed(task, pictures.x)]]
