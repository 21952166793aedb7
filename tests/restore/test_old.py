"""Configurations in checkpoints of earlier versions."""

from hydra.utils import instantiate

from oboro.restore.old import renewed


def test_conditioners_forget_the_arguments_that_only_raised():
    """As the commit before typed conditions wrote them; what is of today stays."""
    old = {
        "task": {
            "conditioner": {
                "_target_": "oboro.conditioner.Label",
                "num_classes": 10,
                "dropout": 0.2,
                "text_dim": 0,
                "pooled_dim": 0,
            },
            "others": [{"_target_": "oboro.conditioner.Unconditional", "num_classes": 0, "text_dim": 0}],
        }
    }
    new = renewed(old)
    label, (none,) = instantiate(new["task"]["conditioner"]), (instantiate(n) for n in new["task"]["others"])
    assert (label.num_classes, label.dropout, none.gives) == (10, 0.2, {})
    assert renewed(new) == new
    text = {"_target_": "oboro.conditioner.Text", "text_dim": 3, "num_classes": 0}
    assert renewed(text) == {"_target_": "oboro.conditioner.Text", "text_dim": 3}
