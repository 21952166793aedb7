import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from oboro.metrics import Bank, FeatureStatistics, Frechet, FrechetPerClass, Held, frechet_distance

F = FeatureStatistics.from_features
M = FeatureStatistics.from_moments


def normal(rng, *shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def rotation(rng, d):
    return torch.linalg.qr(normal(rng, d, d))[0]


def features(rng, n, d, decay=1.0):
    """Correlated features with a spectrum that falls over ``decay`` orders of magnitude, around a mean of 2."""
    return normal(rng, n, d) * torch.logspace(0, -decay, d, dtype=torch.float64) @ rotation(rng, d) + 2


def test_gaussians_on_a_line():
    """(mu1 − mu2)² + (sd1 − sd2)²."""
    a = M(10, torch.tensor([1.0]), torch.tensor([[4.0]]))
    b = M(10, torch.tensor([-2.0]), torch.tensor([[0.25]]))
    assert frechet_distance(a, b) == pytest.approx(3.0**2 + 1.5**2, rel=1e-14)


def test_commuting_covariances(rng):
    """|mu1 − mu2|² + sum (sqrt(w1) − sqrt(w2))², in any basis that both covariances share."""
    d = 40
    q, m1, m2 = rotation(rng, d), normal(rng, d), normal(rng, d)
    w1, w2 = normal(rng, d).square(), normal(rng, d).square()
    found = frechet_distance(M(99, m1, q * w1 @ q.T), M(99, m2, q * w2 @ q.T))
    assert found == pytest.approx(((m1 - m2).square() + (w1.sqrt() - w2.sqrt()).square()).sum().item(), rel=1e-10)


@pytest.mark.parametrize("n", [20, 400])
def test_shifts_and_scales(n, rng):
    """Shifting by m costs |m|²; scaling by c costs (c − 1)² (|mu|² + tr S). Holds with fewer samples than features."""
    x, m = features(rng, n, 30), normal(rng, 30)
    s = F(x)
    assert frechet_distance(s, F(x + m)) == pytest.approx(m.square().sum().item(), rel=1e-10)
    second_moment = s.mean.square().sum() + s.covariance.trace()
    assert frechet_distance(s, F(1.5 * x)) == pytest.approx(0.25 * second_moment.item(), rel=1e-10)


@pytest.mark.parametrize(("n1", "n2", "d"), [(300, 200, 30), (20, 200, 30), (20, 25, 30)])
def test_metric_laws(n1, n2, d, rng):
    """Zero on itself, symmetric, and blind to the order of the samples and to a common rotation."""
    x, y, q = features(rng, n1, d), 1.3 * features(rng, n2, d), rotation(rng, d)
    a, b = F(x), F(y)
    distance = frechet_distance(a, b)
    assert distance > 0
    assert abs(frechet_distance(a, a)) < 1e-12 * a.covariance.trace()
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-12)
    assert frechet_distance(F(x[torch.randperm(n1, generator=rng)]), b) == pytest.approx(distance, rel=1e-10)
    assert frechet_distance(F(x @ q), F(y @ q)) == pytest.approx(distance, rel=1e-9)


def test_triangle_inequality_of_the_root(rng):
    a, b, c = (F(k * features(rng, 100, 10)) for k in (1.0, 1.5, 3.0))
    ab, bc, ac = (frechet_distance(p, q) ** 0.5 for p, q in ((a, b), (b, c), (a, c)))
    assert ac <= ab + bc


