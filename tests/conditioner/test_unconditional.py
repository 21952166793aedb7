import torch

from oboro.condition import Condition
from oboro.conditioner import Unconditional


def test_there_is_no_condition_even_where_the_data_has_labels():
    conditioner, batch = Unconditional(), {"label": torch.arange(4)}
    conditions = [
        conditioner(batch, torch.Generator()),
        conditioner.keep(batch),
        conditioner.for_samples(range(4), None),
    ]
    assert conditions == [Condition()] * 3 and not conditioner.gives
