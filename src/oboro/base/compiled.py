"""Compiling of networks whose gradients are asked for in more ways than training does."""

import torch
from torch import nn


def compile_in_place(*networks: nn.Module, backend: str = "inductor") -> None:
    """Compile each network, with its names of weights as they are.

    No compiled network gives the buffers of its forward pass away in a backward pass from here on: a likelihood of
    several probes, guidance and the adaptive weight of a loss go back through one graph more than once.
    """
    torch._functorch.config.donated_buffer = False
    for network in networks:
        network.compile(backend=backend)
