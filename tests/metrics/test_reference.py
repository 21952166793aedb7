"""Real images as a reference: computed once, never confused, and measured against themselves."""

from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import nn

from hostile import archives, header, npz_of
from oboro.base.errors import UserError
from oboro.base.seeding import generator
from oboro.extractor import Extractor
from oboro.metrics import (
    Bank,
    Extracted,
    FeatureStatistics,
    Frechet,
    Held,
    PrecisionRecall,
    Published,
    frechet_distance,
)
from oboro.metrics.real_floor import affordable, real_floor
from oboro.metrics.reference import parted


class Pixels(Extractor):
    """The pixels themselves; counts how many images it has seen."""

    outputs = MappingProxyType({"features": 4})

    def __init__(self, name="pixels", digest="0", resize="none"):
        super().__init__()
        self.name, self._digest, self.resize, self.seen = name, digest, resize, 0

    @property
    def digest(self):
        return self._digest

    def prepare(self): ...

    def build(self):
        return nn.Identity()

    def forward(self, network, images, outputs):
        self.seen += len(images)
        return {"features": images.flatten(1).float()}


def images(rng, n=50):
    return torch.randint(0, 256, (n, 1, 2, 2), generator=rng, dtype=torch.uint8)


def extracted(folder, data, extractor=None, fingerprint="f", split="train"):
    return Extracted(extractor or Pixels(), ["features"], data, None, fingerprint, split, folder)


def test_a_reference_is_computed_once_and_read_back_bitwise(tmp_path, rng):
    data, extractor = images(rng), Pixels()
    first, again = (extracted(tmp_path, data, extractor) for _ in range(2))
    assert extractor.seen == 50
    assert torch.equal(first.bank["features"], data.flatten(1).float())
    assert torch.equal(again.bank["features"], first.bank["features"]) and again.n == 50
    a, b = first.statistics("features"), again.statistics("features")
    expected = FeatureStatistics.from_features(data.flatten(1).float())
    assert torch.equal(a.mean, b.mean) and torch.equal(a.root, b.root) and torch.equal(a.root, expected.root)


def test_everything_that_changes_the_number_changes_the_key(tmp_path, rng):
    data = images(rng)
    asked = [
        (Pixels(), data, "f", "train"),
        (Pixels(), data, "g", "train"),
        (Pixels(), data, "f", "test"),
        (Pixels(), data[:49], "f", "train"),
        (Pixels(name="other"), data, "f", "train"),
        (Pixels(digest="1"), data, "f", "train"),
        (Pixels(resize="bicubic"), data, "f", "train"),
    ]
    for extractor, rows, fingerprint, split in asked:
        extracted(tmp_path, rows, extractor, fingerprint, split)
        assert extractor.seen == len(rows)
    assert len(list(tmp_path.iterdir())) == len(asked)


def test_what_is_derived_is_kept_under_its_name(tmp_path, rng):
    data, calls = images(rng), []

    def compute():
        calls.append(1)
        return {"sum": np.array(3.0)}

    for _ in range(2):
        assert extracted(tmp_path, data).derived("sum", compute)["sum"] == 3.0
    extracted(tmp_path, data).derived("another sum", compute)
    assert len(calls) == 2


def test_real_images_are_parted_into_two_sets_that_share_none(rng):
    bank = Bank({"features": torch.arange(10.0)[:, None]}, torch.arange(10) % 3)
    for n, expected in ((3, 3), (5, 5), (9, 5)):
        chosen, others = parted(bank, n)
        assert len(chosen) == expected
        found = torch.cat([chosen["features"], others.bank["features"]]).flatten()
        assert found.sort().values.tolist() == list(range(10))
        assert torch.equal(chosen.labels, chosen["features"].flatten().long() % 3)


def test_the_floor_is_the_metric_of_real_images_against_the_others(rng, tmp_path):
    """Mean and spread over splits with seeds of their own: the same numbers each time, and the global generator is not
    read. The first split is the one of which older versions took the floor."""
    data = images(rng, 400)
    state = torch.get_rng_state()
    found = real_floor(Frechet(), extracted(tmp_path, data), 100)
    splits = []
    for k in range(5):
        chosen, others = parted(Bank({"features": data.flatten(1).float()}), 100, k)
        sides = (FeatureStatistics.from_features(side["features"]) for side in (chosen, others.bank))
        splits.append(frechet_distance(*sides))
    assert len(set(splits)) == 5
    floor = found["fd"]
    assert floor["real_splits"] == splits and floor["real_n"] == 100
    assert (floor["real"], floor["real_std"]) == pytest.approx((np.mean(splits), np.std(splits, ddof=1)), rel=1e-12)
    order = torch.randperm(400, generator=generator(0, "real against real"))
    first = parted(Bank({"features": data.flatten(1).float()}), 100)[0]
    assert torch.equal(first["features"], data.flatten(1).float()[order[:100]])
    assert real_floor(Frechet(), extracted(tmp_path, data), 100) == found
    assert real_floor(Frechet(), extracted(tmp_path, data), 300)["fd"]["real_n"] == 200
    assert torch.equal(torch.get_rng_state(), state)


