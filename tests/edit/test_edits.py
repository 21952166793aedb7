"""Laws of the edits on exact denoisers: Gaussian classes, whose flows are known in closed form."""

from itertools import pairwise
from math import log2

import pytest
import torch

from oboro.base.errors import UserError
from oboro.base.seeding import SampleNoise
from oboro.condition import Condition
from oboro.denoiser import MixtureDenoiser
from oboro.edit import DDPMInversion, FlowEdit, Interpolation, Inversion, Model, Pictures, RFInversion, SDEdit
from oboro.edit.inversion import slerp
from oboro.generate import walk
from oboro.guidance import ClassifierFree, Unguided
from oboro.sampler import DDIM, Adaptive, DPMSolverPP, Heun, LearnedVariance
from oboro.sampler.grid import Karras as KarrasGrid
from oboro.schedule import VP, Cosine, Karras, Linear

from .classes import Classes, of_class

MEANS, STD = [-1.0, 0.5, 0.1], 0.6  # classes 0 and 1, no class
SCHEDULES = [Linear(), Cosine(), VP(), Karras()]
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
IDS = [3, 0, 8]


def pictures(source: int = 0, target: int = 1, ids=IDS, **more) -> Pictures:
    x = MEANS[0] + STD * SampleNoise(1, ids)(torch.empty(len(ids), 2, 4, dtype=torch.float64))
    return Pictures(x, of_class(source, len(ids)), of_class(target, len(ids)), ids, 0, **more)


def model(sampler, schedule=SCHEDULES[0], guidance=None) -> Model:
    return Model(Classes(MEANS, STD, schedule), guidance or Unguided(), sampler)


def sampled(m: Model, p: Pictures) -> torch.Tensor:
    shape, device = tuple(p.x.shape[1:]), torch.device("cpu")
    where = {"ids": p.ids, "seed": p.seed, "latent_shape": shape, "device": device}
    return walk(m.denoiser, m.guidance, m.sampler, cond=p.target, **where)


@each_schedule
def test_sdedit_at_strength_1_is_sampling_and_at_0_the_picture(schedule):
    m, p = model(DDIM(10, eta=1), schedule), pictures()
    assert torch.equal(SDEdit(1.0)(m, p), sampled(m, p))
    assert torch.equal(SDEdit(0.0)(m, p), p.x.float())


def test_sdedit_keeps_more_of_the_picture_the_weaker_it_is():
    """Under the flow of a Gaussian x_0 is linear in x_t: its share of x is known."""
    m = model(Heun(200))
    for strength in (0.3, 0.8):
        one, two = (SDEdit(strength)(m, p) for p in (pictures(), pictures(ids=[3, 0, 8])))
        assert torch.equal(one, two)
        p = pictures()
        moved = Pictures(p.x + 1, p.source, p.target, p.ids, p.seed)
        change = SDEdit(strength)(m, moved) - one
        wanted = (1 - strength) * STD / ((1 - strength) ** 2 * STD**2 + strength**2) ** 0.5
        assert change.sub(wanted).abs().max() < 2e-3


@pytest.mark.parametrize("make", [DDIM, Heun])
def test_the_error_of_a_round_trip_falls_with_the_order_of_the_sampler(make):
    p = pictures(0, 0)
    flow = Inversion(strength=0.9)
    errors = [float((flow(model(make(n)), p) - p.x).abs().mean()) for n in (20, 40, 80)]
    order = make(1).order
    assert log2(errors[1] / errors[2]) > order - 0.3 and errors[2] < 0.05**order


@each_schedule
def test_inversion_leads_to_the_noise_of_the_picture_and_down_the_flow_of_the_target(schedule):
    """x_1 = v_1 / std (x - mean) + alpha_1 mean, and down again with the target's mean: the edit adds the difference
    of the means, less what is left of them at t = 1."""
    m, p = model(Heun(100), schedule), pictures()
    flow = Inversion()
    alpha, sigma = (c.item() for c in schedule(torch.ones(1, dtype=torch.float64)))
    noise = alpha * MEANS[0] + (p.x - MEANS[0]) * ((alpha * STD) ** 2 + sigma**2) ** 0.5 / STD
    assert (flow.inverted(m, p) / sigma - noise / sigma).abs().max() < 0.03
    v = ((alpha * STD) ** 2 + sigma**2) ** 0.5
    wanted = p.x + (MEANS[1] - MEANS[0]) * (1 - alpha * STD / v)
    assert (flow(m, p) - wanted).abs().max() < 0.03


