"""What the tests of the networks share: options of conf/model, built without memory."""

from functools import cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.utils.flop_counter import FlopCounterMode


@cache
def built(conf, name: str, channels: int, num_classes: int, *settings: str) -> torch.nn.Module:
    overrides = [f"+model={name}", f"+codec.channels={channels}", f"+conditioner.num_classes={num_classes}", *settings]
    overrides += [f"+data.num_classes={num_classes}", "+conditioner.text_dim=0", "+conditioner.pooled_dim=0"]
    with initialize_config_dir(str(conf), version_base="1.3"), torch.device("meta"):
        return instantiate(compose(overrides=overrides), _convert_="all")["model"].eval()


@pytest.fixture
def count_parameters(conf):
    """``count_parameters("dit", 3, 10)``: the number of parameters of an option for 3 channels and 10 classes."""
    return lambda *question: sum(p.numel() for p in built(conf, *question).parameters())


@pytest.fixture
def flop(conf):
    """``flop("dit_tiny", 28)``: operations, two for a multiplication and its addition, for a 1×28×28 image."""

    def count(name: str, size: int) -> int:
        network = built(conf, name, 1, 10)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 1, size, size, device="meta"), torch.empty(1, device="meta"), {})
        return counter.get_total_flops()

    return count
