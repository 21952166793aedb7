from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from oboro.base.errors import UserError
from oboro.condition import Condition, Image, Label, Signal, Text
from oboro.denoiser import Denoiser
from oboro.parameterization import V
from oboro.schedule import VP


@dataclass(frozen=True, eq=False)
class Pose(Signal):
    """A kind of a user's own: joints (B, J, 2) and how sure each is (B, J)."""

    joints: torch.Tensor
    sure: torch.Tensor

    def drop(self, mask):
        return replace(self, sure=self.sure * ~mask[:, None])


@pytest.fixture
def signals(normal):
    mask = torch.tensor([[True, True, False], [True, False, False], [True] * 3, [False] * 3])
    return {
        "label": Label(torch.tensor([2, 0, 1, 4])),
        "text": Text(normal(4, 3, 5), mask, normal(4, 2)),
        "image": Image(normal(4, 1, 6, 6), torch.tensor([True, True, True, False])),
        "pose": Pose(normal(4, 7, 2), normal(4, 7)),
    }


def test_rows_of_all_signals_go_together(signals):
    """Wherever they are: those of the network, of guidance and of the sampler."""
    cond = Condition(signals, {"label": signals["label"]}, {"pose": signals["pose"]})
    part = cond.rows([3, 1])
    for theirs, ours in zip(
        (cond.signals, cond.away, cond.sampling), (part.signals, part.away, part.sampling), strict=True
    ):
        assert {k: type(v) for k, v in ours.items()} == {k: type(v) for k, v in theirs.items()}
        for name, signal in ours.items():
            for field, tensor in signal.tensors().items():
                assert torch.equal(tensor, getattr(theirs[name], field)[[3, 1]])
    assert cond.rows(torch.arange(4)) == cond and part != cond


@pytest.mark.parametrize("name", ["label", "text", "image", "pose"])
def test_dropping_takes_the_signal_of_the_masked_samples_alone_and_for_good(signals, name):
    """Twice is once, all that is dropped is alike in what tells it, and the others keep every bit."""
    signal, mask = signals[name], torch.tensor([True, False, False, True])
    dropped = signal.drop(mask)
    assert dropped.rows([1, 2]) == signal.rows([1, 2]) and dropped != signal
    assert dropped.drop(mask) == dropped and signal.drop(torch.zeros(4, dtype=torch.bool)).rows([0, 1]) == signal.rows(
        [0, 1]
    )
    told = {"label": "index", "text": "mask", "image": "x", "pose": "sure"}[name]
    first, last = getattr(dropped, told)[[0, 3]]
    assert torch.equal(first, last)


def test_one_sample_stands_for_many(signals):
    for signal in signals.values():
        assert signal.rows([2]).expand(3) == signal.rows([2, 2, 2])


def test_what_is_taken_away_is_replaced_by_what_guidance_goes_away_from(signals):
    cond = Condition(signals, away={"text": signals["text"].rows([1, 0, 2, 3])})
    assert cond.without("label", "pose") == replace(cond, signals={k: signals[k] for k in ("text", "image")})
    assert cond.without("text").signals == {**signals, **cond.away}
    assert cond.without(*signals).signals == cond.away and cond.only("label").signals == {"label": signals["label"]}


class Reader(nn.Module):
    """A network that reads what it is told to."""

    def __init__(self, **reads):
        super().__init__()
        self.reads = reads

    def forward(self, x, c_noise, signals):
        self.given = signals
        return x


@pytest.mark.parametrize(
    ("reads", "given", "line"),
    [
        ({}, "label", r"^Reader reads no condition and was given label; leave label out"),
        ({"text": Text}, "label", r"^Reader reads text alone and was given label; leave label out"),
        ({"pose": Label}, "pose", r"^Reader reads pose as oboro\.condition\.Label and was given Pose; give it that"),
    ],
)
def test_a_signal_that_the_network_does_not_read_is_refused_in_one_line(signals, normal, reads, given, line):
    denoiser, t = Denoiser(Reader(**reads), VP(), V()), torch.full((4,), 0.5, dtype=torch.float64)
    with pytest.raises(UserError, match=line):
        denoiser(normal(4, 1), t, Condition.of(**{given: signals[given]}))
    denoiser(normal(4, 1), t, Condition(away={given: signals[given]}, sampling={given: signals[given]}))
    assert denoiser.network.given == {}


def test_a_kind_of_ones_own_reaches_the_network(signals, normal):
    denoiser = Denoiser(Reader(pose=Pose), VP(), V())
    denoiser(normal(4, 1), torch.full((4,), 0.5, dtype=torch.float64), Condition.of(pose=signals["pose"]))
    assert denoiser.network.given["pose"] is signals["pose"]
