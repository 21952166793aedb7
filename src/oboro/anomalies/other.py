"""Samples of other data."""

import torch

from oboro.anomalies.anomalies import Anomalies, check_normals, joined
from oboro.anomalies.test_set import TestSet
from oboro.base.errors import UserError
from oboro.base.ranges import Count
from oboro.data import DataModule


class Other(Anomalies):
    """Held-out normals (``data.test``), and all samples of ``source``, which have the shape of the data: clothes and
    digits. Raises ``UserError`` where they have not."""

    def __init__(self, source: DataModule, n: Count | None = None):
        super().__init__(n)
        self.source = source

    def __call__(self, data: DataModule) -> TestSet:
        check_normals(data, 1)
        self.source.prepare_data()
        self.source.setup()
        if self.source.modality != data.modality:
            raise UserError(
                f"the {data.modality.noun} of the data are {data.modality} and the others {self.source.modality}; set "
                "anomalies.source.channels and anomalies.source.resolution to those of the data."
            )
        if self.source.fingerprint == data.fingerprint:
            raise UserError("anomalies.source is the data themselves, and normal; give other data.")
        parts = (self.source.train, self.source.validation, self.source.test, self.source.anomalous)
        places = sorted((row, k, i) for k, part in enumerate(parts) for i, row in enumerate(part.samples.rows.tolist()))
        taken = [places[j] for j in self.rows(len(places)).tolist()]  # in the order of the source, whatever its split
        normal, names = self.rows(len(data.test)), data.sample_names(data.test)
        return joined(
            data.test.samples[normal],
            torch.cat([parts[k].samples[[i]] for _, k, i in taken]),
            [names[i] for i in normal.tolist()],
            [f"other/{row:06d}" for row, _, _ in taken],
            ["other"] * len(taken),
        )
