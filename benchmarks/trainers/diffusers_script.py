"""The recipe of diffusers' ``train_unconditional.py``, from that script's defaults.

Batch 16, AdamW (lr 1e-4, betas 0.95 and 0.999, weight decay 1e-6) with 500 warm-up steps and a cosine over 100 epochs,
eps prediction on 1000 linear betas, EMA of at most 0.9999 with warm-up (power 3/4), gradient norm 1, float32. The
network is a UNet2DModel of 1.6 M parameters at 32 pixels. Sampled from the averaged weights with 20 steps of DDIM.
"""

from collections.abc import Iterator
from copy import deepcopy

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor

from trainers.point import Clock, Given, Point, cropped, padded

BATCH, EPOCHS, SAMPLING_STEPS, CHUNK = 16, 100, 20, 100


def network() -> UNet2DModel:
    return UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
    )


def points(given: Given) -> Iterator[Point]:
    model = network()
    average = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    schedule = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    total = EPOCHS * len(given.images) // BATCH
    rate = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=total)
    clock, steps = Clock(), 0
    for mark in given.marks:
        while clock.spent < mark:
            x = padded(given.images[torch.randint(len(given.images), (BATCH,))])
            noise, t = torch.randn_like(x), torch.randint(1000, (BATCH,))
            loss = F.mse_loss(model(schedule.add_noise(x, noise, t), t).sample, noise)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
            average.step(model.parameters())
            steps += 1
        spent = clock.spent
        averaged = deepcopy(model).eval()
        average.copy_to(averaged.parameters())
        yield Point(spent, BATCH * steps, lambda n, averaged=averaged: drawn(averaged, n))
        clock.resume_from(spent)


@torch.no_grad()
def drawn(model: UNet2DModel, n: int) -> Tensor:
    sampler = DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    sampler.set_timesteps(SAMPLING_STEPS)
    samples = []
    for first in range(0, n, CHUNK):
        x = torch.randn(min(CHUNK, n - first), 1, 32, 32)
        for t in sampler.timesteps:
            x = sampler.step(model(x, t).sample, t, x).prev_sample
        samples.append(cropped(x))
    return torch.cat(samples)
