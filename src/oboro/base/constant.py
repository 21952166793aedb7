"""Networks that an objective looks through without teaching them."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.func import functional_call


def constant(network: nn.Module) -> Callable[..., Any]:
    """``network`` as a function whose weights are constants: gradients go to its inputs alone.

    So one backward pass serves several networks: each objective sees the others as they are and moves none of them.
    """
    weights = {name: p.detach() for name, p in network.named_parameters()}
    return lambda *inputs: functional_call(network, weights, inputs)
