import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from hostile import archives, header
from oboro.base.errors import UserError
from oboro.data import Block, Series, SeriesData, Source

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"
RNG = np.random.default_rng(0)
NUMBERS = (np.array([[[20.0]], [[-3.0]]]) + RNG.normal(size=(2, 12, 30)) * [[[5.0]], [[0.1]]]).transpose(1, 0, 2)
NUMBERS = NUMBERS.astype(np.float32)  # (12, 2, 30)


def load(tmp_path, path, **keywords):
    keywords = {"channels": 2, "validation": 0, "batch_size": 4, **keywords}
    data = Series(path=str(path), cache_dir=str(tmp_path / "cache"), **keywords)
    data.prepare_data()
    data.setup()
    return data


def write_csv(path, table, names=("a", "b")):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([*([names] if names else []), *[[repr(float(v)) for v in row] for row in table]])


def written(tmp_path, kind):
    """The same 12 series in each of the forms that are read."""
    if kind == "npy":
        np.save(tmp_path / "all.npy", NUMBERS.astype(np.float64))
        return tmp_path / "all.npy"
    if kind == "npz":
        np.savez(tmp_path / "all.npz", series=NUMBERS, labels=np.arange(12) // 6)
        return tmp_path / "all.npz"
    for i, one in enumerate(NUMBERS):
        folder = tmp_path / "files" / (f"class{i // 6}" if kind == "classes" else ".")
        if kind == "npy files":
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{i}.npy", one.T)
        else:
            write_csv(folder / f"{i}.csv", one.T, None if kind == "no names" else ("a", "b"))
    return tmp_path / "files"


@pytest.mark.parametrize("kind", ["npy", "npz", "csv", "no names", "npy files", "classes"])
def test_every_form_gives_the_same_numbers(tmp_path, kind):
    labelled = kind in ("npz", "classes")
    data = load(tmp_path, written(tmp_path, kind), num_classes=2 if labelled else 0)
    assert np.array_equal(data.train.samples[:].numpy(), NUMBERS)
    assert not labelled or data.train.labels.tolist() == [0] * 6 + [1] * 6
    assert data.modality.names == (("a", "b") if kind in ("csv", "classes") else ())


def test_one_channel_needs_no_axis(tmp_path):
    np.save(tmp_path / "flat.npy", NUMBERS[:, 0])
    assert np.array_equal(load(tmp_path, tmp_path / "flat.npy", channels=1).train.samples[:], NUMBERS[:, :1])


def test_batches_are_standardised_by_the_training_split_alone(tmp_path):
    numbers = np.concatenate([NUMBERS] * 5)
    held_out = load(tmp_path, written(tmp_path, "npy"), validation=4).validation.samples.rows
    numbers[held_out] += 1000  # of the same split, since its seed and its size are equal
    numbers = numbers[:12]
    np.save(tmp_path / "shifted.npy", numbers)
    data = load(tmp_path, tmp_path / "shifted.npy", validation=4, batch_size=8)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    std, mean = torch.std_mean(batch["x"].double(), (0, 2), correction=0)
    torch.testing.assert_close(mean, torch.zeros(2, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(std, torch.ones(2, dtype=torch.float64), atol=1e-5, rtol=0)
    held_out = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    assert held_out["x"][:, 0].min() > 100


@pytest.mark.parametrize("stride", [None, 1, 3, 10, 17])
def test_windows_of_a_record_are_split_by_time(tmp_path, stride):
    """The number at time t is t: no number of a held-out window is in one that is trained on, and all come later."""
    write_csv(tmp_path / "long.csv", np.stack([np.arange(200), -np.arange(200)], 1))
    data = load(tmp_path, tmp_path / "long.csv", window=10, stride=stride, validation=0.2)
    train, held_out = (part.samples[:].long().numpy() for part in (data.train, data.validation))
    step = stride or 10
    count = (200 - 10) // step + 1
    assert len(held_out) == round(0.2 * count)
    assert np.array_equal(held_out[-1, 0], np.arange(10) + step * (count - 1)) and held_out[0, 0, 0] > train.max()
    for k, window in enumerate(train):
        assert np.array_equal(window[0], np.arange(10) + step * k) and np.array_equal(window[1], -window[0])
    overlap = sum(step * k + 9 >= held_out[0, 0, 0] for k in range(count - len(held_out)))
    assert len(train) + overlap + len(held_out) == count
    everything = load(tmp_path, tmp_path / "long.csv", window=10, stride=stride)
    assert len(everything.train) == count


def test_windows_of_one_of_several_files_are_held_out_together(tmp_path):
    for i in range(8):
        write_csv(tmp_path / "files" / f"{i}.csv", 1000 * i + np.arange(40 + i).repeat(2).reshape(-1, 2))
    data = load(tmp_path, tmp_path / "files", window=10, stride=5, validation=0.3)
    train, held_out = (part.samples[:][:, 0, 0].long() // 1000 for part in (data.train, data.validation))
    assert not set(train.tolist()) & set(held_out.tolist()) and len(set(held_out.tolist())) == 2
    assert len(train) + len(held_out) == sum((40 + i - 10) // 5 + 1 for i in range(8))


def test_columns_are_chosen_by_name_whatever_their_order_in_a_file(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "1.csv").write_text("date,a,b\n2020-01-01,1,2\n2020-01-02,3,5\n")
    (folder / "2.csv").write_text("b,a\n8,7\n6,5\n")
    data = load(tmp_path, folder, columns=["b", "a"])
    assert data.train.samples[:].tolist() == [[[2, 5], [1, 3]], [[8, 6], [7, 5]]] and data.modality.names == ("b", "a")


TABLES = {  # what is in a folder of files: what is said of it
    "text": ({"1.csv": "date,a\n2020-01-01,1\n"}, r"1\.csv is no table of numbers .*2020-01-01.*data\.columns"),
    "gap": ({"1.csv": "a,b\n1,2\n3,\n"}, r"1\.csv holds NaN, infinity or a gap at row 1 of b; fill it"),
    "infinite": ({"1.csv": "1,2\n3,inf\n"}, r"at row 1 of column 1; fill it"),
    "ragged rows": ({"1.csv": "1,2\n3\n"}, r"1\.csv is no table of numbers .*every row as many fields"),
    "ragged files": ({"1.csv": "1,2\n3,4\n", "2.csv": "1,2\n"}, r"2\.csv holds 2×1 .* 1\.csv 2×2; .*data\.window"),
    "unnamed": ({"1.csv": "a,b\n1,2\n", "2.csv": "1,2\n"}, r"2\.csv does not name its columns"),
    "misnamed": ({"1.csv": "a,b\n1,2\n", "2.csv": "a,c\n1,2\n"}, r"2\.csv has no column b; set data\.columns"),
    "channels": ({"1.csv": "1,2,3\n4,5,6\n"}, r"data\.channels=2 and the series have 3 .*set data\.channels=3"),
    "constant": ({"1.csv": "a,b\n7,2\n7,3\n"}, r"^a is 7 everywhere in the training data .*data\.columns"),
    "empty": ({"1.txt": ""}, r"holds no \.csv, \.npy files; set data\.path"),
}


@pytest.mark.parametrize("case", TABLES)
def test_what_is_wrong_with_a_file_is_said_in_a_line(tmp_path, case):
    files, message = TABLES[case]
    (tmp_path / "files").mkdir()
    for name, text in files.items():
        (tmp_path / "files" / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, tmp_path / "files")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("array", "keywords", "message"),
    [
        (np.full((4, 2, 8), np.nan), {}, "series 0 of .* holds NaN"),
        (np.array(["a", "b"]), {}, "holds no series"),
        (np.zeros(50), {}, r"holds no series; .*data\.window"),
        (np.zeros((50, 2)), {"window": 60}, r"50 rows, less than data\.window=60"),
        (RNG.normal(size=(50, 2)), {"window": 20, "stride": 1, "validation": 0.5}, "others overlap with them"),
        (NUMBERS, {"stride": 3}, r"set data\.window, too"),
        (NUMBERS, {"flip": True}, r"leave data\.flip=false"),
        (1e39 * NUMBERS.astype(float), {}, "holds NaN or infinity"),
    ],
)
def test_what_is_wrong_with_an_array_or_a_setting_is_said_in_a_line(tmp_path, array, keywords, message):
    np.save(tmp_path / "all.npy", array)
    with pytest.raises(UserError, match=message):
        load(tmp_path, tmp_path / "all.npy", **keywords)


def test_files_that_hold_no_arrays_end_in_one_line(tmp_path):
    table = {path: reason for path, reason in archives(tmp_path, "series").items() if path.is_file()}
    (tmp_path / "vast.npy").write_bytes(header("(10000000000000,)"))
    (tmp_path / "text.npy").write_text("1 2 3")
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object))
    table |= {
        tmp_path / "vast.npy": "its header announces 80,000,000,000,000 bytes and 0 follow",
        tmp_path / "text.npy": "the header of its array is damaged",
        tmp_path / "objects.npy": "it holds pickled objects",
    }
    wrong = []
    for path, reason in table.items():
        with pytest.raises(UserError) as caught:
            load(tmp_path, path)
        wrong += [] if reason in str(caught.value) and "allow_pickle" not in str(caught.value) else [str(caught.value)]
    for name in ("vast", "text", "objects"):  # as one long record
        with pytest.raises(UserError) as caught:
            load(tmp_path, tmp_path / f"{name}.npy", window=2)
        wrong += [] if table[tmp_path / f"{name}.npy"] in str(caught.value) else [str(caught.value)]
    assert wrong == []


def test_a_path_that_leads_nowhere_and_a_record_without_a_window_say_what_to_set(tmp_path):
    write_csv(tmp_path / "long.csv", np.zeros((9, 2)))
    with pytest.raises(UserError, match=r"data\.path=.* does not exist; set data\.path"):
        load(tmp_path, tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"one long record; set data\.window"):
        load(tmp_path, tmp_path / "long.csv")


def test_a_source_of_ones_own_is_a_class_with_a_source(tmp_path):
    class Ramps(SeriesData):
        def source(self):
            numbers = np.arange(60, dtype=np.float32).reshape(5, 1, 12)
            return Source("1", 0, lambda: iter([Block(numbers)]))

    data = Ramps(cache_dir=str(tmp_path), validation=0, batch_size=5)
    assert data.modality.shape == (1, 12)  # whoever asks first brings the data in
    x = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)["x"]
    assert abs(x.mean()) < 1e-6 and abs(x.std(correction=0) - 1) < 1e-6


def test_the_source_that_the_documentation_writes_is_one(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.S)
    (text,) = [block for block in blocks if "class Walks" in block]
    names = {}
    exec(text, names)
    data = names["Walks"](cache_dir=str(tmp_path))
    assert data.modality.shape == (1, 64) and len(data.train) == 4750
