"""Averages made afterwards against the averages that were tracked."""

import json
import resource
from itertools import pairwise

import numpy as np
import pytest
import scipy.integrate
import torch
from safetensors.torch import save_file
from torch import nn

from oboro.base.errors import UserError
from oboro.ema import EMA, PowerFunction
from oboro.ema.posthoc import TOLERANCE, Average, combine, inner_products, posthoc, read_snapshots, write_snapshot

STORED = {"short": 0.05, "long": 0.10}
WANTED = (0.03, 0.07, 0.15, 0.2)


def flat(tensors):
    return torch.cat([t.detach().double().flatten() for t in tensors])


def walk(folder, updates=200, every=20, speed=1.0, start=5.0, stored=STORED):
    """A network on a random walk with snapshots; its averages of every width, tracked directly, and its weights."""
    module = nn.Sequential(nn.Linear(7, 9), nn.Linear(9, 4))
    ema = EMA({**{k: PowerFunction(s) for k, s in stored.items()}, **{str(s): PowerFunction(s) for s in WANTED}})
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.fill_(start)
    ema.start(module)
    for n in range(1, updates + 1):
        with torch.no_grad():
            for p in module.parameters():
                p.add_(speed * torch.randn(p.shape, generator=rng))
        ema.update(module)
        if n % every == 0:
            write_snapshot(folder / f"{n:08d}.safetensors", n, n, stored, ema.state_dict(module)["averages"])
    return ema.state_dict(module)["averages"], dict(module.named_parameters())


def distances(folder, tracked, weights):
    """How far each wanted average is from the tracked one, as a share of how far that is from the weights."""
    found = {s: posthoc(folder, s) for s in WANTED}
    return {
        s: (
            (flat(found[s][k] for k in weights) - flat(tracked[str(s)].values())).norm()
            / (flat(weights.values()) - flat(tracked[str(s)].values())).norm()
        ).item()
        for s in WANTED
    }


def profile(average):
    gamma = PowerFunction(average.std).gamma
    return lambda tau: (gamma + 1) * tau**gamma / average.updates ** (gamma + 1) if tau <= average.updates else 0.0


def shares(average) -> np.ndarray:
    """What each update counts in the average that PowerFunction tracks."""
    beta = [PowerFunction(average.std).beta(n) for n in range(1, average.updates + 1)]
    return np.array([(1 - b) * np.prod(beta[i + 1 :]) for i, b in enumerate(beta)])


AVERAGES = [Average(0.05, 30), Average(0.1, 30), Average(0.1, 12), Average(0.25, 20)]


def test_inner_products_are_the_integrals_of_the_profiles():

    def integral(a, b):
        p, q = profile(a), profile(b)
        return scipy.integrate.quad(lambda tau: p(tau) * q(tau), 0, min(a.updates, b.updates))[0]

    expected = [[integral(a, b) for b in AVERAGES] for a in AVERAGES]
    np.testing.assert_allclose(inner_products(AVERAGES, AVERAGES), expected, rtol=1e-9)
    np.testing.assert_allclose(inner_products(AVERAGES[:1], AVERAGES[1:]), [expected[0][1:]], rtol=1e-9)


@pytest.mark.parametrize("average", AVERAGES)
def test_the_tracked_shares_are_integrals_of_the_profile_over_one_update(average):
    cells = [scipy.integrate.quad(profile(average), i - 1, i)[0] for i in range(1, average.updates + 1)]
    np.testing.assert_allclose(shares(average), cells, rtol=1e-6, atol=1e-12)


def test_the_combination_is_the_nearest_of_those_that_sum_to_one(rng):
    """Any change of the shares that keeps their sum makes the profile worse; the relative error is what it says."""
    stored = [Average(s, n) for n in (100, 200, 300) for s in (0.05, 0.1)]
    wanted = [Average(0.15, 300), Average(0.03, 300)]
    x, residual = combine(stored, wanted)
    torch.testing.assert_close(x.sum(1), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)

    def error(x, average):
        def squared(tau):
            return (sum(c * profile(s)(tau) for c, s in zip(x, stored, strict=True)) - profile(average)(tau)) ** 2

        pieces = [scipy.integrate.quad(squared, a, a + 100)[0] for a in (0, 100, 200)]
        return (sum(pieces) / scipy.integrate.quad(lambda tau: profile(average)(tau) ** 2, 0, 300)[0]) ** 0.5

    for shares_of_one, average, found in zip(x.tolist(), wanted, residual.tolist(), strict=True):
        assert found == pytest.approx(error(shares_of_one, average), rel=1e-5)
        for _ in range(2):
            change = torch.randn(6, generator=rng, dtype=torch.float64)
            change = 1e-2 * (change - change.mean())
            assert error((torch.tensor(shares_of_one) + change).tolist(), average) > found