def test_equals_the_textbook_square_root(rng):
    a, b = F(features(rng, 500, 30)), F(1.4 * features(rng, 300, 30))
    s1, s2 = a.covariance.numpy(), b.covariance.numpy()
    root = scipy.linalg.sqrtm(s1 @ s2).real
    expected = np.square(a.mean.numpy() - b.mean.numpy()).sum() + np.trace(s1 + s2 - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_two_samples_each():
    """n = 2: S1 = u uᵀ and S2 = v vᵀ, so tr (S1 S2)^(1/2) = |u·v|."""
    u, v = torch.tensor([3.0, 0, 4, 0, 0]).double(), torch.tensor([1.0, 2, 2, 0, 0]).double()
    a, b = F(torch.stack([u, -u]) / 2**0.5), F(torch.stack([v, -v]) / 2**0.5)
    assert frechet_distance(a, b) == pytest.approx(25 + 9 - 2 * 11, rel=1e-14)


def test_fewer_samples_than_features_is_exact(rng):
    """An isometry into more dimensions than samples changes no distance, and makes the covariances singular."""
    x, y = features(rng, 60, 8, decay=4), 1.2 * features(rng, 50, 8, decay=4)
    q = rotation(rng, 200)[:8]
    truth = frechet_distance(F(x), F(y))
    assert frechet_distance(F(x @ q), F(y @ q)) == pytest.approx(truth, rel=1e-9)

    a, b = (np.cov((z @ q).numpy(), rowvar=False) for z in (x, y))  # the usual formula on the same features
    usual = np.sqrt(np.linalg.eigvals(a @ b).astype(complex)).real.sum()
    direct = np.square((x.mean(0) - y.mean(0)).numpy()).sum() + np.trace(a) + np.trace(b) - 2 * usual
    assert abs(direct / truth - 1) > 1e-8, "the bite: rounding of 192 zero eigenvalues, each through a square root"


def test_float32_would_not_do(rng):
    """On a spectrum that decays over eight orders of magnitude, float32 loses the third digit; float64 keeps nine."""
    d = 256
    q = rotation(rng, d)
    w1 = torch.logspace(0, -8, d, dtype=torch.float64)
    w2 = w1 * (1 + 0.2 * torch.rand(d, generator=rng, dtype=torch.float64))
    s1, s2 = q * w1 @ q.T, q * w2 @ q.T
    truth = (w1.sqrt() - w2.sqrt()).square().sum().item()
    zero = torch.zeros(d, dtype=torch.float64)
    assert frechet_distance(M(999, zero, s1), M(999, zero, s2)) == pytest.approx(truth, rel=1e-6)

    w, v = torch.linalg.eigh(s1.float())
    half = v * w.clamp(min=0).sqrt() @ v.T
    trace = torch.linalg.eigvalsh(half @ s2.float() @ half).clamp(min=0).sqrt().sum()
    single = (s1.float().trace() + s2.float().trace() - 2 * trace).item()
    assert abs(single / truth - 1) > 1e-3


def test_parity_with_torch_fidelity(rng):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    x, y = features(rng, 400, 64), 1.1 * features(rng, 300, 64)
    theirs = fid_statistics_to_metric(fid_features_to_statistics(x), fid_features_to_statistics(y), verbose=False)
    assert frechet_distance(F(x), F(y)) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-9)


def test_parity_with_torchmetrics(rng):
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Flat(nn.Module):
        num_features = 48

        def forward(self, images):
            return images.flatten(1).double()

    x, y = (torch.randint(0, top, (200, 3, 4, 4), generator=rng, dtype=torch.uint8) for top in (256, 200))
    metric = FrechetInceptionDistance(feature=Flat(), antialias=False).set_dtype(torch.float64)
    metric.update(x, real=True)
    metric.update(y, real=False)
    found = frechet_distance(F(x.flatten(1).double()), F(y.flatten(1).double()))
    assert found == pytest.approx(metric.compute().item(), rel=1e-6)


def test_the_bias_falls_as_one_over_n(rng):
    """Samples of the reference itself: E[distance] = c / n, so doubling n halves it. Numbers of two n never compare."""
    d = 20
    truth = M(10**9, torch.zeros(d), torch.eye(d))
    small, large = (np.mean([frechet_distance(F(normal(rng, n, d)), truth) for _ in range(40)]) for n in (200, 400))
    assert small > large > 0
    assert small / large == pytest.approx(2.0, rel=0.15)


def test_different_features_have_no_distance():
    with pytest.raises(ValueError, match="dimensions"):
        frechet_distance(F(torch.eye(3)), F(torch.eye(4)))


def test_the_metric_is_the_distance_of_the_output_it_is_about(rng):
    """With other spatial features, another number under another name."""
    x, y = ({"features": features(rng, n, 20), "spatial": features(rng, n, 12)} for n in (200, 300))
    found = {}
    for metric in (Frechet(), Frechet("spatial")):
        found |= {k: v.value for k, v in metric(Bank(x), Held(Bank(y))).items()}
    assert found == {
        "fd": frechet_distance(F(x["features"]), F(y["features"])),
        "sfd": frechet_distance(F(x["spatial"]), F(y["spatial"])),
    }


def test_too_few_samples_give_a_warning(rng):
    x = features(rng, 200, 128)
    said = [Frechet()(Bank({"features": x[:n]}), Held(Bank({"features": x})))["fd"].warning for n in (128, 129)]
    assert said[0].startswith("128 samples are not more than its 128 features") and said[1] == ""


def test_a_generator_that_ignores_its_labels_is_seen_class_by_class(rng):
    """The same images with shuffled labels: the distance over all is zero, that within classes is not."""
    centres = 10 * torch.randn(3, 6, generator=rng, dtype=torch.float64)
    labels = torch.arange(300) % 3
    x = centres[labels] + normal(rng, 300, 6)
    real = Held(Bank({"features": x}, labels))
    right, wrong = Bank({"features": x}, labels), Bank({"features": x}, labels.roll(1))
    assert abs(Frechet()(wrong, real)["fd"].value) < 1e-9
    assert abs(FrechetPerClass()(right, real)["class_fd"].value) < 1e-9
    found = FrechetPerClass()(wrong, real)["class_fd"]
    classes = [frechet_distance(F(x[labels.roll(1) == c]), F(x[labels == c])) for c in range(3)]
    assert list(found.detail["classes"].values()) == pytest.approx(classes)
    assert found.value == pytest.approx(sum(classes) / 3) and found.value > 10
