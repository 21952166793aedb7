"""Reconstruction by an autoencoder."""

from collections.abc import Sequence

from torch import Tensor

from oboro.base.errors import UserError
from oboro.denoiser.latent import encodes, reconstruct
from oboro.detector.detector import Pictures, Reconstructing
from oboro.modality import Modality
from oboro.task import Autoencoder, Generation, Task


class Autoencoding(Reconstructing):
    """x̂ = decode(encode(x)), nothing drawn: what does not fit through the bottleneck is lost (Bergmann et al. 2019,
    arXiv:1807.02011). For checkpoints of task=autoencoder, and of a VAE that draws."""

    needs = "reconstruction"

    @property
    def reconstructions(self) -> Sequence[str]:
        return [""]

    def check(self, task: Task | None, modality: Modality) -> None:
        super().check(task, modality)
        if isinstance(task, Generation) and not encodes(task.denoiser.network):
            raise UserError(
                f"{type(task.denoiser.network).__name__} has no bottleneck to reconstruct from; choose "
                "detector=partial_diffusion, or a checkpoint of task=autoencoder."
            )

    def reconstruct(self, task: Task | None, pictures: Pictures) -> Sequence[Sequence[Tensor]]:
        if isinstance(task, Autoencoder):
            codec = task.autoencoder
            return [[codec.decode(codec.encode(pictures.x)).float().clamp(-1, 1)]]
        assert isinstance(task, Generation)
        return [[reconstruct(task.denoiser, pictures.x, pictures.cond).float().clamp(-1, 1)]]
