"""What is worth knowing before a run: settings that change nothing, or something else than they seem to."""

import pytest
import torch
from torch import nn

from oboro.adapter import LoRA, low_rank_layers, relative_update
from oboro.conditioner import Unconditional
from oboro.guidance import Autoguidance, Classifier, ClassifierFree, Unguided
from oboro.guidance.weight import Interval
from oboro.model.layers import SelfAttention
from oboro.optimizer import AdamW, Constant, CosineDecay, LinearDecay
from oboro.sampler import Adaptive, Heun
from oboro.sampler.grid import Karras, Sigmas, Times
from oboro.task.remarks import remarks
from oboro.task.task import remark_warmup
from task.test_contradictions import parts

FIVE = Sigmas([80.0, 10.0, 3.0, 0.5, 0.01])


@pytest.mark.parametrize(
    ("given", "labels", "said"),
    [
        ({}, (), None),
        ({"guidance": ClassifierFree(3.0, negative={"label": 1}, rescale=0.7)}, (), None),
        ({"guidance": ClassifierFree(1.0)}, (), None),
        ({"guidance": ClassifierFree(1.0, negative={"label": 1})}, (), "so guidance.negative changes nothing"),
        (
            {"guidance": ClassifierFree(1.0, weight=Interval(), rescale=0.7)},
            (),
            "so guidance.rescale and guidance.weight change nothing",
        ),
        ({"guidance": Autoguidance(None, 1.0)}, (), "so guidance.weak changes nothing"),
        ({"guidance": Classifier(None, 0.0, label=3)}, (), "so guidance.classifier changes nothing"),
        ({"guidance": Classifier(None)}, (), None),
        ({"guidance": Classifier(None, label=3)}, (), "set label=3 as well, or leave guidance.label out"),
        ({"guidance": Classifier(None, label=3)}, (3, 4), "set label=3 as well, or leave guidance.label out"),
        ({"guidance": Classifier(None, label=3)}, (3, 3), None),
        ({"guidance": Classifier(None, label=3), "conditioner": Unconditional()}, (), None),
        ({"sampler": Heun(4, grid=FIVE)}, (), None),
        ({"sampler": Heun(50, grid=FIVE)}, (), "lists 5 values, a grid of 4 steps, and sampler.steps is 50, so Sigmas"),
        (
            {"sampler": Heun(3, grid=Times([1.0, 0.5, 0.0]))},
            (),
            "lists 3 values, a grid of 2 steps, and sampler.steps is 3",
        ),
        ({"sampler": Heun(50, grid=Karras())}, (), None),
        ({"sampler": Adaptive()}, (), None),
        ({"sampler": Adaptive(grid=Karras())}, (), "Adaptive chooses its own steps and takes of sampler.grid the ends"),
        ({"guidance": Unguided(), "sampler": Heun(1)}, (), None),
    ],
)
def test_each_is_said_where_it_is_so_and_only_there(given, labels, said):
    sentences = list(remarks(parts(**given), labels))
    assert len(sentences) == (said is not None)
    assert said is None or said in sentences[0]


def test_an_update_is_relative_to_the_weights_of_its_layers():
    """By hand: the norm of all updates over the norm of all base weights; 0 as it begins."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(SelfAttention(8, 4), nn.Linear(8, 8))
        LoRA(rank=2, alpha=6.0)(network)
        assert relative_update(network) == 0 == relative_update(nn.Linear(2, 2))
        layers = [layer for _, layer in low_rank_layers(network)]
        for layer in layers:
            nn.init.normal_(layer.B.weight)
    update = sum(((3 * layer.B.weight.flatten(1) @ layer.A.weight.flatten(1)) ** 2).sum() for layer in layers)
    weights = sum((layer.base.weight**2).sum() for layer in layers)
    assert relative_update(network) == pytest.approx(float((update / weights).sqrt()), rel=1e-5)


@pytest.mark.parametrize(
    ("decay", "max_steps", "said"),
    [(Constant(), 10, "10 %"), (LinearDecay(), 10, "3 %"), (CosineDecay(), 100, None), (Constant(), -1, None)],
)
def test_a_warm_up_beyond_the_end_names_the_highest_rate(caplog, decay, max_steps, said):
    """Of 100 steps of warm-up; with a linear decay it is 6 / 100 (1 - 5 / 10)."""
    remark_warmup(AdamW(1e-3, 100, decay), max_steps)
    assert [record.message.split("reaches ")[1][:4].strip() for record in caplog.records] == ([said] if said else [])
