import numpy as np
import pytest
import torch
from torch import nn

from oboro.base.errors import UserError
from oboro.ema import EMA, ConstantDecay, PowerFunction, gamma_from_std


@pytest.fixture
def module(randomise):
    return randomise(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)))


def run(module, ema, updates):
    """Walk the weights of ``module`` at random; their history after each update, one flat vector each."""
    history = []
    ema.start(module)
    for i in range(updates):
        g = torch.Generator().manual_seed(i)
        with torch.no_grad():
            for p in module.parameters():
                p.add_(torch.randn(p.shape, generator=g))
        ema.update(module)
        history.append(flat(module.parameters()))
    return torch.stack(history)


def flat(tensors):
    return torch.cat([t.detach().double().flatten() for t in tensors])


def shares(profile, n) -> np.ndarray:
    """The share of the weights after updates 1..n in the average after update n."""
    share = np.zeros(n)
    for i in range(1, n + 1):
        share *= profile.beta(i)
        share[i - 1] = 1 - profile.beta(i)
    return share


@pytest.mark.parametrize(
    "profile", [PowerFunction(0.1), PowerFunction(0.25), ConstantDecay(0.9), ConstantDecay(0.5, 2)]
)
def test_the_average_is_the_weighted_sum_of_the_history(module, profile):
    ema = EMA({"a": profile})
    history = run(module, ema, 40)
    expected = torch.from_numpy(shares(profile, 40)) @ history
    torch.testing.assert_close(flat(ema.averages["a"]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("profile", [PowerFunction(), ConstantDecay()])
def test_shares_sum_to_one_and_the_initial_weights_have_none(profile):
    """The random initialisation is forgotten at the first update."""
    assert profile.beta(1) == 0
    for n in (1, 2, 10, 1000):
        assert shares(profile, n).sum() == pytest.approx(1, abs=1e-12)
    assert all(0 <= profile.beta(n) < 1 for n in range(1, 100_000, 977))


@pytest.mark.parametrize("profile", [PowerFunction(), ConstantDecay()])
def test_it_starts_at_the_first_weights_it_sees(module, profile):
    ema = EMA({"a": profile})
    history = run(module, ema, 1)
    assert torch.equal(flat(ema.averages["a"]), history[0])


@pytest.mark.parametrize("std", [0.05, 0.1, 0.2])
def test_power_function_weighs_update_i_like_i_to_the_gamma(std):
    """Exactly i^(gamma+1) - (i-1)^(gamma+1), which tends to the plain sum of i^gamma w_i / sum of i^gamma."""
    profile, n = PowerFunction(std), 2000
    i = np.arange(1, n + 1)
    exact = (i / n) ** (profile.gamma + 1) - ((i - 1) / n) ** (profile.gamma + 1)
    np.testing.assert_allclose(shares(profile, n), exact, rtol=1e-8, atol=1e-14)
    plain = i**profile.gamma / (i**profile.gamma).sum()
    assert abs(shares(profile, n) - plain).sum() < 2 * profile.gamma / n


@pytest.mark.parametrize("std", [0.02, 0.05, 0.1, 0.2, 0.28])
def test_power_function_has_the_width_that_was_asked_for(std):
    """Standard deviation of the profile over the training so far, summed up numerically."""
    n = 4000
    share, when = shares(PowerFunction(std), n), (np.arange(1, n + 1) - 0.5) / n
    mean = share @ when
    assert (share @ (when - mean) ** 2) ** 0.5 == pytest.approx(std, rel=1e-3)


def test_gamma_of_edm2():
    """sigma_rel = 0.05 and 0.10 are gamma = 16.97 and 6.94 (arXiv:2312.02696, sec. 3.1)."""
    assert gamma_from_std(0.05) == pytest.approx(16.97, abs=0.01)
    assert gamma_from_std(0.10) == pytest.approx(6.94, abs=0.01)


@pytest.mark.parametrize("std", [-0.1, 0.0, 12**-0.5, 0.5])
def test_impossible_widths_are_refused(std):
    with pytest.raises(ValueError, match="power-function"):
        PowerFunction(std)


def test_constant_decay_is_geometric_after_its_warm_up():
    decay, warmup = 0.9, 9.0
    profile = ConstantDecay(decay, warmup)
    assert [profile.beta(n) for n in range(2, 81)] == [n / (n + 9) for n in range(2, 81)]  # (1 + m) / (10 + m)
    assert all(profile.beta(n) == decay for n in range(81, 200))
    share = shares(profile, 300)
    age = np.arange(300)[::-1]
    np.testing.assert_allclose(share[100:], (1 - decay) * decay ** age[100:], rtol=1e-9)


def test_constant_decay_without_warm_up_is_the_textbook_average():
    share = shares(ConstantDecay(0.9, 0.0), 50)
    age = np.arange(50)[::-1]
    expected = np.where(age == 49, 0.9**49, 0.1 * 0.9**age)
    np.testing.assert_allclose(share, expected, rtol=1e-10)


def test_it_moves(module):
    ema = EMA({"a": ConstantDecay(0.9999)})
    run(module, ema, 3)
    before = flat(ema.averages["a"])
    with torch.no_grad():
        module[0].weight.add_(1.0)
    ema.update(module)
    assert not torch.equal(flat(ema.averages["a"]), before)
    assert not torch.equal(flat(ema.averages["a"]), flat(module.parameters()))


def test_several_profiles_do_not_disturb_each_other(module, randomise):
    profiles = {"short": PowerFunction(0.05), "long": PowerFunction(0.2), "constant": ConstantDecay(0.9)}
    together = EMA(profiles)
    run(module, together, 20)
    assert together.default == "short"
    for name, profile in profiles.items():
        randomise(module)
        alone = EMA({name: profile})
        run(module, alone, 20)
        assert torch.equal(flat(alone.averages[name]), flat(together.averages[name]))
    assert not torch.equal(flat(together.averages["short"]), flat(together.averages["long"]))


def test_an_average_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        EMA({})


def test_averages_are_single_precision_for_half_precision_weights(randomise):
    """In bfloat16 a change of 1e-4 of the weight would be lost, and the average would stand still."""
    module = randomise(nn.Linear(4, 4)).bfloat16()
    ema = EMA({"a": ConstantDecay(0.9999, 0.0)})
    ema.start(module)
    ema.update(module)
    first = flat(ema.averages["a"])
    with torch.no_grad():
        module.weight.mul_(1.5)
    for _ in range(10):
        ema.update(module)
    assert all(a.dtype == torch.float32 for a in ema.averages["a"])
    moved = (flat(ema.averages["a"]) - first)[:16] / (flat(module.parameters()) - first)[:16]
    torch.testing.assert_close(moved, torch.full_like(moved, 1 - 0.9999**10), rtol=1e-2, atol=0)


@pytest.mark.parametrize("way_out", ["return", "exception"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_raw_weights_come_back_bit_for_bit(module, way_out, dtype):
    module.to(dtype)
    ema = EMA({"a": PowerFunction(0.1), "b": PowerFunction(0.2)})
    run(module, ema, 10)
    raw = {k: v.clone() for k, v in module.state_dict().items()}
    tensors = [p.data_ptr() for p in module.parameters()]
    for profile, key in ((None, "a"), ("b", "b")):
        try:
            with ema.applied(module, profile):
                for p, average in zip(module.parameters(), ema.averages[key], strict=True):
                    assert torch.equal(p, average.to(dtype))
                if way_out == "exception":
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert all(torch.equal(v, raw[k]) for k, v in module.state_dict().items())
    assert tensors == [p.data_ptr() for p in module.parameters()]  # an optimizer still holds the same memory


def test_applying_leaves_gradients_and_buffers_to_the_caller(module):
    ema = EMA({"a": PowerFunction()})
    run(module, ema, 3)
    with ema.applied(module):
        assert torch.is_grad_enabled()
        module(torch.ones(2, 3)).sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    assert int(module[1].num_batches_tracked) == 1


def test_a_profile_that_does_not_exist_is_refused_before_anything_changes(module):
    ema = EMA({"a": PowerFunction()})
    run(module, ema, 3)
    raw = flat(module.parameters())
    with pytest.raises(KeyError), ema.applied(module, "b"):
        pass
    assert torch.equal(flat(module.parameters()), raw)


def test_state_survives_a_safe_load_and_training_goes_on_as_if_nothing_had_happened(module, randomise, tmp_path):
    profiles = {"a": PowerFunction(0.1), "b": ConstantDecay(0.9)}
    straight = EMA(profiles)
    run(module, straight, 5)
    torch.save({"ema": straight.state_dict(module), "weights": module.state_dict()}, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)

    other = randomise(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), seed=1)
    other.load_state_dict(loaded["weights"])
    resumed = EMA(profiles)
    resumed.load_state_dict(loaded["ema"], other)
    assert resumed.updates == 5
    assert list(loaded["ema"]["averages"]["a"]) == [name for name, _ in module.named_parameters()]

    run(module, straight, 4)  # start() of a running average changes nothing
    run(other, resumed, 4)
    for name in profiles:
        assert torch.equal(flat(resumed.averages[name]), flat(straight.averages[name]))


def test_averages_do_not_share_memory_with_the_weights_or_the_file(module):
    ema = EMA({"a": PowerFunction(), "b": PowerFunction()})
    ema.start(module)
    before = flat(ema.averages["a"])
    with torch.no_grad():
        for p in module.parameters():
            p.add_(1)
    assert torch.equal(flat(ema.averages["a"]), before)
    state = ema.state_dict(module)
    resumed = EMA({"a": PowerFunction(), "b": PowerFunction()})
    resumed.load_state_dict(state, module)
    resumed.update(module)
    assert torch.equal(flat(state["averages"]["a"].values()), before)


def test_a_missing_profile_or_weight_is_named(module):
    ema = EMA({"a": PowerFunction()})
    ema.start(module)
    state = ema.state_dict(module)
    with pytest.raises(UserError, match="no weights averaged as b"):
        EMA({"b": PowerFunction()}).load_state_dict(state, module)
    del state["averages"]["a"]["0.weight"]
    with pytest.raises(UserError, match=r"0\.weight of a is absent in the file and \(4, 3\) here"):
        EMA({"a": PowerFunction()}).load_state_dict(state, module)
    state["averages"]["a"]["0.weight"] = torch.ones(4, 1)  # would be broadcast
    with pytest.raises(UserError, match=r"0\.weight of a is \(4, 1\) in the file and \(4, 3\) here"):
        EMA({"a": PowerFunction()}).load_state_dict(state, module)


def test_a_profile_knows_its_width_where_it_has_one():
    assert PowerFunction(0.07).std == 0.07
    assert ConstantDecay().std is None


def others(module, offset=0.5):
    return {name: p.detach() + offset for name, p in module.named_parameters()}


def test_added_weights_are_applied_by_name_and_the_raw_ones_come_back(module):
    ema = EMA({"a": PowerFunction()})
    run(module, ema, 3)
    raw, weights = flat(module.parameters()), others(module)
    ema.add("made", dict(reversed(weights.items())), module)  # names count, the order does not
    with ema.applied(module, "made"):
        assert torch.equal(flat(module.parameters()), flat(weights.values()))
    assert torch.equal(flat(module.parameters()), raw)
    assert ema.default == "a"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_added_weights_are_a_copy_that_training_leaves_alone(module, dtype):
    ema = EMA({"a": PowerFunction()})
    run(module, ema, 3)
    weights = {name: w.to(dtype) for name, w in others(module).items()}
    expected = flat(weights.values()).float().double()
    ema.add("made", weights, module)
    for w in weights.values():
        w.zero_()
    run(module, ema, 3)  # starts and updates
    assert torch.equal(flat(ema.averages["made"]), expected)
    assert all(w.dtype == torch.float32 for w in ema.averages["made"])
    assert set(ema.state_dict(module)["averages"]) == {"a"}


def test_added_weights_may_be_replaced_but_not_a_profile(module):
    ema = EMA({"a": PowerFunction()})
    run(module, ema, 3)
    before = flat(ema.averages["a"])
    with pytest.raises(ValueError, match="a is averaged during training"):
        ema.add("a", others(module), module)
    assert torch.equal(flat(ema.averages["a"]), before)
    for offset in (0.5, 2.0):
        ema.add("made", others(module, offset), module)
    assert torch.equal(flat(ema.averages["made"]), flat(others(module, 2.0).values()))


@pytest.mark.parametrize("change", ["missing", "superfluous", "shape"])
def test_weights_of_another_model_are_refused_and_the_first_difference_named(module, change):
    ema = EMA({"a": PowerFunction()})
    ema.start(module)
    weights = others(module)
    if change == "missing":
        del weights["2.weight"]
    elif change == "superfluous":
        weights["3.weight"] = torch.zeros(2)
    else:
        weights["2.weight"] = torch.zeros(2, 5)
    name = "3.weight" if change == "superfluous" else "2.weight"
    with pytest.raises(UserError, match=rf"another model: {name} is .*from the same run\.$"):
        ema.add("made", weights, module)
    assert "made" not in ema.averages
