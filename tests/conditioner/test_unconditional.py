import pytest
import torch

from oboro.base.errors import UserError
from oboro.conditioner import Unconditional


def test_there_is_no_condition_even_where_the_data_has_labels(small_unet):
    conditioner, batch = Unconditional(), {"label": torch.arange(4)}
    conditions = [
        conditioner(batch, torch.Generator()),
        conditioner.keep(batch),
        conditioner.for_samples(range(4), None),
    ]
    assert conditions == [{}, {}, {}]
    network = small_unet(num_classes=conditioner.num_classes)
    network(torch.ones(4, 1, 8, 8, dtype=torch.float64), torch.zeros(4, dtype=torch.float64), conditions[0])


def test_classes_are_refused_with_the_remedy():
    with pytest.raises(UserError, match="conditioner=label"):
        Unconditional(num_classes=10)