@pytest.mark.parametrize("std", STORED.values())
@pytest.mark.parametrize("n", [40, 300])
def test_a_stored_profile_is_itself(std, n):
    """One share is one and the others are zero, also with many snapshots after and before it."""
    stored = [Average(s, k) for k in range(20, 301, 20) for s in STORED.values()]
    x, residual = combine(stored, [Average(std, n)])
    expected = torch.tensor([float(s == Average(std, n)) for s in stored], dtype=torch.float64)
    torch.testing.assert_close(x[0], expected, rtol=0, atol=1e-9)
    assert residual.item() < 1e-6


def test_equal_profiles_share_what_one_of_them_would_have():
    """The system is singular then."""
    one = [Average(0.05, 10), Average(0.1, 10)]
    x, residual = combine([*one, one[1]], [Average(0.08, 10)])
    y, expected = combine(one, [Average(0.08, 10)])
    torch.testing.assert_close(x[0, 1] + x[0, 2], y[0, 1])
    torch.testing.assert_close(residual, expected)


def test_the_unit_of_time_does_not_matter():
    """Nor to the solver: profiles after a million updates are small numbers."""
    stored = [Average(s, n) for n in range(25, 1001, 25) for s in STORED.values()]
    x, residual = combine(stored, [Average(0.2, 1000)])
    longer = [Average(a.std, a.updates * 10**6) for a in stored]
    y, same = combine(longer, [Average(0.2, 10**9)])
    torch.testing.assert_close(y, x, rtol=0, atol=1e-6)
    torch.testing.assert_close(same, residual, rtol=1e-6, atol=0)


