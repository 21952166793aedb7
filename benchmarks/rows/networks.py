"""A training step of the CIFAR-10 network of DDPM, 35.7 million parameters: ours, and diffusers' as in its script."""

from itertools import repeat

import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional as F

from rows.row import Contender, autocast, composed, trained

BATCH, SIDE = 16, 32
FORWARD = 12.1e9  # operations of an image, 6.06 GMAC
PARAMETERS = 35.7e6
UNCONDITIONAL = ("model=unet", "data=cifar10", "conditioner=unconditional", "metrics=[]")


def images() -> Tensor:
    return torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def peer() -> UNet2DModel:
    network = UNet2DModel(
        sample_size=SIDE,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        dropout=0.1,
        attention_head_dim=None,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )
    assert abs(sum(p.numel() for p in network.parameters()) / PARAMETERS - 1) < 0.01
    return network.train()


def our_step(dtype: torch.dtype) -> Contender:
    task = composed(*UNCONDITIONAL)["task"]
    assert abs(sum(p.numel() for p in task.denoiser.parameters()) / PARAMETERS - 1) < 0.01
    return trained(task, repeat({"x": images()}), dtype)


def peer_step(dtype: torch.dtype) -> Contender:
    """``train_unconditional.py`` without accelerate around it, with the optimizer of ours."""
    network, schedule, x = peer(), DDPMScheduler(1000), images()
    parameters = list(network.parameters())
    optimizer = composed(*UNCONDITIONAL)["task"].optimizer.build(parameters)
    average = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True)

    def step() -> None:
        noise, t = torch.randn_like(x), torch.randint(0, 1000, (BATCH,))
        with autocast(dtype):
            predicted = network(schedule.add_noise(x, noise, t), t).sample
        loss = F.mse_loss(predicted.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(network.parameters())

    return step
