"""Test sets of anomaly detection: which held-out samples are anomalous, and where."""

from oboro.anomalies.anomalies import Anomalies
from oboro.anomalies.defects import Defects
from oboro.anomalies.flipped import Flipped
from oboro.anomalies.labelled import Labelled
from oboro.anomalies.other import Other
from oboro.anomalies.test_set import GOOD, TestSet

__all__ = ["GOOD", "Anomalies", "Defects", "Flipped", "Labelled", "Other", "TestSet"]
