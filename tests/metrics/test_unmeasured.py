import torch

from oboro.metrics import Unmeasured


class Untouchable:
    def __len__(self):
        raise AssertionError("nothing is measured, so no image may be read")

    __getitem__ = __len__


def test_measures_nothing_and_reads_nothing(tmp_path):
    metric = Unmeasured()
    metric.prepare()
    metric.load("cpu")
    reference = metric.reference(Untouchable(), "f", "train", tmp_path)
    features = metric.features(torch.zeros(5, 3, 8, 8, dtype=torch.uint8))
    assert features.shape == (5, 0)
    assert metric.value(features, reference) == {}
    assert not metric.active
    assert list(tmp_path.iterdir()) == []
