"""An extractor that learns from the data that it is used for: the same weights each time, and a judge of damage."""

import json
import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from oboro.base.errors import UserError
from oboro.data import Block, ImageData, Series, Source
from oboro.extractor import InDomain, Joint, Raw
from oboro.extractor.extractor import file_digest
from oboro.metrics import Bank, Frechet, Held, look_at, measure
from oboro.metrics.view import View


class Arrays(ImageData):
    """Pictures in memory, (n, C, H, W) uint8, and their labels."""

    def __init__(self, images, labels=None, **settings):
        channels, *size = images.shape[1:]
        classes = 0 if labels is None else int(labels.max()) + 1
        super().__init__(channels=channels, resolution=size, num_classes=classes, **settings)
        self.block = Block(images.numpy(), None if labels is None else labels.numpy())

    def source(self):
        digest = str(hash((self.block.samples.tobytes(), None if self.block.labels is None else self.num_classes)))
        return Source(digest, self.num_classes, lambda: iter([self.block]))


def loaded(images, labels=None, **settings):
    data = Arrays(images, labels, **settings)
    data.prepare_data()
    data.setup()
    return data


def learned(data, **settings):
    extractor = InDomain(**{"views": 1024, **settings})
    extractor.accept(data.modality)
    extractor.observe(data)
    extractor.prepare()
    return extractor


