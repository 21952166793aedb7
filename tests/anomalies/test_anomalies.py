import numpy as np
import pytest
import torch
from PIL import Image

from oboro.anomalies import Defects, Flipped, Labelled, Other
from oboro.base.errors import UserError
from oboro.data import ImageData, ImageFolder, Series
from oboro.data.cache import Block, Source

SIDE = 16


class Blobs(ImageData):
    """Bright squares on black, of four classes; every picture differs from the others."""

    def __init__(self, brightness=200, count=60, **settings):
        super().__init__(
            **{"channels": 1, "resolution": SIDE, "num_classes": 4, "validation": 6, "test": 21} | settings
        )
        self.brightness, self.count = brightness, count

    def source(self):
        def blocks():
            rng = np.random.default_rng(0)
            images = rng.integers(0, 20, (self.count, self.modality.shape[0], SIDE, SIDE), dtype=np.uint8)
            images[:, :, 4:12, 4:12] += np.uint8(self.brightness)
            yield Block(images, np.arange(self.count) % 4)

        names = ("good", "b", "c", "d")
        return Source(f"{self.brightness} {self.count} {self.modality}", 4, blocks, names=names)


@pytest.fixture
def blobs(tmp_path):
    def make(cls=Blobs, **settings):
        data = cls(cache_dir=str(tmp_path / "cache"), **settings)
        data.prepare_data()
        data.setup()
        return data

    return make


def seen(data):
    """The pictures of training and validation, as bytes."""
    return {bytes(picture.numpy()) for part in (data.train, data.validation) for picture in part.samples[:]}


def test_left_out_classes_are_the_anomalies_and_nothing_of_training_is_tested(blobs):
    data = blobs(left_out=[0, 3])
    test = Labelled()(data)
    assert len(test) == 21 + 30 and test.anomalous.tolist() == [False] * 21 + [True] * 30 and test.masks is None
    assert set(test.kinds) == {"good", "class good", "d"}  # a class of the name of normal samples is not one of them
    assert not seen(data) & {bytes(picture.numpy()) for picture in test.samples}
    rows = [int(name) for name in test.names]
    assert all((row % 4 in (0, 3)) == anomalous for row, anomalous in zip(rows, test.anomalous.tolist(), strict=True))
    assert [k.removeprefix("class ") for k in test.kinds[21:]] == [
        ("good", "b", "c", "d")[row % 4] for row in rows[21:]
    ]


def test_n_takes_some_of_each_kind_at_equal_distances(blobs):
    data = blobs(left_out=[1])
    whole, some = Labelled()(data), Labelled(n=5)(data)
    assert some.anomalous.tolist() == [False] * 5 + [True] * 5
    assert some.names == [whole.names[i] for i in (0, 4, 8, 12, 16, 21, 24, 27, 30, 33)]


def test_flipped_samples_are_others_than_the_normal_ones(blobs):
    data = blobs()
    test = Flipped()(data)
    assert test.anomalous.tolist() == [False] * 11 + [True] * 10
    back = torch.cat([test.samples[:11], test.samples[11:].flip(-2)])
    assert {bytes(p.numpy()) for p in back} == {bytes(p.numpy()) for p in data.test.samples[:]}
    assert not torch.equal(test.samples[11:], test.samples[11:].flip(-2))


def test_series_are_flipped_in_time(tmp_path):
    np.save(tmp_path / "series.npy", np.random.default_rng(0).normal(size=(40, 2, 8)).astype(np.float32))
    data = Series(path=str(tmp_path / "series.npy"), channels=2, test=10, cache_dir=str(tmp_path))
    data.prepare_data()
    data.setup()
    assert torch.equal(Flipped()(data).samples[5:], data.test.samples[1::2].flip(-1))


