"""What all tests share: one thread, and every configured schedule, parameterization and sampler as a fixture.

The three fixtures run over the option files of their group, so that a new option is held to the laws without a change
of the tests. Numbers are float64 unless a test is about single precision, and draws come from generators of their own.
"""

from collections.abc import Sequence
from copy import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

import composing
from cases import over
from oboro.model import UNet
from oboro.parameterization import Eps
from oboro.sampler.grid import Sigmas, Times

torch.set_num_threads(1)
composing.once()

CONF = Path(__file__).resolve().parents[1] / "conf"


def configured(group: str, *needs: str, without: Sequence[str] = ()) -> dict:
    """The object that each option of a config group describes, by the name of the option.

    ``group`` may be nested (loss/time); ``needs`` are the overrides for what the options interpolate.
    """

    def described(name: str):
        config = compose(overrides=[f"+{group}={name}", *needs])
        return instantiate(OmegaConf.select(config, group.replace("/", ".")), _convert_="all")

    names = sorted({path.stem for path in (CONF / group).glob("*.yaml")} - set(without))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return {name: described(name) for name in names}


def of_steps(sampler, steps: int):
    """The same sampler with another number of steps."""
    sampler = copy(sampler)
    sampler.steps = steps
    return sampler


SCHEDULES = configured("schedule")
PARAMETERIZATIONS = configured("parameterization")
GRIDS = configured("sampler/grid", without=("sigmas", "times"))  # lists of one's own
GRIDS |= {"sigmas": Sigmas([80, 1, 0.01]), "times": Times([1.0, 0.4, 0.0])}
ADAPTIVE = {"adaptive"}  # chooses its steps: no fixed number of evaluations, no order in it
MEASURING = {"repaint", "ddnm_plus"}  # these draw samples of a measurement
CHAINS = {"walk_back"}  # stays at one noise level: no solver of a flow
OTHERS = ADAPTIVE | MEASURING | CHAINS
SAMPLERS = {name: sampler for name, sampler in configured("sampler").items() if name not in OTHERS}
JUMPS = {"ddim_consistency", "ddim_consistency_two"}  # takes x̂0 for the end of the flow and not for a mean
ODE_SAMPLERS = {name: sampler for name, sampler in SAMPLERS.items() if not sampler.stochastic}
STOCHASTIC = {name for name, sampler in SAMPLERS.items() if sampler.stochastic}


def defined(schedule, parameterization) -> bool:
    """Everything but eps where no signal is left: there a Denoiser refuses it."""
    return not isinstance(parameterization, Eps) or schedule.alpha(torch.ones(())) > 0


# A law of denoisers, held by every parameterization on every schedule that it is defined on.
each_denoiser = over(schedule=SCHEDULES, parameterization=PARAMETERIZATIONS, where=defined)


@pytest.fixture
def conf() -> Path:
    """The folder of the configuration."""
    return CONF


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return SCHEDULES[request.param]


@pytest.fixture
def schedules():
    """All of them, by option name, where a law is about two."""
    return SCHEDULES


@pytest.fixture(params=PARAMETERIZATIONS)
def parameterization(request):
    return PARAMETERIZATIONS[request.param]


@pytest.fixture
def parameterizations():
    return PARAMETERIZATIONS


@pytest.fixture(params=SAMPLERS)
def sampler(request):
    return SAMPLERS[request.param]


@pytest.fixture(params=ODE_SAMPLERS)
def ode_sampler(request):
    """A sampler that draws no noise."""
    return SAMPLERS[request.param]


@pytest.fixture(params=sorted(STOCHASTIC - JUMPS - {"restart"}))
def sde_sampler(request):
    """A sampler that draws noise and converges to the distribution of the data."""
    return SAMPLERS[request.param]


@pytest.fixture
def with_steps():
    """``with_steps(sampler, 5)``: the same sampler with another number of steps."""
    return of_steps


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def normal(rng):
    """``normal(2, 3)``: float64 standard normal numbers, others at each call."""
    return lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)


@pytest.fixture
def noise(normal):
    """Noise for a sampler: other normal numbers at each call, the Brownian motion without memory."""

    class Fresh:
        def __call__(self, like):
            return normal(*like.shape)

        def between(self, like, a, b):
            assert 0 <= a < b <= 1
            return normal(*like.shape)

    return Fresh()


@pytest.fixture
def randomise():
    """Give every parameter of a module, also those that start at zero, random values that keep activations in size."""

    def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in module.named_parameters():
                draw = torch.randn(p.shape, generator=g, dtype=torch.float64)
                if p.ndim > 1:
                    p.copy_(draw / p[0].numel() ** 0.5)
                else:
                    p.copy_(0.1 * draw + (1.0 if "norm" in name and "weight" in name else 0.0))
        return module

    return randomise


@pytest.fixture
def small_unet(randomise):
    """``small_unet(num_classes=3)``: a two-level U-Net of 8 and 16 channels with random weights, in eval mode."""

    def make(in_channels: int = 1, dtype: torch.dtype = torch.float64, seed: int = 0, **keywords) -> UNet:
        settings = {"channels": 8, "channel_mult": (1, 2), "blocks": 1, "attention_levels": (1,), "head_channels": 8}
        with torch.random.fork_rng():  # the initial weights, which are replaced, come from the global generator
            network = UNet(in_channels, **{**settings, **keywords})
        return randomise(network, seed).to(dtype).eval()

    return make


@pytest.fixture
def global_generator_unread():
    """For ``pytest.mark.usefixtures``: fails a test in which something reads torch's global generator."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture(autouse=True)
def _process_groups_end():
    """A run that was refused after its ranks had met leaves their group to its process."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()
