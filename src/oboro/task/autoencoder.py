"""Training of an autoencoder, the codec of latent diffusion."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from oboro.base.compiled import compile_in_place
from oboro.base.counted import counted
from oboro.base.draws import Noise
from oboro.base.errors import UserError
from oboro.base.ranges import Seed
from oboro.codec import Identity, Learned
from oboro.data import DataModule
from oboro.divergence import Divergence
from oboro.ema import EMA
from oboro.loss import Reconstruction
from oboro.modality import Image
from oboro.optimizer import Optimizer
from oboro.task.learner import Learner
from oboro.task.task import Task

NAMES = ("psnr", "ssim", "l1", "perceptual")


class Autoencoder(Task):
    """``autoencoder`` trained by ``loss`` to give back the images it sees, averaged by ``ema``.

    Its opponent, the discriminator of the loss, has an optimizer of its own with the settings
    ``discriminator_optimizer``; None stands for those of ``optimizer``.

    Validation compares each held-out image with decode(encode(image)), nothing drawn. ``compile`` compiles encoder and
    decoder in place.
    """

    reconstructs = True
    measures = ("psnr",)

    def __init__(
        self,
        autoencoder: Learned,
        loss: Reconstruction,
        ema: EMA,
        optimizer: Optimizer,
        discriminator_optimizer: Optimizer | None = None,
        seed: Seed = 0,
        compile: bool = False,
        noise: Noise = "per_rank",
        divergence: Divergence | None = None,
    ):
        super().__init__(Identity(autoencoder.in_channels), loss, ema, optimizer, seed, noise, divergence)
        self.autoencoder = autoencoder
        self.discriminator_optimizer = discriminator_optimizer or optimizer
        if compile:
            compile_in_place(self.autoencoder.encoder, self.autoencoder.decoder)

    @property
    def learned(self) -> Learned:
        return self.autoencoder

    @property
    def learners(self) -> Mapping[str, Learner]:
        return {
            "autoencoder": Learner(self.autoencoder, self.optimizer),
            "discriminator": Learner(self.loss.discriminator, self.discriminator_optimizer),
        }

    @property
    def sharded(self) -> Sequence[nn.Module]:
        return [self.autoencoder.encoder, self.autoencoder.decoder]

    @property
    def whole(self) -> Sequence[nn.Parameter]:
        return [self.autoencoder.last]  # for the adaptive weight of the loss

    @property
    def description(self) -> str:
        return f"{counted(self.autoencoder.channels, 'channels')} at 1/{self.autoencoder.factor} of the size"

    def check(self, data: DataModule) -> None:
        """Raises ``UserError`` for images that codec, discriminator or perceptual features cannot see."""
        if not isinstance(data.modality, Image):
            raise UserError(
                f"an autoencoder is trained on images and the data are {data.modality.noun}; train task=diffusion on "
                "them as they are."
            )
        channels, *size = data.modality.shape
        if channels != self.autoencoder.in_channels:
            raise UserError(
                f"the codec is for images of {counted(self.autoencoder.in_channels, 'channels')} and the data have "
                f"{channels}; set data.channels alone, codec.in_channels follows it."
            )
        self.autoencoder.latent_shape(data.modality.shape)
        if self.loss.adversarial > 0 and min(size) < self.loss.discriminator.least:
            raise UserError(
                f"the discriminator needs sides of {self.loss.discriminator.least} and images are {size[0]}×{size[1]}; "
                "set a smaller loss.discriminator.layers, or loss.adversarial=0."
            )
        if min(size) < self.loss.perceptual.least:
            raise UserError(
                f"the perceptual distance needs sides of {self.loss.perceptual.least} and images are "
                f"{size[0]}×{size[1]}; choose loss/perceptual=zero, or a larger data.resolution."
            )
        self.loss.perceptual.check(channels)

    def objective(self, batch: dict[str, Tensor], x: Tensor, generator: torch.Generator) -> Tensor:
        terms = self.loss(self.autoencoder, x, self.global_step, generator)
        self.log_dict({f"train/{name}": number for name, number in terms.numbers.items()})
        return terms.objective

    def measure(self, batch: dict[str, Tensor], x: Tensor) -> Tensor:
        made = self.autoencoder.decode(self.autoencoder.encode(x)).to(x).clamp(-1, 1)
        rows = torch.stack([*likeness(made, x), self.loss.perceptual(made, x)], 1)
        return torch.cat([rows.float(), self.autoencoder.observe(x).float()], 1)

    def summary(self, rows: Tensor) -> dict[str, float]:
        """Means over images of PSNR in dB, SSIM, the absolute error of pixels in [-1, 1] and the perceptual distance;
        and what the codec says of its latents."""
        means = rows[:, : len(NAMES)].mean(0).tolist()
        return dict(zip(NAMES, means, strict=True)) | self.autoencoder.summary(rows[:, len(NAMES) :])


def likeness(made: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(PSNR, SSIM, mean absolute error), (B,) each, of images (B, C, H, W) in [-1, 1].

    PSNR = 10 log10(4 / MSE), MSE at least 1e-10; SSIM with Gaussian windows of sigma 1.5 (Wang et al. 2004).
    """
    with torch.autocast(x.device.type, enabled=False):  # SSIM is a difference of nearly equal numbers
        return _likeness(made.float(), x.float())


def psnr(made: Tensor, x: Tensor) -> Tensor:
    """10 log10(4 / MSE) (B,), in dB, of images (B, C, ...) in [-1, 1]; MSE at least 1e-10."""
    return 10 * (4 / (made - x).flatten(1).square().mean(1).clamp(min=1e-10)).log10()


def _likeness(made: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from torchmetrics.functional.image import structural_similarity_index_measure  # seconds of imports

    error = (made - x).flatten(1)
    ssim = structural_similarity_index_measure(made, x, data_range=2.0, reduction="none")
    return psnr(made, x), ssim.view(len(x)), error.abs().mean(1)
