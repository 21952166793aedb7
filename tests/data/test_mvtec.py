import numpy as np
import pytest
import torch
from PIL import Image

from oboro.anomalies import Labelled
from oboro.base.errors import UserError
from oboro.data import MVTec

DEFECTS = {"scratch": 3, "broken_2": 2, "broken_10": 2}


def photograph(path, value, size=(40, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size[::-1], 3), value, np.uint8)).save(path)


def mask(path, box, size=(40, 40), white=255):
    """White in ``box``: rows and columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size[::-1], np.uint8)
    pixels[box] = white
    Image.fromarray(pixels).save(path)


BOX = np.s_[8:16, 24:32]


def mvtec(root, suffix="_mask"):
    """A category: 12 photographs to train on, as bright as their number, 4 good ones to test, 100 on, and defects."""
    for i in range(12):
        photograph(root / f"train/good/{i:03d}.png", i)
    for i in range(4):
        photograph(root / f"test/good/{i:03d}.png", 100 + i)
    for k, (defect, count) in enumerate(DEFECTS.items()):
        for i in range(count):
            photograph(root / f"test/{defect}/{i:03d}.png", 150 + 10 * k + i)
            mask(root / f"ground_truth/{defect}/{i:03d}{suffix}.png", np.s_[8 * k : 8 * k + 8, 0 : 8 * (i + 1)])
    return root


def loaded(tmp_path, root, **settings):
    data = MVTec(**{"root": str(root), "resolution": 20, "validation": 3, "cache_dir": str(tmp_path / "c")} | settings)
    data.prepare_data()
    data.setup()
    return data


def values(part):
    return part.samples[:][:, 0, 0, 0].tolist()


@pytest.mark.parametrize("suffix", ["_mask", ""])
def test_the_official_split_is_kept(tmp_path, suffix):
    data = loaded(tmp_path, mvtec(tmp_path / "bottle", suffix))
    assert len(data.validation) == 3 and sorted(values(data.train) + values(data.validation)) == list(range(12))
    test = Labelled()(data)
    assert test.names[:4] == [f"test/good/{i:03d}.png" for i in range(4)]
    assert test.samples[:, 0, 0, 0].tolist() == [100, 101, 102, 103, 160, 161, 170, 171, 150, 151, 152]
    assert test.kinds == ["good"] * 4 + ["broken_2"] * 2 + ["broken_10"] * 2 + ["scratch"] * 3  # natural order
    assert data.num_classes == 0 and data.train.labels is None


def test_masks_belong_to_their_photographs_and_are_scaled_with_them(tmp_path):
    test = Labelled()(loaded(tmp_path, mvtec(tmp_path / "bottle")))
    for name, found in zip(test.names, test.masks, strict=True):
        _, defect, file = name.split("/")
        expected = torch.zeros(20, 20, dtype=torch.bool)
        if defect != "good":
            k, i = list(DEFECTS).index(defect), int(file[:3])
            expected[4 * k : 4 * k + 4, : 4 * (i + 1)] = True
        assert torch.equal(found, expected)


def test_a_photograph_that_cannot_be_read_takes_no_other_ones_mask(tmp_path):
    root = mvtec(tmp_path / "bottle")
    (root / "test/broken_2/000.png").write_bytes(b"no picture")
    test = Labelled()(loaded(tmp_path, root))
    k = test.names.index("test/broken_2/001.png")
    assert test.samples[k, 0, 0, 0] == 161 and test.masks[k].sum() == 4 * 8
    with pytest.raises(UserError, match="1 of 23 images cannot be read"):
        loaded(tmp_path, root, max_unreadable=0, cache_dir=str(tmp_path / "d"))


def test_more_normals_are_tested_where_that_is_asked_for(tmp_path):
    data = loaded(tmp_path, mvtec(tmp_path / "bottle"), test=2)
    assert len(data.train) == 7 and len(data.test) == 6
    assert sorted(values(data.train) + values(data.validation) + values(data.test)) == [*range(12), 100, 101, 102, 103]


def test_the_layout_of_visa(tmp_path):
    root = tmp_path / "candle"
    for i in range(10):
        photograph(root / f"Data/Images/Normal/{i:04d}.JPG", i)
    photograph(root / "Data/Images/Anomaly/000.JPG", 200)
    mask(root / "Data/Masks/Anomaly/000.png", np.s_[0:10, 0:40], white=3)  # numbers of kinds of defects
    test = Labelled()(loaded(tmp_path, root, test=4))
    assert test.kinds == ["good"] * 4 + ["anomaly"] and test.masks[4].sum() == 5 * 20
    with pytest.raises(UserError, match="0 normal images are held out"):
        Labelled()(loaded(tmp_path, root))


def test_the_official_split_of_visa(tmp_path):
    root = tmp_path / "visa/candle"
    for i in range(6):
        photograph(root / f"Data/Images/Normal/{i:04d}.JPG", i)
    photograph(root / "Data/Images/Anomaly/000.JPG", 200)
    mask(root / "Data/Masks/Anomaly/000.png", np.s_[0:10, 0:40])
    rows = ["object,split,label,image,mask", "capsules,test,normal,capsules/Data/Images/Normal/0000.JPG,"]
    rows += [f"candle,{'test' if i > 3 else 'train'},normal,candle/Data/Images/Normal/{i:04d}.JPG," for i in range(6)]
    rows += ["candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png"]
    table = tmp_path / "visa/split_csv/1cls.csv"
    table.parent.mkdir()
    table.write_text("\n".join(rows))
    data = loaded(tmp_path, root, validation=1)
    assert len(data.train) == 3 and data.sample_names(data.test) == [f"Data/Images/Normal/{i:04d}.JPG" for i in (4, 5)]
    assert Labelled()(data).kinds == ["good", "good", "anomaly"]
    with table.open("a") as file:
        file.write("\ncandle")  # a row cut short
    assert len(loaded(tmp_path, root, validation=1).test) == 2
    table.write_text("a,b\n1,2")
    with pytest.raises(UserError, match=r"1cls\.csv has no columns image and split"):
        loaded(tmp_path, root)


def test_the_layout_of_loco(tmp_path):
    """Validation normals of its own, and a folder of masks for each photograph, of which the union is the defect."""
    root = tmp_path / "juice"
    for i in range(5):
        photograph(root / f"train/good/{i:03d}.png", i)
    for place in ("validation/good/000.png", "validation/good/001.png", "test/good/000.png", "test/logical/000.png"):
        photograph(root / place, 100)
    mask(root / "ground_truth/logical/000/000.png", np.s_[0:20, 0:20])
    mask(root / "ground_truth/logical/000/001.png", np.s_[20:40, 20:40])
    data = loaded(tmp_path, root, validation=3)
    assert data.sample_names(data.validation) == ["validation/good/000.png", "validation/good/001.png"]
    assert len(data.train) == 5 and len(data.test) == 1 and list(data.unread()) == ["validation"]
    (defect,) = Labelled()(data).masks[1:]
    assert torch.equal(defect, torch.block_diag(*[torch.ones(10, 10)] * 2).bool())
    assert loaded(tmp_path, mvtec(tmp_path / "bottle")).unread() == {}


def test_without_ground_truth_nobody_knows_the_places(tmp_path):
    root = tmp_path / "bolt"
    for place in ("train/good/0.png", "train/good/1.png", "test/good/0.png", "test/bad/0.png"):
        photograph(root / place, 9)
    assert Labelled()(loaded(tmp_path, root, validation=0)).masks is None


def category(root, box=BOX, size=(40, 40), of_mask=None):
    for place in ("train/good/0.png", "train/good/1.png", "test/good/0.png", "test/bad/0.png"):
        photograph(root / place, 9, size)
    if box is not None:
        mask(root / "ground_truth/bad/0_mask.png", box, of_mask or size)
    else:
        (root / "ground_truth/bad").mkdir(parents=True)
    return root


def test_a_defect_smaller_than_a_pixel_is_not_lost(tmp_path):
    """3 of 400 pixels of one pixel, one of another: that with most of it is the mask."""
    data = loaded(tmp_path, category(tmp_path / "a", np.s_[5:6, 17:21]), resolution=2, validation=0)
    assert Labelled()(data).masks[-1].tolist() == [[True, False], [False, False]]


def test_masks_are_cropped_as_photographs_are(tmp_path):
    """Of 80 × 40 the middle is kept: columns 20 to 60, of which the defect has 20 to 30."""
    data = loaded(tmp_path, category(tmp_path / "a", np.s_[0:40, 0:30], (80, 40)), resolution=20, validation=0)
    assert Labelled()(data).masks[-1].any(0).tolist() == [True] * 5 + [False] * 15
    outside = loaded(tmp_path, category(tmp_path / "b", np.s_[0:40, 0:10], (80, 40)), resolution=20, validation=0)
    with pytest.raises(UserError, match=r"the defect of test/bad/0.png lies outside of the middle .*; set data.resol"):
        Labelled()(outside)
    whole = loaded(tmp_path, category(tmp_path / "b", np.s_[0:40, 0:10], (80, 40)), resolution=[20, 40], validation=0)
    assert Labelled()(whole).masks[-1].sum() == 20 * 5


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"box": None}, "test/bad/0.png has no mask in .*; add 0_mask.png"),
        ({"box": np.s_[0:0, 0:0]}, "the mask .* is black and test/bad/0.png defective"),
        ({"of_mask": (20, 20)}, "the mask .* is 20×20 and test/bad/0.png 40×40; give both one size"),
    ],
)
def test_masks_that_do_not_belong_are_refused(tmp_path, given, reason):
    with pytest.raises(UserError, match=reason):
        Labelled()(loaded(tmp_path, category(tmp_path / "a", **given), validation=0))


def test_the_folder_of_all_categories_is_told_apart(tmp_path):
    mvtec(tmp_path / "all/bottle")
    with pytest.raises(UserError, match=r"neither train/good nor .*; set data.root to one of its categories, .*bottle"):
        loaded(tmp_path, tmp_path / "all")
    with pytest.raises(UserError, match="is no folder"):
        loaded(tmp_path, tmp_path / "nothing")
    with pytest.raises(UserError, match="data=mvtec has no classes"):
        loaded(tmp_path, tmp_path / "all/bottle", left_out=[1])
