"""Held-out normals and classes that are left out."""

from itertools import chain

import numpy as np
import pytest

from oboro.base.errors import UserError
from oboro.data import ImageData, Series
from oboro.data.cache import Block, Source
from oboro.data.split import split_rows

PARTS = ("train", "validation", "test", "anomalous")


class Numbered(ImageData):
    """Pictures of one pixel, as bright as their number; class k has those whose number is k modulo 5."""

    def __init__(self, count=100, groups=None, classes=5, **settings):
        super().__init__(**{"channels": 1, "resolution": 1, "num_classes": classes, "validation": 10} | settings)
        self.count, self.groups, self.classes = count, groups, classes

    def source(self):
        images = np.arange(self.count, dtype=np.uint8)[:, None, None, None]
        labels = np.arange(self.count) % 5 if self.classes else None
        block = Block(images, labels, groups=self.groups)
        names = [f"kind {k}" for k in range(self.classes)]
        return Source(repr((self.count, self.groups, self.classes)), self.classes, lambda: iter([block]), names=names)


def loaded(tmp_path, **settings):
    data = Numbered(cache_dir=str(tmp_path), **settings)
    data.prepare_data()
    data.setup()
    return data


def rows_of(data):
    return {name: getattr(data, name).samples.rows.tolist() for name in PARTS}


def test_runs_without_a_test_set_have_the_split_they_always_had():
    """Rows of the version before there was one."""
    groups = np.arange(12) // 3
    assert split_rows(12, 4, 0, None, 3).validation.tolist() == [0, 1, 5, 7]
    assert split_rows(12, 4, 0, None, 3).train.tolist() == [2, 3, 4, 6, 8, 9, 10, 11]
    assert split_rows(12, 0.4, 0, groups, 3).validation.tolist() == [0, 1, 2]
    assert split_rows(12, 0.4, 0, groups, 3).train.tolist() == [3, 4, 5, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("groups", [None, np.arange(100) // 4])
@pytest.mark.parametrize("left_out", [[], [3], [0, 4]])
def test_parts_are_a_partition_and_the_test_set_is_taken_from_training_alone(tmp_path, groups, left_out):
    given = {"groups": groups, "left_out": left_out, "seed": 5}
    none, some = (rows_of(loaded(tmp_path, test=test, **given)) for test in (0, 20))
    assert sorted(chain(*some.values())) == list(range(100))
    assert (none["validation"], none["anomalous"]) == (some["validation"], some["anomalous"]) and none["test"] == []
    assert sorted(some["train"] + some["test"]) == none["train"]
    assert 17 <= len(some["test"]) <= 20 and all(rows == sorted(rows) for rows in some.values())
    assert some["anomalous"] == [i for i in range(100) if i % 5 in left_out]
    if groups is not None:
        whole = [{i // 4 for i in some[name]} for name in ("train", "validation", "test")]
        assert sum(map(len, whole)) == len(set.union(*whole))


def test_fractions_are_of_what_is_not_left_out(tmp_path):
    data = loaded(tmp_path, left_out=[1, 2], validation=0.1, test=0.25)
    assert [len(getattr(data, name)) for name in PARTS] == [39, 6, 15, 40]


def test_anomalous_samples_have_classes_where_the_model_has_none(tmp_path):
    """Labels that training ignores say what is anomalous, and the classes of a conditional model stay as many."""
    data = loaded(tmp_path, left_out=[3])
    assert data.num_classes == 5 and set(data.train.labels.tolist()) == {0, 1, 2, 4}
    data = Numbered(cache_dir=str(tmp_path), left_out=[3])
    data.given_classes = 0
    data.setup()
    assert data.train.labels is None and set(data.anomalous.labels.tolist()) == {3} and data.kinds[3] == "kind 3"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"left_out": [7]}, "has 7 and no sample is of that class; set numbers from 0 to 4"),
        ({"left_out": [0, 1, 2, 3, 4]}, "leaves no class to train on; set fewer"),
        ({"left_out": [1], "classes": 0}, r"are classes and the samples have no labels; set data.left_out=\[\]"),
        ({"test": 95}, "data.validation=10 and data.test=95 hold out 105 of 100 samples .*; set less of both"),
        ({"test": 2, "groups": np.arange(100) // 4}, r"data.test=2 holds out 2 .*; set data.test=4 or more"),
    ],
)
def test_what_leaves_nothing_is_refused(tmp_path, settings, reason):
    with pytest.raises(UserError, match=reason):
        loaded(tmp_path, **settings)


def test_a_record_ends_with_its_test_and_no_window_of_two_parts_shares_a_number(tmp_path):
    np.save(tmp_path / "record.npy", np.arange(400, dtype=np.float32)[:, None])
    given = {"path": str(tmp_path / "record.npy"), "window": 16, "stride": 4, "cache_dir": str(tmp_path)}
    data = Series(**given, validation=10, test=12)
    data.prepare_data()
    data.setup()
    assert (len(data.validation), len(data.test)) == (10, 12)
    numbers = [set(part.samples[:].flatten().tolist()) for part in (data.train, data.validation, data.test)]
    assert max(numbers[0]) < min(numbers[1]) and max(numbers[1]) < min(numbers[2])
    with pytest.raises(UserError, match=r"data.validation=41 and data.test=50 hold out 91 of 97 windows"):
        over = Series(**given, validation=41, test=50)
        over.setup()
