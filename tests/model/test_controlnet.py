"""ControlNet: at first its base bit for bit, and then what the formula says, for every network that it wraps."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch

from model.test_networks import NETWORKS, make
from oboro.base.errors import UserError
from oboro.condition import Condition, Control, Image, Label
from oboro.denoiser import Denoiser
from oboro.guidance import ClassifierFree, PerCondition, Unguided
from oboro.model import ControlNet, UNetEncoder
from oboro.model.controlnet import HintEmbedding
from oboro.parameterization import V
from oboro.schedule import Cosine
from oboro.task.contradictions import conditions

LABEL = {"label": Label(torch.tensor([0, 2, -1]))}


@pytest.fixture(params=NETWORKS)
def base(request, randomise):
    cls, settings = NETWORKS[request.param]
    return randomise(make(cls, num_classes=3, **settings))


@pytest.fixture
def unet(randomise):
    cls, settings = NETWORKS["ldm_unet"]
    return randomise(make(cls, num_classes=3, **settings))


def wrapped(base, factor=1, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ControlNet(base, 3, factor, **settings).double()


def trained(network, randomise):
    """``network`` after some training: nothing of its branches is zero."""
    base = deepcopy(network.base.state_dict())
    randomise(network, seed=7)
    network.base.load_state_dict(base)
    return network.eval()


def control(x, strength=1.0, first=0.0, last=1.0):
    n = len(x)
    return Control(x, torch.ones(n, dtype=torch.bool), *(torch.full((n,), v) for v in (strength, first, last)))


@pytest.fixture
def question(normal):
    """Odd sizes, labels and pictures for ``factor``."""

    def question(factor=1):
        x, c_noise = normal(3, 1, 7, 6), torch.tensor([-1.0, 0.0, 1.2], dtype=torch.float64)
        return x, c_noise, {**LABEL, "control": control(normal(3, 3, 7 * factor, 6 * factor))}

    return question


@pytest.mark.parametrize("factor", [1, 4])
def test_at_first_it_is_its_base_bit_for_bit_and_learns(base, question, factor, normal):
    """In training the base stays in evaluation mode, and torch's kernels with gradients round otherwise. Only the
    branch gets gradients, of which the zero layers' are the first that are not zero, as in the paper."""
    x, c_noise, signals = question(factor)
    network = wrapped(base, factor).train()
    with torch.no_grad():
        expected, at_first = base(x, c_noise, signals), network(x, c_noise, signals)
    assert expected.any() and torch.equal(at_first, expected)
    answer = network(x, c_noise, signals)
    torch.testing.assert_close(answer, expected, rtol=1e-12, atol=1e-12)
    (answer * normal(*answer.shape)).sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in network.base.parameters())
    moved = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    zeros = {f"branches.0.zeros.{name}" for name, _ in network.branches[0].zeros.named_parameters()}
    assert moved == zeros


def test_in_bfloat16_it_is_its_base_bit_for_bit_where_it_adds_nothing(base, question, randomise):
    """At first, at strength 0, and without the picture: what is added has the precision of what it is added to."""
    x, c_noise, signals = question()
    x, c_noise, base = x.float(), c_noise.float(), base.float()
    given = control(signals["control"].x.float())
    cases = {"at first": (wrapped(base).float(), {**LABEL, "control": given})}
    network = trained(wrapped(base), randomise).float().requires_grad_(False)
    cases |= {
        "strength 0": (network, {**LABEL, "control": control(given.x, 0.0)}),
        "dropped": (network, {**LABEL, "control": given.drop(torch.tensor([True] * 3))}),
    }
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = base(x, c_noise, LABEL)
        answers = {name: asked(x, c_noise, known) for name, (asked, known) in cases.items()}
    assert {name: torch.equal(answer, expected) for name, answer in answers.items()} == dict.fromkeys(cases, True)


