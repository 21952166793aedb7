"""What is put off is the same when it comes, and does not come before it is asked for."""

import subprocess
import sys

BEFORE = """
import sys
import oboro.cli.train, oboro.task
put_off = ("torchmetrics.functional", "torchmetrics.image", "torchvision", "transformers", "scipy.signal")
assert not (early := [name for name in put_off if name in sys.modules]), early
"""
AFTER = """
import oboro, torchmetrics
from lightning.pytorch import LightningModule
from torchmetrics import Metric, MetricCollection
assert torchmetrics.__version__ and not hasattr(torchmetrics, "__no_such_name__")
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics import *
assert set(torchmetrics.__all__) <= set(globals())
assert torchmetrics.Metric is Metric and torchmetrics.metric.Metric is Metric and isinstance(MeanMetric(), Metric)
"""
NAMES = "print(*sorted(dir(torchmetrics)))"


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_lightning_does_not_need_of_it_is_not_imported():
    python(BEFORE)


def test_all_of_it_is_there_when_it_is_asked_for():
    assert python(AFTER + NAMES) == python(f"import torchmetrics\n{NAMES}")
