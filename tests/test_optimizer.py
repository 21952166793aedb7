import io
import sys
from itertools import pairwise
from math import cos, pi

import pytest
import torch

from conftest import configured
from oboro.base.errors import UserError
from oboro.optimizer import (
    Adam,
    AdamW,
    AdamW8bit,
    Constant,
    CosineDecay,
    Decay,
    LinearDecay,
    Muon,
    Optimizer,
    StableDecay,
)
from oboro.optimizer.muon import orthogonal

OPTIMIZERS = configured("optimizer", "+trainer.max_steps=100")


@pytest.fixture(params=[Constant(), LinearDecay(), CosineDecay(), StableDecay()], ids=lambda d: type(d).__name__)
def decay(request):
    return request.param


def rates(optimizer: Optimizer, max_steps: int, steps: int) -> list[float]:
    """The learning rate of each of ``steps`` updates."""
    weight = torch.nn.Parameter(torch.ones(1))
    torch_optimizer, schedule = optimizer([weight], max_steps)
    used = []
    for _ in range(steps):
        used.append(torch_optimizer.param_groups[0]["lr"])
        weight.grad = torch.ones(1)
        torch_optimizer.step()
        schedule.step()
    return used


def test_decays_written_out():
    for done in (0.0, 0.25, 0.5, 1.0):
        assert Constant()(done) == 1
        assert LinearDecay()(done) == 1 - done
        assert CosineDecay()(done) == pytest.approx((1 + cos(pi * done)) / 2)
    assert [StableDecay(0.5)(done) for done in (0.0, 0.5, 0.625, 1.0)] == [1, 1, 0.5, 0]


def test_a_stable_rate_does_not_know_the_end_of_the_run():
    """Until the last fifth of the shorter of two runs both have the same."""
    short, long = (rates(AdamW(0.01, warmup_steps=2, decay=StableDecay(0.2)), n, 8) for n in (10, 1000))
    assert short == long


@pytest.mark.parametrize("decay", [cls() for cls in Decay.__subclasses__()], ids=lambda d: type(d).__name__)
def test_every_decay_starts_at_the_full_rate_and_never_rises(decay):
    factors = [decay(i / 100) for i in range(101)]
    assert factors[0] == 1
    assert all(b <= a for a, b in pairwise(factors))
    assert factors[-1] >= 0


def test_the_rate_is_warm_up_times_decay(decay):
    used = rates(AdamW(0.01, warmup_steps=4, decay=decay), max_steps=10, steps=10)
    warmup = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]
    assert used == pytest.approx([0.01 * warmup[i] * decay(i / 10) for i in range(10)])


def test_without_warm_up_the_first_update_is_at_the_full_rate(decay):
    assert rates(Adam(0.01, warmup_steps=0, decay=decay), 10, 1) == [0.01]


def test_no_update_is_wasted():
    """Neither the first update, of a warm-up, nor the last one, of a decay to zero, has the rate 0."""
    used = rates(Adam(0.01, warmup_steps=5, decay=LinearDecay()), 10, 10)
    assert used[0] == pytest.approx(0.002) and used[-1] == pytest.approx(0.001)


def test_a_run_without_end_stays_at_the_full_rate(decay):
    assert rates(Adam(0.01, warmup_steps=2, decay=decay), -1, 5) == pytest.approx([0.005, 0.01, 0.01, 0.01, 0.01])


def test_past_the_end_the_rate_stays_at_its_last_value(decay):
    optimizer = Adam(0.01, warmup_steps=0, decay=decay)
    assert optimizer.factor(15, 10) == optimizer.factor(10, 10) == decay(1.0)


