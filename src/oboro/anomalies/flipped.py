"""Normal samples the wrong way round."""

from oboro.anomalies.anomalies import Anomalies, check_normals, joined
from oboro.anomalies.test_set import TestSet
from oboro.data import DataModule


class Flipped(Anomalies):
    """Every second held-out normal (``data.test``), reversed along its first axis: pictures upside down, series
    backwards."""

    def __call__(self, data: DataModule) -> TestSet:
        check_normals(data, 2)
        names = data.sample_names(data.test)
        normal, flipped = self.halves(len(data.test))
        return joined(
            data.test.samples[normal],
            data.test.samples[flipped].flip(2),
            [names[i] for i in normal.tolist()],
            [f"flipped/{names[i]}" for i in flipped.tolist()],
            ["flipped"] * len(flipped),
        )