@pytest.mark.parametrize("schedule", SCHEDULES[:3], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(
    "sampler", [DDIM(12, eta=1), DDIM(12, eta=0.5), LearnedVariance(12)], ids=["ancestral", "half", "learned variance"]
)
def test_ddpm_inversion_gives_the_picture_back_under_equal_conditions_and_scales(sampler, schedule):
    for scale, strength in ((1.0, 1.0), (4.0, 0.64)):
        m, p = model(sampler, schedule, ClassifierFree(scale)), pictures(0, 0)
        p = Pictures(p.x.float(), p.source, p.target, p.ids, p.seed)
        made = DDPMInversion(strength, source_scale=scale)(m, p)
        assert (made - p.x).norm() < 1e-5 * p.x.norm()
        assert (DDPMInversion(strength, source_scale=scale + 1)(m, p) - p.x).norm() > 1e-2 * p.x.norm()


@pytest.mark.parametrize("schedule", SCHEDULES[:2], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_ddpm_inversion_and_flow_edit_move_a_gaussian_by_the_difference_of_the_means(schedule, steps):
    """Exactly, for any number of steps: where no signal is left at t = 1 the difference of two walks from one noise is
    alpha_t times that of the means."""
    p, wanted = pictures(), pictures().x + MEANS[1] - MEANS[0]
    made = DDPMInversion(strength=1)(model(DDIM(steps, eta=1), schedule), p)
    assert (made - wanted).abs().max() < 1e-6
    for averages in (1, 3):
        made = FlowEdit(strength=1, averages=averages)(model(DDIM(steps), schedule), p)
        assert (made - wanted).abs().max() < 1e-6


@each_schedule
def test_flow_edit_under_equal_conditions_is_the_identity_bit_for_bit(schedule):
    m, p = model(DDIM(7), schedule, ClassifierFree(3.0)), pictures(1, 1)
    assert torch.equal(FlowEdit(source_scale=3.0, averages=2)(m, p), p.x)


def test_flow_edit_on_the_linear_schedule_is_that_of_the_paper():
    """z_edit += (s - t) (v(z_edit + z_src - x, target) - v(z_src, source)), v = (z - D) / t."""
    schedule = Linear()
    means = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    exact = [MixtureDenoiser(torch.tensor([w, 1 - w]).double(), means, 0.3, schedule) for w in (0.8, 0.3)]

    class Two(Classes):
        def forward(self, x_t, t, cond):
            return exact[int(cond.signals["label"].index[0])](x_t, t, cond)

    m, p = Model(Two(MEANS, STD, schedule), Unguided(), DDIM(10)), pictures()
    noise, z_edit = SampleNoise(p.seed, p.ids), p.x
    for i in range(7):
        t, s = 0.7 - i / 10, 0.6 - i / 10
        z_src = (1 - t) * p.x + t * noise(p.x)
        z_tar, at = z_edit + z_src - p.x, torch.full((len(p.x),), t, dtype=torch.float64)
        v_src, v_tar = ((z - d(z, at, Condition())) / t for z, d in zip((z_src, z_tar), exact, strict=True))
        z_edit = z_edit + (s - t) * (v_tar - v_src)
    assert torch.allclose(FlowEdit(strength=0.7)(m, p), z_edit, atol=1e-9)
    assert (z_edit - p.x).abs().max() > 0.05


def test_below_a_time_flow_edit_samples_the_target_alone():
    m, p = model(DDIM(20)), pictures()
    late = FlowEdit(strength=1, sample_below=0.5)(m, p)
    noise = SampleNoise(p.seed, p.ids)
    for _ in range(11):
        eps = noise(p.x)
    x_t = 0.5 * (p.x + MEANS[1] - MEANS[0]) + 0.5 * eps
    where = {"latent_shape": (2, 4), "device": torch.device("cpu")}
    wanted = walk(m.denoiser, Unguided(), m.sampler, ids=p.ids, seed=0, cond=p.target, x_t=x_t, start=0.5, **where)
    assert (late - wanted).abs().max() < 1e-5


def test_the_ends_of_an_interpolation_are_round_trips_of_the_two_pictures():
    p = pictures(other=MEANS[1] + STD * SampleNoise(5, IDS)(torch.empty(3, 2, 4, dtype=torch.float64)))
    made = Interpolation(frames=5)(model(Heun(50)), p).unflatten(0, (3, 5))
    assert (made[:, 0] - p.x).abs().max() < 0.05 and (made[:, 4] - p.other).abs().max() < 0.05
    steps = (made[:, 1:] - made[:, :-1]).flatten(2).norm(dim=2)
    assert (steps > 0.05 * steps.sum(1, keepdim=True)).all()


def test_slerp_walks_the_sphere_at_equal_speed():
    a, b = torch.randn(2, 3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind(0)
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1))[:, None, None]
    points = [slerp(a, b, torch.full((3,), w)).flatten(1) for w in (0.0, 0.25, 0.5, 0.75, 1.0)]
    norms, speeds = (
        torch.stack(v)
        for v in (
            [p.norm(dim=1) for p in points],
            [(q - p).norm(dim=1) for p, q in pairwise(points)],
        )
    )
    assert torch.allclose(norms, norms[:1].expand_as(norms)) and torch.allclose(speeds, speeds[:1].expand_as(speeds))
    assert torch.equal(points[0], a.flatten(1)) and torch.allclose(points[4], b.flatten(1))
    assert torch.allclose(slerp(a, 2 * a, torch.full((3,), 0.5)), 1.5 * a)


def test_rf_inversion_leads_to_the_drawn_noise_and_back_to_the_picture():
    m, p = model(Heun(20)), pictures()
    made = RFInversion(to_picture=1, pull_until=0)(m, p)
    assert (made - p.x).abs().max() < 1e-5
    assert torch.equal(RFInversion(to_noise=0, to_picture=0)(m, p), Inversion()(m, p))
    near, far = (RFInversion(to_picture=share)(m, p) for share in (0.9, 0.1))
    assert (near - p.x).norm() < (far - p.x).norm()
    eps = SampleNoise(p.seed, p.ids)(p.x.float())
    up = RFInversion(to_noise=1, to_picture=0)(m, p)  # from pure noise: sampling with the seed's own
    assert (up - sampled(m, p)).abs().max() < 0.02 and eps.shape == up.shape


EDITS = [SDEdit(0.5), Inversion(), DDPMInversion(), FlowEdit(), RFInversion()]


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: type(e).__name__)
def test_a_picture_is_edited_by_itself(edit):
    m, whole = model(DDIM(6, eta=isinstance(edit, DDPMInversion))), pictures()
    made = edit(m, whole)
    one = Pictures(whole.x[1:2], of_class(0, 1), of_class(1, 1), IDS[1:2], 0)
    assert torch.equal(edit(m, one), made[1:2])
    calls = []
    watched = Model(m.denoiser, m.guidance, m.sampler, lambda x0, t: calls.append(t))
    assert torch.equal(edit(watched, whole), made) and len(calls) == edit.evaluations(m)


@pytest.mark.parametrize(
    ("edit", "sampler", "words"),
    [
        (Inversion(), DDIM(5, eta=1), "choose a sampler without noise"),
        (DDPMInversion(), DDIM(5), "sampler=ddim_ancestral"),
        (DDPMInversion(), DPMSolverPP(5), "sampler=ddim_ancestral"),
        (FlowEdit(), DPMSolverPP(5), "sampler=ddim"),
        (FlowEdit(), DDIM(5, eta=1), "sampler=ddim"),
        (FlowEdit(), Adaptive(), "sampler=ddim"),
    ],
)
def test_what_a_sampler_cannot_do_is_refused_before_it_begins(edit, sampler, words):
    with pytest.raises(UserError, match=words):
        edit.check(model(sampler), False)


def test_a_grid_that_begins_below_1_loses_nothing():
    m, p = model(DDIM(60, grid=KarrasGrid()), VP()), pictures(0, 0)
    assert (Inversion()(m, p) - p.x).abs().max() < 0.2
