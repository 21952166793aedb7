"""Test sets of anomaly detection: which held-out samples are anomalous, and where."""

from oboro.anomalies.anomalies import Anomalies
from oboro.anomalies.test_set import GOOD, TestSet

__all__ = ["GOOD", "Anomalies", "TestSet"]