def test_more_snapshots_and_more_profiles_express_more():
    def residual(count, stds, std):
        stored = [Average(s, 1000 * (k + 1) // count) for k in range(count) for s in stds]
        return combine(stored, [Average(std, 1000)])[1].item()

    for std in WANTED:
        by_count = [residual(count, (0.05, 0.1), std) for count in (5, 10, 20, 40)]
        assert all(b < 0.7 * a for a, b in pairwise(by_count))
        assert residual(10, (0.05, 0.1), std) < min(residual(10, (0.05,), std), residual(10, (0.1,), std))


def test_the_residual_is_the_share_of_the_remaining_noise(rng):
    """Weights that are independent noise: the error of their average over what the average leaves of them."""
    noise = torch.randn(400, 2000, generator=rng, dtype=torch.float64)
    stored = [Average(s, n) for n in range(40, 401, 40) for s in STORED.values()]
    for std in (0.03, 0.2):
        wanted = Average(std, 400)
        (x,), (residual,) = combine(stored, [wanted])
        made = sum(c * torch.from_numpy(shares(s)) @ noise[: s.updates] for c, s in zip(x, stored, strict=True))
        true = torch.from_numpy(shares(wanted)) @ noise
        assert ((made - true).norm() / true.norm()).item() == pytest.approx(residual.item(), rel=0.15)


def test_averages_made_afterwards_are_those_tracked_directly(tmp_path):
    """Of a random walk, with two profiles; twice the snapshots come at least four times as near."""
    (tmp_path / "ten").mkdir()
    (tmp_path / "twenty").mkdir()
    ten = distances(tmp_path / "ten", *walk(tmp_path / "ten", every=20))
    twenty = distances(tmp_path / "twenty", *walk(tmp_path / "twenty", every=10))
    assert ten[0.07] < 5e-3 and ten[0.15] < 5e-3 and ten[0.2] < 2e-2 and ten[0.03] < 0.1
    assert all(twenty[s] < ten[s] / 4 for s in WANTED)


def test_stored_averages_come_back_as_they_are(tmp_path):
    tracked, weights = walk(tmp_path)
    for name, std in STORED.items():
        found = posthoc(tmp_path, std)
        assert set(found) == set(weights)
        for key, w in tracked[name].items():
            assert found[key].dtype == torch.float32
            torch.testing.assert_close(found[key], w, rtol=1e-6, atol=1e-6)


def test_weights_that_stand_still_are_themselves(tmp_path):
    walk(tmp_path, speed=0.0, start=1000.0)
    for std in WANTED:
        assert all((w - 1000).abs().max() < 1e-3 for w in posthoc(tmp_path, std).values())


def test_an_earlier_step_is_as_if_training_had_ended_there(tmp_path):
    (tmp_path / "long").mkdir()
    (tmp_path / "short").mkdir()
    walk(tmp_path / "long", updates=300)
    walk(tmp_path / "short", updates=200)
    there, here = posthoc(tmp_path / "long", 0.12, 200), posthoc(tmp_path / "short", 0.12)
    assert all(torch.equal(there[key], here[key]) for key in here)
    last = posthoc(tmp_path / "long", 0.12)
    assert all(not torch.equal(last[key], here[key]) for key in here)


def test_updates_count_and_not_steps(tmp_path):
    """A profile is a function of the updates it saw, whatever the step was called."""
    found = []
    for shift in (0, 1000):
        folder = tmp_path / str(shift)
        folder.mkdir()
        for n in (20, 40, 60):
            averages = {name: {"w": torch.tensor([n**0.5])} for name in STORED}
            write_snapshot(folder / f"{n}.safetensors", n + shift, n, STORED, averages)
        found.append(posthoc(folder, 0.07, 60 + shift)["w"])
    assert torch.equal(*found)


# --- files


def test_a_file_says_what_it_holds(tmp_path):
    tracked, _ = walk(tmp_path, updates=40)
    first, second = read_snapshots(tmp_path)
    assert (first.step, first.updates, first.stds) == (20, 20, STORED)
    assert (second.step, second.path.name) == (40, "00000040.safetensors")
    assert second.shapes["long/0.weight"] == [9, 7] and len(second.shapes) == 8
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}  # nothing half written
    assert set(tracked) > set(STORED)


def test_a_file_that_cannot_be_written_leaves_the_old_one_whole(tmp_path):
    walk(tmp_path, updates=40)
    before = posthoc(tmp_path, 0.07)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_snapshot(
                tmp_path / "00000040.safetensors", 40, 40, STORED, {k: {"w": torch.ones(999)} for k in STORED}
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    after = posthoc(tmp_path, 0.07)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}


# --- mistakes


def test_an_empty_folder_is_refused_with_the_remedy(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"no snapshots in .*\+callbacks=snapshots"):
            posthoc(folder, 0.1)


@pytest.mark.parametrize("std", [-0.1, 0.0, 12**-0.5, 0.5, float("nan")])
def test_impossible_widths_are_refused(tmp_path, std):
    walk(tmp_path, updates=40)
    with pytest.raises(UserError, match=r"below 0\.2887"):
        posthoc(tmp_path, std)


def test_a_step_without_snapshot_is_refused_and_the_nearest_named(tmp_path):
    walk(tmp_path, updates=60)
    with pytest.raises(UserError, match=r"no snapshot of step 45.* 40 is nearest"):
        posthoc(tmp_path, 0.1, 45)


@pytest.mark.parametrize("std", [0.02, 0.26])
def test_widths_that_the_snapshots_cannot_express_are_refused_and_the_possible_ones_are_possible(tmp_path, std):
    walk(tmp_path)
    with pytest.raises(UserError, match="cannot express") as refusal:
        posthoc(tmp_path, std)
    low, high = str(refusal.value).partition("choose std from ")[2].partition(",")[0].split(" to ")
    for possible in (low, high):
        posthoc(tmp_path, float(possible))
    assert std < float(low) or std > float(high)
    stored = [Average(s, n) for n in range(20, 201, 20) for s in STORED.values()]
    residuals = combine(stored, [Average(s, 200) for s in (float(low), float(high), std)])[1].tolist()
    assert residuals[0] <= TOLERANCE and residuals[1] <= TOLERANCE < residuals[2]


def test_the_files_of_another_model_and_other_profiles_are_refused(tmp_path):
    walk(tmp_path, updates=40)
    (_, last) = read_snapshots(tmp_path)
    weights = {key.removeprefix("long/"): torch.ones(s) for key, s in last.shapes.items() if key.startswith("long/")}
    others = {
        "model": (STORED, {**weights, "0.bias": torch.ones(3)}),
        "names": (STORED, {"w": torch.ones(3)}),
        "ema": ({"short": 0.05, "long": 0.2}, weights),
    }
    for name, (stds, averages) in others.items():
        path = tmp_path / f"{name}.safetensors"
        write_snapshot(path, 30, 30, stds, {k: {key: w.clone() for key, w in averages.items()} for k in stds})
        with pytest.raises(UserError, match=f"{name}.*is of another model or ema"):
            posthoc(tmp_path, 0.1)
        path.unlink()


@pytest.mark.parametrize("content", ["text", "foreign", "nameless"])
def test_a_file_that_is_no_snapshot_is_named(tmp_path, content):
    walk(tmp_path, updates=40)
    path = tmp_path / "other.safetensors"
    if content == "text":
        path.write_text("no tensors")
    else:
        metadata = {"format": json.dumps("pt")} if content == "foreign" else None
        save_file({"w": torch.ones(3)}, path, metadata)
    with pytest.raises(UserError, match=r"other\.safetensors is damaged or no snapshot"):
        posthoc(tmp_path, 0.1)