def test_the_number_of_splits_is_bounded_by_their_work():
    """From sizes alone: five where they are cheap, one of 50,000 pictures with 2,048 features."""
    bank = Bank({"features": torch.zeros(3, 2048)})
    reference = Held(bank)
    for n, metric, expected in (
        (2_000, PrecisionRecall(), 5),
        (10_000, PrecisionRecall(), 4),
        (50_000, PrecisionRecall(), 1),
        (10_000, Frechet(), 3),
        (50_000, Frechet(), 2),
    ):
        reference.n = n
        assert affordable(metric, reference) == expected


# --- published moments


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.fixture
def moments(rng):
    x = torch.randn(300, 4, generator=rng, dtype=torch.float64)
    return x, x.mean(0).numpy(), np.cov(x.numpy(), rowvar=False)


def test_published_moments_give_the_distance_to_the_images_they_were_made_of(tmp_path, moments, rng):
    x, mu, sigma = moments
    bank = Bank({"features": 1.3 * torch.randn(200, 4, generator=rng)})
    published = Published(write(tmp_path / "reference.npz", mu=mu, sigma=sigma, other=np.zeros(3)), Pixels())
    found = Frechet()(bank, published)["fd"].value
    assert found == pytest.approx(Frechet()(bank, Held(Bank({"features": x})))["fd"].value, rel=1e-9)
    assert real_floor(Frechet(), published, 100) == {}, "the number of images is not known"
    with pytest.raises(UserError, match="moments alone"):
        _ = published.bank
    with pytest.raises(UserError, match="has no mu_s and sigma_s"):
        published.statistics("spatial")


def test_published_files_that_cannot_be_used_say_why(tmp_path, moments):
    _, mu, sigma = moments
    (tmp_path / "statistics.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    skew, far = sigma.copy(), mu.copy()
    skew[0, 1] += 1
    far[2] = np.inf
    shapes = "mu and sigma have the shapes"
    table = {
        tmp_path / "none.npz": "there is no reference",
        tmp_path / "statistics.pkl": "pickled statistics can run code",
        **{path: reason for path, reason in archives(tmp_path, "mu").items() if path.name != "folder.npz"},
        write(tmp_path / "other.npz", x=mu): "has no mu and sigma",
        write(tmp_path / "half.npz", mu=mu): "has no mu and sigma",
        write(tmp_path / "many.npz", mu=np.zeros(9), sigma=np.eye(9)): "9 features and extractor pixels has 4",
        write(tmp_path / "nan.npz", mu=mu, sigma=sigma * np.nan): "holds NaN or infinity",
        write(tmp_path / "inf.npz", mu=far, sigma=sigma): "holds NaN or infinity",
        write(tmp_path / "scalar.npz", mu=np.array(1.0), sigma=np.array(1.0)): f"{shapes} () and ()",
        write(tmp_path / "swapped.npz", mu=sigma, sigma=mu): f"{shapes} (4, 4) and (4,)",
        write(tmp_path / "wide.npz", mu=mu, sigma=sigma[:, :3]): f"{shapes} (4,) and (4, 3)",
        write(tmp_path / "small.npz", mu=mu, sigma=sigma[:3, :3]): f"{shapes} (4,) and (3, 3)",
        write(tmp_path / "skew.npz", mu=mu, sigma=skew): "sigma is not symmetric",
        write(tmp_path / "below.npz", mu=mu, sigma=-sigma): "not a covariance matrix",
        write(tmp_path / "complex.npz", mu=mu, sigma=sigma + 1j): "sigma is complex128, no real numbers",
        write(tmp_path / "words.npz", mu=np.array(list("abcd")), sigma=sigma): "mu is <U1, no real numbers",
        npz_of(tmp_path / "vast.npz", mu=header("(4,)") + bytes(32), sigma=header("(4, 10000000000000)")): "announces",
    }
    wrong = []
    for path, reason in table.items():
        with pytest.raises(UserError) as caught:
            Published(path, Pixels())
        message = str(caught.value)
        if reason not in message or "\n" in message or "allow_pickle" in message:
            wrong.append((path.name, message))
    assert wrong == []


def test_published_moments_of_other_types_and_byte_orders_are_the_same(tmp_path, moments):
    _, mu, sigma = moments
    expected = Published(write(tmp_path / "a.npz", mu=mu, sigma=sigma), Pixels()).statistics("features")
    for dtype, tolerance in ((">f8", 0), ("<f4", 1e-6)):
        path = write(tmp_path / "b.npz", mu=mu.astype(dtype), sigma=np.asfortranarray(sigma.astype(dtype)))
        found = Published(path, Pixels()).statistics("features")
        assert torch.allclose(found.mean, expected.mean, rtol=tolerance, atol=tolerance)
        assert torch.allclose(found.covariance, expected.covariance, rtol=tolerance, atol=tolerance)
