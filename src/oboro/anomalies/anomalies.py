"""The base of all test sets."""

from abc import ABC, abstractmethod

from oboro.anomalies.test_set import TestSet
from oboro.data import DataModule


class Anomalies(ABC):
    """Which samples are anomalous: held-out ones of a data source, or others beside them."""

    @abstractmethod
    def __call__(self, data: DataModule) -> TestSet:
        """The test set of ``data``, which is prepared and set up. No sample of it was trained on or validated with.

        Raises ``UserError`` where the data do not have what it takes.
        """