def test_adam_makes_the_step_of_its_paper():
    """arXiv:1412.6980, algorithm 1: the first step is lr in the direction of the sign of the gradient."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    optimizer, _ = Adam(0.1, 0, Constant())([weight], 10)
    weight.grad = torch.tensor([3.0, -0.01])
    optimizer.step()
    torch.testing.assert_close(weight.data, torch.tensor([0.9, -0.9]), atol=1e-5, rtol=0)


def test_adamw_decays_weights_apart_from_the_gradient():
    """arXiv:1711.05101, algorithm 2: with zero gradient the weight shrinks by 1 - lr * weight_decay."""
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer, _ = AdamW(0.1, 0, Constant(), weight_decay=0.5)([weight], 10)
    weight.grad = torch.zeros(1)
    optimizer.step()
    torch.testing.assert_close(weight.data, torch.tensor([2.0 * (1 - 0.05)]))


def test_options_reach_the_torch_optimizer():
    weight = torch.nn.Parameter(torch.ones(1))
    group = AdamW(0.1, 0, Constant(), [0.8, 0.9], 1e-6, 0.3)([weight], 10)[0].param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.9), 1e-6, 0.3)
    group = Adam(0.1, 0, Constant(), [0.8, 0.9], 1e-6)([weight], 10)[0].param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.9), 1e-6, 0)


# --- moments in 8 bits

SIZE = 8192


def eight_bit(steps: int, start=None):
    """Weights (SIZE,) and optimizer after ``steps`` of a quadratic bowl, from the start or from another optimizer."""
    pytest.importorskip("bitsandbytes")
    weight = torch.nn.Parameter(torch.linspace(0.5, 1.5, SIZE) if start is None else start[0].detach().clone())
    optimizer = AdamW8bit(0.01, 0, Constant(), weight_decay=0.1).build([weight])
    if start is not None:
        optimizer.load_state_dict(start[1].state_dict())
    for _ in range(steps):
        weight.grad = weight.detach().clone()
        optimizer.step()
    return weight, optimizer


def test_eight_bits_follow_adamw_with_two_bytes_for_a_weight():
    weight, optimizer = eight_bit(20)
    reference = torch.nn.Parameter(torch.linspace(0.5, 1.5, SIZE))
    exact = AdamW(0.01, 0, Constant(), weight_decay=0.1).build([reference])
    for _ in range(20):
        reference.grad = reference.detach().clone()
        exact.step()
    moved = (reference - torch.linspace(0.5, 1.5, SIZE)).abs().min()
    assert (weight - reference).abs().max() < 0.05 * moved
    moments = [value for value in optimizer.state[weight].values() if torch.is_tensor(value) and len(value) == SIZE]
    assert sum(m.nbytes for m in moments) == 2 * SIZE


def test_eight_bits_resume_exactly():
    straight, _ = eight_bit(4)
    resumed, _ = eight_bit(2, eight_bit(2))
    assert torch.equal(straight, resumed)


def test_a_missing_library_or_device_is_said(monkeypatch):
    optimizer = AdamW8bit(0.01, 0, Constant())
    pytest.importorskip("bitsandbytes")
    with pytest.raises(UserError, match="knows no meta devices; choose optimizer=adamw"):
        optimizer.build([torch.nn.Parameter(torch.empty(1, device="meta"))])
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # what an import of a missing library meets
    with pytest.raises(UserError, match=r"pip install \"oboro\[bitsandbytes\]\""):
        optimizer.build([torch.nn.Parameter(torch.ones(1))])


def one_step(optimizer, weight, gradients):
    """What is added to ``weight`` by steps along ``gradients``."""
    parameter = torch.nn.Parameter(weight.clone())
    made = optimizer([parameter])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        made.step()
        assert torch.equal(parameter.grad, gradient)
    return parameter.data - weight


@pytest.mark.parametrize("shape", [(48, 20), (20, 48)], ids=["tall", "wide"])
def test_muon_makes_the_steps_of_torchs_own(shape, normal):
    """Which is for matrices alone and computes in 16 bits: to 1 % of a step."""
    weight, gradients = normal(*shape).float(), normal(3, *shape).float()
    ours = one_step(Muon(0.01, 0, Constant(), momentum=0.9, weight_decay=0.1).build, weight, gradients)
    theirs = one_step(
        lambda p: torch.optim.Muon(p, 0.01, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
        weight,
        gradients,
    )
    assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_orthogonal_keeps_singular_vectors_and_makes_their_values_alike(normal):
    u, _, vt = torch.linalg.svd(normal(20, 32), full_matrices=False)
    s = torch.logspace(0, -1.5, 20, dtype=torch.float64)
    values = (u.T @ orthogonal(u * s @ vt).double() @ vt.T).diagonal()
    assert values.min() > 0.65 and values.max() < 1.25


@pytest.mark.parametrize("shape", [(20, 32), (32, 20), (16, 16)])
def test_orthogonal_is_the_iteration_of_muon(shape, normal):
    """X ← a X + (b X Xᵀ + c (X Xᵀ)²) X, which carrying X Xᵀ along comes to, also for small singular values, and for
    several matrices at a time."""
    u, _, vt = torch.linalg.svd(normal(3, *shape), full_matrices=False)
    x = matrices = u * torch.logspace(0, -5, min(shape), dtype=torch.float64) @ vt
    x = x / x.norm(dim=(1, 2), keepdim=True)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    found, expected = ((u.mT @ y.double() @ vt.mT).diagonal(dim1=1, dim2=2) for y in (orthogonal(matrices.float()), x))
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=0)
    torch.testing.assert_close(orthogonal(matrices[1].float()), orthogonal(matrices.float())[1], rtol=0, atol=1e-4)


def test_muon_takes_kernels_for_matrices_and_leaves_the_rest_to_adamw(normal):
    """Steps of convolutions are those of the flattened kernel; of biases and layers of few channels those of AdamW."""
    kernel, gradients = normal(32, 16, 3, 3).float(), normal(2, 32, 16, 3, 3).float()
    muon = Muon(0.01, 0, Constant()).build
    flat = one_step(muon, kernel.flatten(1), gradients.flatten(2))
    torch.testing.assert_close(one_step(muon, kernel, gradients).flatten(1), flat)
    for shape in [(32,), (4, 64), (64, 1, 3, 3)]:
        weight, gradients = normal(*shape).float(), normal(2, *shape).float()
        adamw = AdamW(0.01, 0, Constant(), betas=(0.9, 0.99), weight_decay=0.0).build
        assert torch.equal(one_step(muon, weight, gradients), one_step(adamw, weight, gradients))


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"adamw_8bit"}))  # which has a test of its own
def test_what_was_saved_goes_on_to_the_last_bit(name, normal):
    """Of every option, with a matrix, a kernel and a vector, in float32 as files have them."""

    def built(weights):
        return OPTIMIZERS[name].build(weights)

    def update(optimizer, weights, gradients):
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()

    start = [normal(*shape).float() for shape in ((24, 32), (16, 4, 3, 3), (24,))]
    gradients = [[normal(*weight.shape).float() for weight in start] for _ in range(4)]
    whole, cut = ([torch.nn.Parameter(weight.clone()) for weight in start] for _ in range(2))
    first, straight = built(cut), built(whole)
    for each in gradients[:2]:
        update(first, cut, each)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = built(cut)
    second.load_state_dict(torch.load(file, weights_only=True))
    for each in gradients[2:]:
        update(second, cut, each)
    for each in gradients:
        update(straight, whole, each)
    assert all(torch.equal(a, b) for a, b in zip(cut, whole, strict=True))