def test_all_of_the_copy_learns_once_the_zero_layers_have_moved(base, question, normal, randomise):
    network = trained(wrapped(base, 2), randomise)
    answer = network(*question(2))
    (answer * normal(*answer.shape)).sum().backward()
    idle = {n for n, p in network.branches.named_parameters() if p.grad is None or not p.grad.any()}
    assert idle == set() and all(p.grad is None for p in network.base.parameters())


def test_what_is_dropped_missing_or_of_no_strength_is_the_base(base, question, randomise):
    x, c_noise, signals = question()
    network = trained(wrapped(base), randomise).requires_grad_(False)
    expected, controlled = base(x, c_noise, signals), network(x, c_noise, signals)
    assert torch.equal(network(x, c_noise, LABEL), expected)
    assert torch.equal(network(x, c_noise, {**signals, "control": control(signals["control"].x, 0.0)}), expected)
    some = signals["control"].drop(torch.tensor([False, True, False]))
    mixed = network(x, c_noise, {**signals, "control": some})
    assert torch.equal(mixed[1], expected[1]) and torch.equal(mixed[::2], controlled[::2])
    assert not torch.isclose(controlled, expected).all(dim=(1, 2, 3)).any()


def test_residuals_are_those_of_the_formula(unet, question, randomise):
    """decoder(mid + s z_m(mid'), skip_i + s z_i(skip_i')) with the copy's encoder on x and the embedded picture
    (arXiv:2302.05543, eq. 2), written out, and of two branches their sum."""
    x, c_noise, signals = question(2)
    network, other = (trained(wrapped(deepcopy(unet), 2), randomise) for _ in range(2))
    branch = network.branches[0]
    arguments = unet.embed(c_noise, signals)
    h, skips = unet.encode(x, arguments)
    embedded = branch.enter(branch.hint(signals["control"].x))
    mid, copies = branch.copy.encode(x, branch.copy.embed(c_noise, signals), {0: embedded})
    copies = [z(a) for z, a in zip(branch.zeros, [*copies, mid], strict=True)]

    def expected(strength):
        *summed, middle = (a + strength * z for a, z in zip([*skips, h], copies, strict=True))
        return unet.decode(middle, summed, arguments)

    for strength in (1.0, 0.3, 2.0):
        asked = {**signals, "control": control(signals["control"].x, strength)}
        torch.testing.assert_close(network(x, c_noise, asked), expected(strength))
    network.add(other.branches[0], "other")
    twice = {**signals, "other": control(signals["control"].x, 0.5)}
    torch.testing.assert_close(network(x, c_noise, twice), expected(1.5))


