"""What an earlier version configured is the same thing in today's words."""

import json
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

from oboro.restore.old import renewed

TABLE = {"_target_": "oboro.schedule.DDPM", "beta_start": 1e-4, "beta_end": 0.02, "steps": 1000}
BEFORE = {
    "_target_": "oboro.model.LDMUNet",
    "in_channels": 3,
    "table": TABLE,
    "widths": [8, 16],
    "blocks": 1,
    "attention_levels": [1],
    "heads": [1, 4],
    "middle_attention": False,
    "depth": 1,
    "dropout": 0.1,
    "num_classes": 0,
    "groups": 4,
    "eps": 1e-6,
    "cos_first": False,
    "freq_shift": 1,
    "padded_downsample": True,
}


def test_an_ldm_unet_keeps_every_setting():
    with torch.random.fork_rng():
        network = instantiate(renewed({"network": BEFORE}), _convert_="all")["network"]
    attending = [stage.attention.heads for stage in network.down if hasattr(getattr(stage, "attention", None), "heads")]
    assert attending == [4] and len(network.down) == 3 and not hasattr(network.middle[0].attention, "heads")
    norm = network.last[0]
    assert (norm.num_groups, norm.eps) == (4, 1e-6)
    assert (network.noise.cos_first, network.noise.freq_shift, network.noise.table.steps) == (False, 1, 1000)
    assert network.down[0].block.dropout.p == 0.1 and network.min_size == 2


def test_what_was_not_set_has_the_default_it_had_and_todays_words_stay():
    short = {key: BEFORE[key] for key in ("_target_", "in_channels", "table", "widths", "heads", "attention_levels")}
    today = renewed(short)
    assert set(today) == {"_target_", "in_channels", "noise", "widths", "attention"}
    assert renewed(today) == today


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


# What version 0.1 wrote into the checkpoints of a run of each kind.
WRITTEN = json.loads(Path(__file__).with_name("configurations_0.1.json").read_text())


@pytest.mark.parametrize("kind", WRITTEN)
def test_checkpoints_of_version_0_1_build_what_they_did(kind):
    with torch.device("meta"):
        for part in renewed(WRITTEN[kind]).values():
            instantiate(part, _convert_="all")


def test_a_task_of_the_time_when_ranks_drew_for_themselves_goes_on_so():
    for name in ("Diffusion", "Autoencoder", "Classification"):
        node = {"_target_": f"oboro.task.{name}", "adapter": {"_target_": "oboro.adapter.Full"}}
        assert renewed(node)["noise"] == "per_rank"
        assert renewed({**node, "noise": "global"})["noise"] == "global"
