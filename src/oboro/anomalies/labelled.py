"""What the data say of themselves."""

from oboro.anomalies.anomalies import Anomalies, check_normals, joined
from oboro.anomalies.test_set import GOOD, TestSet
from oboro.base.errors import UserError
from oboro.data import DataModule


class Labelled(Anomalies):
    """Held-out normals (``data.test``) and samples of classes that are left out (``data.left_out``), or the defective
    parts of ``data=mvtec``, with masks where there are any. Kinds are the names of classes or defects."""

    def __call__(self, data: DataModule) -> TestSet:
        check_normals(data, 1)
        if not len(data.anomalous) or data.anomalous.labels is None:
            raise UserError(
                "no sample of the data is anomalous; train with data.left_out=[<class>], or choose anomalies=flipped, "
                "other or defects."
            )
        normal, anomalous = self.rows(len(data.test)), self.rows(len(data.anomalous))
        names, others = data.sample_names(data.test), data.sample_names(data.anomalous)
        kinds = [data.kinds[label] for label in data.anomalous.labels[anomalous].tolist()]
        masks = data.anomalous_masks()
        return joined(
            data.test.samples[normal],
            data.anomalous.samples[anomalous],
            [names[i] for i in normal.tolist()],
            [others[i] for i in anomalous.tolist()],
            [f"class {kind}" if kind == GOOD else kind for kind in kinds],
            None if masks is None else masks[anomalous],
        )