def test_checkpointing_changes_no_gradient(base, question, normal, randomise):
    kept, again = (trained(wrapped(deepcopy(base), checkpointing=c), randomise) for c in (False, True))
    asked = question()
    weights = normal(*asked[0].shape)
    for network in (kept, again):
        (network(*asked) * weights).sum().backward()
    for p, q in zip(kept.branches.parameters(), again.branches.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_the_gradient_with_respect_to_the_sample_goes_through_all_of_it(unet, question, randomise):
    """Guidance by gradients needs it, although the base is frozen."""
    x, c_noise, signals = question()
    network = trained(wrapped(unet), randomise)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(network(x, c_noise, signals).sum(), x)
    direction, h = torch.ones_like(x), 1e-5
    with torch.no_grad():
        ends = [network(x + s * h * direction, c_noise, signals).sum() for s in (1, -1)]
    torch.testing.assert_close(gradient.sum(), (ends[0] - ends[1]) / (2 * h), rtol=1e-6, atol=1e-6)


def test_the_embedding_shrinks_pictures_by_its_factor_and_sees_black_as_zero(normal):
    """Without biases a black picture, -1 here, is nothing; published ControlNets see it so."""
    for factor, widths in ((1, (4, 6)), (2, (4, 6, 8)), (8, (4, 4, 4, 4))):
        hint = HintEmbedding(3, factor, widths, 2).double()
        assert hint(normal(1, 3, 24, 16)).shape == (1, widths[-1], 24 // factor, 16 // factor)
        for layer in hint.layers:
            torch.nn.init.zeros_(layer.bias)
        assert not hint(torch.full((1, 3, 24, 16), -1.0, dtype=torch.float64)).any()


def denoiser(network):
    return Denoiser(network, Cosine(), V()).requires_grad_(False)


def test_both_branches_of_guidance_are_controlled_unless_control_is_what_is_guided(unet, normal, randomise):
    """D_∅ + s (D_c - D_∅) with the picture in both; named in the scales, D_∅ is the base."""
    plain = denoiser(unet)
    model = denoiser(trained(wrapped(unet), randomise))
    x, t = normal(3, 1, 8, 8), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    picture = control(normal(3, 3, 8, 8))
    both, alone = Condition({**LABEL, "control": picture}), Condition({"control": picture})
    free = ClassifierFree(3.0)(model, [])(x, t, both)
    torch.testing.assert_close(free, model(x, t, alone) + 3 * (model(x, t, both) - model(x, t, alone)))
    guided = PerCondition({"control": 3.0})(model, [])(x, t, both)
    label = Condition(LABEL)
    torch.testing.assert_close(guided, plain(x, t, label) + 3 * (model(x, t, both) - plain(x, t, label)))


def test_control_counts_at_the_times_of_its_interval(unet, normal, randomise):
    plain, model = denoiser(unet), denoiser(trained(wrapped(unet), randomise))
    x, t = normal(3, 1, 8, 8), torch.tensor([0.3, 0.5, 0.8], dtype=torch.float64)
    picture = normal(3, 3, 8, 8)
    during = model(x, t, Condition({**LABEL, "control": control(picture, 1.0, 0.5, 0.8)}))
    never, always = plain(x, t, Condition(LABEL)), model(x, t, Condition({**LABEL, "control": control(picture)}))
    assert torch.equal(during, torch.cat([never[:1], always[1:]]))


@pytest.mark.parametrize(
    ("guidance", "gives", "dropped", "said"),
    [
        (ClassifierFree(2.0), {"label": Label, "control": Control}, {"label"}, None),
        (ClassifierFree(2.0), {"label": Label, "control": Control}, set(), "without its condition label,"),
        (ClassifierFree(2.0), {"label": Label, "image": Image}, {"label"}, "without its condition image,"),
        (ClassifierFree(2.0), {"control": Control}, set(), "this model has none"),
        (PerCondition({"control": 2.0}), {"control": Control}, set(), None),
        (Unguided(), {"control": Control}, set(), None),
    ],
)
def test_guidance_asks_for_dropping_of_what_it_leaves_out_alone(guidance, gives, dropped, said):
    conditioner = SimpleNamespace(gives=gives, dropped=dropped, num_classes=3)
    (reason,) = [*conditions(guidance, conditioner), None][:1]
    assert reason is None if said is None else said in reason


def test_what_does_not_fit_is_said(unet, question):
    x, c_noise, signals = question()
    network = wrapped(unet)
    small, grey = signals["control"].x[..., :4], signals["control"].x[:, :1]
    for picture, said in ((small, "as large as the data"), (grey, "hints of 3 channels and was given one of 1")):
        with pytest.raises(UserError, match=said):
            network(x, c_noise, {**signals, "control": control(picture)})
    with pytest.raises(UserError, match="cannot control a ControlNet"):
        wrapped(network)
    with pytest.raises(UserError, match="cannot control a UNetEncoder"):
        wrapped(UNetEncoder(1, num_classes=2, channels=8, channel_mult=(1, 2), attention_levels=(), head_channels=0))
    for factor, widths in ((3, None), (8, [4, 4])):
        with pytest.raises(UserError, match=r"model\.hint_factor="):
            wrapped(unet, factor, hint_widths=widths)
