"""lucidrains' ``Trainer`` of denoising-diffusion-pytorch, with the settings of its README.

Batch 32, two of them accumulated, Adam (lr 8e-5), EMA of 0.995 each tenth step, v prediction on 1000 sigmoid betas.
Other than there: a network of 1.5 M parameters for 28 pixels, pictures are not mirrored, float32 (float16 is for GPUs),
and 20 steps of DDIM in place of 250. Its Trainer reads the pictures from a folder.
"""

from collections.abc import Iterator
from copy import deepcopy

import torch
from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet
from PIL import Image
from torch import Tensor

from trainers.point import Clock, Given, Point

BATCH, ACCUMULATED, SAMPLING_STEPS, CHUNK = 32, 2, 20, 100
AT_ONCE = 1  # step between two looks at the clock
NEVER = 10**9


def points(given: Given) -> Iterator[Point]:
    pictures = given.folder / "pictures"
    pictures.mkdir()
    for i, image in enumerate(given.images):
        Image.fromarray(image[0].numpy()).save(pictures / f"{i:05d}.png")
    network = Unet(dim=24, dim_mults=(1, 2, 4), channels=1)
    diffusion = GaussianDiffusion(network, image_size=28, timesteps=1000, sampling_timesteps=SAMPLING_STEPS)
    trainer = Trainer(
        diffusion,
        str(pictures),
        train_batch_size=BATCH,
        gradient_accumulate_every=ACCUMULATED,
        train_lr=8e-5,
        train_num_steps=0,
        ema_decay=0.995,
        augment_horizontal_flip=False,
        save_and_sample_every=NEVER,
        results_folder=str(given.folder / "results"),
        calculate_fid=False,
    )
    clock = Clock()
    for mark in given.marks:
        while clock.spent < mark:
            trainer.train_num_steps += AT_ONCE
            trainer.train()
        spent = clock.spent
        averaged = deepcopy(trainer.ema.ema_model).eval()
        yield Point(spent, BATCH * ACCUMULATED * trainer.step, lambda n, averaged=averaged: drawn(averaged, n))
        clock.resume_from(spent)


@torch.no_grad()
def drawn(diffusion: GaussianDiffusion, n: int) -> Tensor:
    samples = [diffusion.sample(min(CHUNK, n - first)) for first in range(0, n, CHUNK)]  # in [0, 1]
    return (torch.cat(samples).clamp(0, 1) * 255).round().to(torch.uint8)