def test_other_data_are_made_to_fit_and_come_in_their_own_order(blobs, tmp_path):
    data = blobs()
    test = Other(Blobs(brightness=90, count=12, validation=3, test=2, cache_dir=str(tmp_path / "cache")))(data)
    assert test.anomalous.tolist() == [False] * 21 + [True] * 12
    assert test.names[21:] == [f"other/{i:06d}" for i in range(12)]
    source = blobs(brightness=90, count=12, validation=0, test=0)
    assert torch.equal(test.samples[21:], source.train.samples[:])
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(np.full((40, 40), 77, np.uint8)).save(folder / "a.png")
    settings = {"validation": 0, "num_classes": 0, "cache_dir": str(tmp_path / "cache")}
    pictures = ImageFolder(root=str(folder), channels=1, resolution=SIDE, **settings)
    assert (Other(pictures)(data).samples[21:] == 77).all()
    with pytest.raises(UserError, match=r"of the data are 1×16×16 and the others 1×8×8; set anomalies.source"):
        Other(ImageFolder(root=str(folder), channels=1, resolution=8, **settings))(data)
    with pytest.raises(UserError, match=r"anomalies.source is the data themselves"):
        Other(Blobs(cache_dir=str(tmp_path / "cache")))(data)


@pytest.mark.parametrize("kind", [Labelled(), Flipped(), Defects(), Other(Blobs())])
def test_without_a_test_set_there_is_a_remedy(blobs, kind):
    with pytest.raises(UserError, match=r"0 normal images are held out for the test .* train with data.test=1000"):
        kind(blobs(test=0))


def test_without_labels_there_is_a_remedy(blobs):
    with pytest.raises(UserError, match=r"no sample of the data is anomalous; train with data.left_out="):
        Labelled()(blobs())


# --- artificial defects


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("contrast", [0.001, 0.2, 0.4])
def test_a_mask_is_exactly_where_the_picture_was_changed(blobs, channels, contrast):
    data = blobs(channels=channels)
    test = Defects(contrast=contrast)(data)
    original = torch.cat([data.test.samples[0::2], data.test.samples[1::2]])
    change = (test.samples.int() - original.int()).abs().amax(1)
    assert torch.equal(change > 0, test.masks)
    assert torch.equal(test.masks.flatten(1).any(1), test.anomalous) and test.anomalous.sum() == 10
    assert change[test.masks].min() >= 255 * contrast - 1
    assert test.kinds[11:] == [("patch", "scratch", "erasure")[i % 3] for i in range(10)]


def test_a_defect_is_a_function_of_seed_and_position(blobs):
    data = blobs()
    whole, some, other = Defects(seed=1)(data), Defects(seed=1, n=4)(data), Defects(seed=2)(data)
    places = [whole.names.index(name) for name in some.names]
    assert torch.equal(whole.samples[places], some.samples) and torch.equal(whole.masks[places], some.masks)
    assert all(not torch.equal(a, b) for a, b in zip(whole.masks[11:], other.masks[11:], strict=True))


def test_defects_differ_in_their_kind(blobs):
    """A patch lies in a box of the largest size, an erasure has the median of the picture, a scratch black or white."""
    data = blobs(count=200, test=90, validation=20)
    test = Defects(size=0.4)(data)
    for picture, mask, kind in zip(test.samples[45:], test.masks[45:], test.kinds[45:], strict=True):
        inside = picture[0][mask]
        if kind == "patch":
            assert max(np.ptp(places) + 1 for places in mask.nonzero().numpy().T) <= round(0.4 * SIDE)
        elif kind == "scratch":
            assert len(inside.unique()) == 1 and inside[0] in (0, 255)
        else:
            assert len(inside.unique()) == 1 and inside[0] < 40  # most of a picture is dark


def test_pictures_on_which_nothing_shows_are_named(blobs):
    class Grey(Blobs):
        def source(self):
            images = np.full((60, 1, SIDE, SIDE), 100, np.uint8)
            return Source("grey", 4, lambda: iter([Block(images, np.arange(60) % 4)]))

    data = blobs(Grey)
    with pytest.raises(
        UserError, match=r"none of 200 places has a visible erasure on .*; set anomalies.contrast to less"
    ):
        Defects(kinds=["erasure"])(data)
    assert Defects(kinds=["scratch"])(data).masks[11:].flatten(1).any(1).all()


def test_defects_are_of_pictures(tmp_path):
    np.save(tmp_path / "series.npy", np.random.default_rng(0).normal(size=(40, 1, 8)).astype(np.float32))
    data = Series(path=str(tmp_path / "series.npy"), test=10, cache_dir=str(tmp_path))
    data.prepare_data()
    data.setup()
    with pytest.raises(UserError, match="defects are drawn on pictures, not on series"):
        Defects()(data)
