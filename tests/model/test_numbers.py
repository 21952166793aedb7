"""Networks that read numbers: the end of a jump, the scale of guidance."""

import pytest
import torch

from model.test_networks import NETWORKS, UNET, make
from oboro.condition import Condition, End, GuidanceScale
from oboro.denoiser import Denoiser
from oboro.model import UNet
from oboro.sampler import DATA, Node, ddim_step
from oboro.schedule import VP, Karras, Linear

CASES = {"unet": (UNet, {**UNET, "head_channels": 8}), **NETWORKS}
ANGLES = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)  # data, on the way, noise


@pytest.mark.parametrize(
    "name, number", [*((name, "end") for name in CASES), *((name, "guidance_scale") for name in CASES)]
)
def test_a_network_that_learns_to_read_a_number_starts_as_it_was_and_then_tells_them_apart(
    name, number, randomise, normal
):
    cls, settings = CASES[name]
    signals = {number: End(ANGLES) if number == "end" else GuidanceScale(1 / (1 - 0.9 * ANGLES))}
    plain = randomise(make(cls, **settings))
    reading = make(cls, **settings, **{f"reads_{number}": True})
    missing = reading.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all(key.startswith(f"{number}.") for key in missing)
    x, c_noise = normal(1, 1, 8, 8).expand(3, 1, 8, 8), torch.full((3,), 0.2, dtype=torch.float64)
    before = plain(x, c_noise, {})
    torch.testing.assert_close(reading(x, c_noise, signals), before, rtol=0, atol=0)

    layer = randomise(getattr(reading, number))
    after = reading(x, c_noise, signals)
    assert after.isfinite().all()
    assert (after[0] - after[1]).abs().max() > 1e-6 < (after[1] - after[2]).abs().max()
    after.square().sum().backward()
    assert all(p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize(
    "schedule, parameterization",
    [(Linear(), "velocity"), (VP(), "eps"), (Karras(), "edm"), (Linear(), "v"), (VP(), "x0")],
    ids=["linear-velocity", "vp-eps", "karras-edm", "linear-v", "vp-x0"],
)
def test_a_denoiser_towards_an_end(schedule, parameterization, parameterizations, randomise, normal):
    """No step is the identity, no end is its own place, and an answer combines x̂0 and eps̃ = (x_t - alpha x̂0) / sigma
    of that end; of mean velocities on straight paths it is what the network says."""
    network = randomise(make(UNet, **UNET, head_channels=8, reads_end=True))
    d = Denoiser(network, schedule, parameterizations[parameterization])
    x, t, s = normal(3, 1, 8, 8), *torch.tensor([[0.9, 0.5, 0.2], [0.4, 0.5, 0.0]], dtype=torch.float64)
    alpha, sigma = (c[:, None, None, None] for c in schedule(t))
    x0 = d(x, t, Condition())
    torch.testing.assert_close(d.towards(*schedule(t))(x, t, Condition()), x0, rtol=0, atol=0)
    here = Node(0.9, *(float(c[0]) for c in schedule(t)))
    torch.testing.assert_close(ddim_step(x[:1], x0[:1], here, here), x[:1])

    ended = d.towards(*schedule(s))
    x0 = ended(x, t, Condition())
    assert (x0 - d.towards(DATA.alpha, DATA.sigma)(x, t, Condition()))[0].abs().max() > 1e-6
    p, q = normal(2, 3)
    expected = p[:, None, None, None] * x0 + q[:, None, None, None] * (x - alpha * x0) / sigma
    torch.testing.assert_close(ended.combined(x, t, Condition(), p, q), expected)
    if parameterization == "velocity":
        c, angle = d.parameterization(*schedule(t)), torch.atan2(s, 1 - s) * 2 / torch.pi
        u = network(x * c.c_in[:, None, None, None], c.c_noise, {"end": End(angle)})
        torch.testing.assert_close(ended.combined(x, t, Condition(), -torch.ones_like(t), torch.ones_like(t)), u)
        ratio, step = (s / t)[:, None, None, None], (t - s)[:, None, None, None]
        torch.testing.assert_close((1 - ratio) * x0 + ratio * x, x - step * u)