def noise_pictures(n, *shape):
    return torch.randint(0, 256, (n, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def clothes(fashion_images, fashion_labels, tmp_path_factory):
    """2,000 pictures of which 400 are held out."""
    folder = tmp_path_factory.mktemp("clothes")
    return loaded(fashion_images[:2000], fashion_labels[:2000], validation=400, cache_dir=str(folder))


@pytest.fixture(scope="module", params=[True, False], ids=["labels", "rotations"])
def judge(request, clothes):
    return learned(clothes, views=12_000, labels=request.param)


def test_it_has_learned(judge):
    """Far above chance, and what stands in the protocol is its share of right answers on the held-out images."""
    data, described = judge.data, judge.described
    assert described["extractor_accuracy"] > 0.65 and described["extractor_held_out"] == 400
    images = data.validation.samples[:]
    if judge.classes:
        answers = judge(images, ["logits"])["logits"].argmax(1)
        assert described["extractor_task"] == "10 classes"
        assert described["extractor_accuracy"] == pytest.approx((answers == data.validation.labels).double().mean())
    else:
        assert described["extractor_task"] == "rotations" and dict(judge.outputs) == {"features": 128}


@pytest.mark.slow
def test_distances_grow_with_every_kind_of_damage(judge, fashion_images, fashion_labels):
    """Of pictures that it has not learned from: noise, blur, shifts, fewer classes, unequal shares, fewer originals."""
    fresh, of_fresh = fashion_images[4000:5000], fashion_labels[4000:5000]
    noise = torch.randn(fresh.shape, generator=torch.Generator().manual_seed(0))
    other, of_other = fashion_images[5000:], fashion_labels[5000:]

    def mixed(share):
        weights = torch.where(of_other < 5, share, 1.0)
        return other[torch.multinomial(weights, 1000, generator=torch.Generator().manual_seed(0))]

    series = {
        "noise": [fresh, *(fresh + s * noise for s in (10, 20, 40))],
        "blur": [fresh, *(F.avg_pool2d(fresh.float(), k, 1, k // 2) for k in (3, 5, 7))],
        "shift": [fresh, fresh.roll(2, 3), fresh.roll(4, 3)],
        "classes": [other[torch.isin(of_other, torch.arange(k))][:1000] for k in (10, 7, 4, 1)],
        "balance": [mixed(1.0), mixed(3.0), mixed(9.0)],
        "originals": [judge.data.train.samples[:k].repeat(1000 // k, 1, 1, 1) for k in (1000, 100, 10)],
        "all": [fresh[of_fresh >= 0], (255 * torch.rand(fresh.shape, generator=torch.Generator().manual_seed(1)))],
    }
    reference = Held(look_at(judge.data.train.samples, judge))
    for name, sets in series.items():
        banks = (look_at(x.float().round().clamp(0, 255).to(torch.uint8), judge) for x in sets)
        distances = [Frechet()(bank, reference)["fd"].value for bank in banks]
        assert distances == sorted(distances), f"{name}: {distances}"
        assert distances[-1] > 2 * distances[0], f"{name}: {distances}"


@pytest.mark.slow
def test_weights_are_a_function_of_data_and_settings(clothes, tmp_path, fashion_images, fashion_labels):
    """The same bits from another folder and on another number of threads, and the run's own draws are as they were."""
    first = learned(clothes)
    copy = loaded(fashion_images[:2000], fashion_labels[:2000], validation=400, cache_dir=str(tmp_path))
    torch.manual_seed(1)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            again = learned(copy)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)
    assert again.path != first.path and again.digest == first.digest
    fewer = loaded(fashion_images[:2000], fashion_labels[:2000], validation=401, cache_dir=str(tmp_path))
    flipped = loaded(fashion_images[:2000], fashion_labels[:2000], validation=400, cache_dir=str(tmp_path), flip=True)
    others = [
        learned(copy, seed=1),
        learned(copy, dim=64),
        learned(copy, views=900),
        learned(copy, labels=False),
        learned(fewer),
        learned(flipped),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 1 + len(others)
    assert len({again.path, *(other.path for other in others)}) == 1 + len(others)


@pytest.mark.slow
def test_it_is_trained_once_and_anew_where_the_file_is_damaged(clothes, capsys):
    def trained_now(**settings):
        capsys.readouterr()
        extractor = learned(clothes, seed=7, **settings)
        return extractor, "training a feature extractor" in capsys.readouterr().out

    extractor, trained = trained_now()
    digest, written = extractor.digest, extractor.path.stat().st_mtime_ns
    assert trained and extractor.path.parent == clothes.cache_dir / "extractors"
    again, trained = trained_now()
    assert not trained and again.path.stat().st_mtime_ns == written and again.digest == digest
    whole = again.path.read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 64]) + whole[-8:]  # a weight that is another one, in a file that is whole
    copied = clothes.cache_dir / "copied.safetensors"
    for damaged in (whole[: len(whole) // 2], flipped):
        again.path.write_bytes(damaged)
        repaired, trained = trained_now()
        assert trained and repaired.digest == digest and not list(repaired.path.parent.glob("*.tmp"))
    copied.write_bytes(flipped)
    copied.with_suffix(".sha256").write_text(digest)
    with pytest.raises(UserError, match="is damaged; copy it anew"):
        learned(clothes, weights_path=str(copied))


@pytest.mark.slow
def test_held_out_images_are_not_learned_from(clothes, tmp_path, fashion_images, fashion_labels):
    """Other held-out pictures, the same training pictures: the same weights, another accuracy."""
    rows = clothes.validation.samples.rows
    images, labels = fashion_images[:2000].clone(), fashion_labels[:2000].clone()
    images[rows] = 255 - images[rows]
    negative = loaded(images, labels, validation=400, cache_dir=str(tmp_path))
    found = []
    judges = [learned(data, views=3000) for data in (clothes, negative)]
    for extractor in judges:
        with safe_open(extractor.path, "pt") as file:
            found.append({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    accuracies = [extractor.described["extractor_accuracy"] for extractor in judges]
    assert accuracies[0] > accuracies[1] + 0.1


KINDS = {  # shape of a picture, classes, what the network sees
    "grey, 8 pixels": ((1, 8, 8), 3, 24),
    "RGB, 32 pixels": ((3, 32, 32), 2, 32),
    "RGBA, 33 pixels": ((4, 33, 33), 2, 33),
    "wide": ((1, 20, 50), 0, 50),
    "large": ((3, 100, 80), 0, 64),
    "many classes": ((1, 16, 16), 200, 24),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("validation", [0, 5])
def test_pictures_of_any_kind(kind, validation, tmp_path):
    shape, classes, side = KINDS[kind]
    n = max(40, classes)
    labels = torch.arange(n) % classes if classes else None
    data = loaded(noise_pictures(n, *shape), labels, validation=validation, cache_dir=str(tmp_path))
    extractor = learned(data, views=256)
    assert extractor.resize == f"bilinear antialiased to {side}x{side}"
    found = extractor(data.train.samples[:3], list(extractor.outputs))
    lengths = {"features": 128, "logits": classes} if classes else {"features": 128}
    assert {name: rows.shape for name, rows in found.items()} == {name: (3, k) for name, k in lengths.items()}
    assert all(rows.isfinite().all() for rows in found.values())
    assert (extractor.described["extractor_accuracy"] is None) == (validation == 0)
    with pytest.raises(ValueError, match="takes uint8 images"):
        extractor(noise_pictures(2, 2, 9, 9))


def test_one_picture_a_flat_channel_and_equal_pictures_give_finite_features(tmp_path):
    flat = noise_pictures(20, 3, 16, 16)
    flat[:, 1] = 7
    for i, images in enumerate((noise_pictures(1, 1, 16, 16), flat, noise_pictures(1, 1, 16, 16).repeat(30, 1, 1, 1))):
        data = loaded(images, validation=0, cache_dir=str(tmp_path / str(i)))
        assert learned(data, views=256)(data.train.samples[:1])["features"].isfinite().all()


def test_pictures_without_a_way_up_are_warned_of(tmp_path, caplog):
    data = loaded(noise_pictures(300, 1, 16, 16), validation=100, cache_dir=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        learned(data, views=512)
    (record,) = caplog.records
    assert "has learned little: it names rotations of held-out images right in" in record.getMessage()


def test_weights_serve_other_data_of_the_same_kind(clothes, tmp_path, fashion_images):
    kept = learned(clothes)
    other = loaded(fashion_images[3000:3100], validation=10, cache_dir=str(tmp_path))
    given = learned(other, weights_path=str(kept.path))
    assert given.digest == kept.digest and dict(given.outputs) == dict(kept.outputs)
    x = other.train.samples[:4]
    assert torch.equal(given(x)["features"], kept(x)["features"])
    colour = loaded(noise_pictures(20, 3, 28, 28), validation=0, cache_dir=str(tmp_path))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    for data, path, message in (
        (colour, kept.path, "has learned images of 1 channel and these have 3; leave extractor.weights_path out"),
        (other, tmp_path / "none", "has no weights of extractor=in_domain .*; correct extractor.weights_path"),
        (other, broken, "has no weights of extractor=in_domain .*; correct extractor.weights_path"),
    ):
        with pytest.raises(UserError, match=message):
            learned(data, weights_path=str(path))


def test_series_are_refused_in_one_line(tmp_path):
    rows = np.random.default_rng(0).normal(size=(20, 1, 16)).astype(np.float32)
    np.save(tmp_path / "series.npy", rows)
    data = Series(path=str(tmp_path / "series.npy"), cache_dir=str(tmp_path))
    data.prepare_data()
    data.setup()
    with pytest.raises(UserError, match=r"learns from images and these are series of 1×16; choose extractor=raw"):
        View(InDomain(), {}, data, None).check(set(), 10)


def test_settings_that_learn_nothing_are_refused():
    for settings in ({"dim": 0}, {"views": 0}):
        with pytest.raises(UserError, match=r"set extractor.dim and extractor.views to 1 or more"):
            InDomain(**settings)


@pytest.mark.slow
def test_the_protocol_and_the_cache_of_a_reference_have_its_digest(clothes, fashion_images):
    identities = []
    for settings in ({"seed": 0}, {"seed": 1}):
        extractor = InDomain(views=512, **settings)
        view = View(extractor, {"frechet": Frechet()}, clothes, None)
        view.check({"label"}, 50)
        extractor.prepare()
        reference = view.load(torch.device("cpu"))
        bank = Bank(extractor(fashion_images[:50]))
        (name,) = measure({"frechet": Frechet()}, extractor, bank, reference)
        assert name == "fd_in_domain_50"
        assert reference.identity["extractor_digest"] == file_digest(extractor.path)
        assert json.loads(json.dumps(reference.identity)) == reference.identity
        identities.append(reference.identity)
    assert {k for k in identities[0] if identities[0][k] != identities[1][k]} >= {"extractor_digest"}


def test_it_sees_samples_beside_another(clothes):
    """Joint passes the data on to both, and the accuracy stands in the protocol of both."""
    views = [View(part, {"frechet": Frechet()}, clothes, None) for part in Joint([Raw(), InDomain(views=512)]).parts]
    assert [view.extractor.name for view in views] == ["raw", "in_domain"]
    assert views[1].extractor.data is clothes
