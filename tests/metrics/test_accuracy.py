import numpy as np
import pytest
import torch
from scipy import stats

from oboro.metrics import Accuracy, Bank, Held
from oboro.metrics.accuracy import wilson_interval


def test_accuracy_is_the_share_of_answers_that_are_the_label_in_all_and_by_class():
    logits = torch.eye(3)[[0, 0, 1, 2, 2, 2]]
    labels = torch.tensor([0, 1, 1, 2, 2, 0])
    bank = Bank({"logits": logits}, labels)
    value = Accuracy()(bank, Held(bank))["accuracy"]
    assert value.value == pytest.approx(4 / 6)
    assert value.detail["classes"] == {0: 0.5, 1: 0.5, 2: 1.0}


@pytest.mark.parametrize(("share", "n"), [(0.0, 20), (0.3, 50), (1.0, 7)])
def test_the_interval_is_wilsons(share, n):
    expected = stats.binomtest(round(share * n), n).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(wilson_interval(share, n), expected, atol=1e-4)
