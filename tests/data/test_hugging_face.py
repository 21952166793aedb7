import os
import sys

import datasets
import pytest
import torch
from PIL import Image

from oboro.base.errors import UserError
from oboro.data import HuggingFace

TEXTS = ["図 0", None, "zwei", "three", "čtyři", "пять"]


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """The library's cache beside ours, no hub, no progress bars."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def table(shift=0, **columns):
    """Six grey pictures with captions and classes; picture i is as bright as i + shift."""
    pictures = [Image.new("RGB", (8, 4), (i + shift,) * 3) for i in range(6)]
    columns = {"image": pictures, "text": TEXTS, "label": [0, 1, 2, 0, 1, 2], **columns}
    rows = datasets.Dataset.from_dict(columns)
    return rows.cast_column("image", datasets.Image())


def load(tmp_path, path, **keywords):
    keywords = {"validation": 0, "resolution": 4, "cache_dir": str(tmp_path / "cache"), **keywords}
    data = HuggingFace(path=str(path), **keywords)
    data.prepare_data()
    data.setup()
    return data


def saved(tmp_path):
    table().save_to_disk(str(tmp_path / "one"))
    return tmp_path / "one"


def saved_splits(tmp_path):
    splits = {"train": table(), "test": table(100)}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "splits"))
    return tmp_path / "splits"


def parquet_file(tmp_path):
    table().to_parquet(str(tmp_path / "a.parquet"))
    return tmp_path / "a.parquet"


def parquet_folder(tmp_path):
    (tmp_path / "shards").mkdir()
    table().select(range(4)).to_parquet(str(tmp_path / "shards" / "0.parquet"))
    table().select(range(4, 6)).to_parquet(str(tmp_path / "shards" / "1.parquet"))
    return tmp_path / "shards"


@pytest.mark.parametrize("write", [saved, saved_splits, parquet_file, parquet_folder])
def test_what_the_library_wrote_is_read_with_captions_and_labels(tmp_path, write):
    data = load(tmp_path, write(tmp_path), label="label", num_classes=3)
    images = data.train.samples[:]
    assert images.shape == (6, 3, 4, 4) and images[:, 1, 2, 2].tolist() == list(range(6))
    assert data.train.captions == [text or "" for text in TEXTS]
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    batch = next(iter(data.train_dataloader()))
    assert batch["caption"] == [data.train.captions[i] for i in batch["index"].tolist()]


def test_a_column_of_second_pictures_follows_its_pictures(tmp_path):
    """The convention of ControlNet's data sets: image, conditioning_image, text."""
    negative = [Image.new("L", (8, 4), 255 - i) for i in range(6)]
    table(conditioning_image=negative, depth=negative).to_parquet(str(tmp_path / "a.parquet"))
    hints = {"hints": {"hint": "conditioning_image", "depth": "depth"}, "hint_channels": {"hint": 1}}
    data = load(tmp_path, tmp_path / "a.parquet", **hints)
    assert torch.equal(data.train.hints["hint"][:], 255 - data.train.samples[:][:, :1])
    assert data.train.hints["depth"].shape == (6, 3, 4, 4) and data.train.captions[2] == TEXTS[2]
    with pytest.raises(UserError, match=r"no column edges; set data\.hints to one of"):
        load(tmp_path, tmp_path / "a.parquet", hints="edges")
    with pytest.raises(UserError, match=r"column label .* holds no pictures; set data\.hints"):
        load(tmp_path, tmp_path / "a.parquet", hints="label")


def test_the_split_and_the_columns_are_chosen(tmp_path):
    path = saved_splits(tmp_path)
    assert load(tmp_path, path, split="test").train.samples[:][:, 0, 0, 0].tolist() == list(range(100, 106))
    plain = load(tmp_path, path, text=None)
    assert plain.train.captions is None and plain.train.labels is None
    several = [[f"first {i}", f"second {i}"] for i in range(5)] + [[]]
    table(sentences=several).save_to_disk(str(tmp_path / "several"))
    assert load(tmp_path, tmp_path / "several", text="sentences").train.captions == [*(s[0] for s in several[:5]), ""]


def test_named_classes_count_even_where_one_has_no_picture(tmp_path):
    named = table().cast_column("label", datasets.ClassLabel(names=["a", "b", "c", "d"]))
    named.save_to_disk(str(tmp_path / "named"))
    data = load(tmp_path, tmp_path / "named", label="label", num_classes=4)
    assert torch.equal(data.population.frequencies, torch.tensor([1, 1, 1, 0]).double() / 3)


def test_pictures_may_be_bytes_and_unreadable_ones_are_left_out(tmp_path, caplog):
    held = [row["bytes"] for row in table().cast_column("image", datasets.Image(decode=False))["image"]]
    held[2] = held[2][:50]
    rows = datasets.Dataset.from_dict({"picture": held, "text": TEXTS, "missing": [*[None] * 1, *held[1:]]})
    rows.to_parquet(str(tmp_path / "bytes.parquet"))
    data = load(tmp_path, tmp_path / "bytes.parquet", image="picture")
    assert "1 unreadable (row 2: " in caplog.text
    assert data.train.captions == [text or "" for i, text in enumerate(TEXTS) if i != 2]
    assert len(load(tmp_path, tmp_path / "bytes.parquet", image="missing").train.samples) == 4
    assert "2 unreadable (row 0: " in caplog.text


def test_the_cache_follows_the_content(tmp_path):
    path = parquet_file(tmp_path)
    first = load(tmp_path, path)
    (folder,) = (tmp_path / "cache" / "data").glob("huggingface-*")
    stamp = (folder / "samples.npy").stat().st_mtime_ns
    assert load(tmp_path, path, seed=3).fingerprint == first.fingerprint
    assert (folder / "samples.npy").stat().st_mtime_ns == stamp
    table(50).to_parquet(str(path))
    os.utime(path, ns=(1, 1))
    assert load(tmp_path, path).train.samples[:][:, 0, 0, 0].tolist() == list(range(50, 56))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image": "img"}, r"no column img; set data\.image to one of image, text, label$"),
        ({"text": "caption"}, r"no column caption; set data\.text to one of image, text, label$"),
        ({"text": "label"}, r"column label of .* holds no text; set data\.text to another column or null$"),
        ({"image": "label"}, r"column label of .* holds no pictures; set data\.image to another column$"),
        ({"label": "text"}, r"holds other things than class numbers; set data\.label"),
        ({"label": "label", "num_classes": 2}, r"3 classes \(0, 1, 2\), not 2; set data\.num_classes=3$"),
        ({"split": "dev"}, r"no split dev; set data\.split"),
    ],
)
def test_mistakes_name_the_option(tmp_path, wrong, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, saved_splits(tmp_path), **wrong)


def test_a_data_set_that_cannot_be_had_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"cannot load .*; correct data\.path, data\.name or data\.split$"):
        load(tmp_path, "nobody/nothing")
    with pytest.raises(UserError, match=r"cannot load .*nothing-\*\.parquet.*; correct data\.path"):
        load(tmp_path, tmp_path / "nothing-*.parquet")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'pip install "oboro\[datasets\]"$'):
        HuggingFace(path="somewhere").source()
