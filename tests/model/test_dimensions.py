"""Networks of sequences and of video: what holds of one dimension follows from two, and of two from three."""

import pytest
import torch
from torch import nn

from oboro.base.errors import UserError
from oboro.condition import Label, Text
from oboro.model import DiT, EDM2UNet, SongUNet, UNet, UNetEncoder

LEVELS = {"channels": 8, "channel_mult": (1, 2), "blocks": 1, "attention_levels": (1,)}
TOKENS = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TEXT = {"text": Text(TOKENS, torch.tensor([[True, True, False], [False, False, False]]), TOKENS[:, 0])}
NETWORKS = {
    "unet": (UNet, {**LEVELS, "head_channels": 8, "num_classes": 3}),
    "unet_text": (UNet, {**LEVELS, "residual_resample": True, "scale_shift": False, "text_dim": 6}),
    "edm2_unet": (EDM2UNet, {**LEVELS, "head_channels": 8}),
    "ncsnpp": (SongUNet, {**LEVELS, "dropout": 0.0, "noise_channels": 8, "pyramid": True}),
    "unet_encoder": (UNetEncoder, {**LEVELS, "num_classes": 3, "residual_resample": False}),
}
SIZES = {1: (13,), 2: (6, 7), 3: (3, 5, 4)}


def make(name, randomise, dims):
    cls, settings = NETWORKS[name]
    with torch.random.fork_rng():  # drawn by torch's layers
        torch.manual_seed(0)
        return randomise(cls(2, **settings, dims=dims)).double().eval()


def condition(name):
    return {"unet": {"label": Label(torch.tensor([1, -1]))}, "unet_text": TEXT}.get(name, {})


POOLED = ("unet_text", "edm2_unet")  # torch's mean over 2×2×2 refuses a length of one
PAIRS = [(name, dims) for dims in (1, 2) for name in NETWORKS if dims == 1 or name not in POOLED]


@pytest.mark.parametrize(("name", "dims"), PAIRS)
def test_a_network_is_that_of_one_more_axis_on_a_sample_of_length_one(name, dims, randomise, normal):
    """Kernels that are zero but in the middle of the new axis see a single row, as if it were all there is.

    Doubled, the row stands there twice, and what is too many is cut off again.
    """
    low, high = make(name, randomise, dims), make(name, randomise, dims + 1)
    state = low.state_dict()
    for key, wanted in high.state_dict().items():
        if wanted.ndim > state[key].ndim:
            middle = wanted.shape[2] // 2
            state[key] = torch.zeros_like(wanted).index_copy_(2, torch.tensor([middle]), state[key].unsqueeze(2))
    high.load_state_dict(state)
    high.min_size = 1
    x, c_noise = normal(2, 2, *SIZES[dims]), torch.tensor([-1.0, 0.7], dtype=torch.float64)
    answer, expected = low(x, c_noise, condition(name)), high(x.unsqueeze(2), c_noise, condition(name))
    assert answer.std() > 1e-3
    torch.testing.assert_close(answer, expected if name == "unet_encoder" else expected.squeeze(2))


@pytest.mark.parametrize("dims", [1, 3])
def test_every_number_of_a_sample_reaches_the_answer(dims, randomise, normal):
    dit = DiT(2, patch=2, dim=24, depth=2, heads=2, reference_size=8, dims=dims)
    for network in (make("unet", randomise, dims), randomise(dit).double().eval()):
        x = normal(1, 2, *SIZES[dims]).requires_grad_()
        out = network(x, torch.zeros(1, dtype=torch.float64), {})
        assert out.shape == x.shape
        (gradient,) = torch.autograd.grad(out.square().sum(), x)
        assert gradient.ne(0).all()


def test_moving_a_sequence_moves_the_answer(randomise, normal):
    """On a circle, and without attention: shifts by multiples of the stride commute with the network."""
    network = make("unet", randomise, 1)
    for stage in network.modules():
        if hasattr(stage, "attention"):
            stage.attention = nn.Identity()
    for module in network.modules():
        if isinstance(module, nn.Conv1d) and module.kernel_size == (3,):
            module.padding_mode, module._reversed_padding_repeated_twice = "circular", [1, 1]
    x, c_noise = normal(1, 2, 16), torch.zeros(1, dtype=torch.float64)
    torch.testing.assert_close(network(x.roll(4, 2), c_noise, {}), network(x, c_noise, {}).roll(4, 2))


@pytest.mark.parametrize("cls", [UNet, SongUNet, EDM2UNet, DiT])
def test_a_sample_of_other_dimensions_is_refused(cls, normal):
    """torch's convolutions would take an image without a batch for a batch of sequences."""
    settings = {"dim": 8, "heads": 1, "depth": 1} if cls is DiT else {**LEVELS, "attention_levels": ()}
    network = cls(2, **settings).double()
    with pytest.raises(ValueError, match=r"of 2 dimensions cannot read a batch of shape \(2, 8, 8\)"):
        network(normal(2, 8, 8), normal(2), {})
    with pytest.raises(UserError, match=r"set model\.dims to 1, 2 or 3"):
        cls(2, dims=4, **settings)
