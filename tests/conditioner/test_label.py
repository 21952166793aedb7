from math import log

import pytest
import torch

from oboro.base.errors import UserError
from oboro.conditioner import Label
from oboro.data import Population

pytestmark = pytest.mark.usefixtures("global_generator_unread")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_labels_are_dropped_at_the_given_rate():
    """Within five standard errors of the binomial distribution."""
    n, batch = 50_000, {"label": torch.arange(50_000) % 10}
    for rate in (0.1, 0.5):
        label = Label(10, rate)(batch, generator()).signals["label"].index
        dropped = label == -1
        assert abs(dropped.double().mean() - rate) < 5 * (rate * (1 - rate) / n) ** 0.5
        assert torch.equal(label[~dropped], batch["label"][~dropped])


def test_dropping_is_per_sample_not_per_batch():
    """The number dropped in batches of 20 is binomial: its variance is that of independent samples."""
    conditioner, g, batch = Label(10, 0.3), generator(), {"label": torch.arange(20) % 10}
    counts = torch.stack([(conditioner(batch, g).signals["label"].index == -1).sum() for _ in range(3000)]).double()
    assert float(counts.mean()) == pytest.approx(6, abs=5 * (4.2 / 3000) ** 0.5)
    assert float(counts.var()) == pytest.approx(20 * 0.3 * 0.7, rel=0.15)


def test_dropping_does_not_depend_on_the_class():
    label = Label(2, 0.5)({"label": torch.arange(20_000) % 2}, generator()).signals["label"].index
    dropped = (label == -1).view(-1, 2).double()
    assert abs(dropped[:, 0].mean() - dropped[:, 1].mean()) < 5 * (2 * 0.25 / 10_000) ** 0.5
    correlation = ((dropped[:, 0] - 0.5) * (dropped[:, 1] - 0.5)).mean() / 0.25
    assert abs(correlation) < 5 / 10_000**0.5


def test_the_limits_drop_nothing_and_everything():
    batch = {"label": torch.arange(1000) % 10}
    assert torch.equal(Label(10, 0.0)(batch, generator()).signals["label"].index, batch["label"])
    assert (Label(10, 1.0)(batch, generator()).signals["label"].index == -1).all()


def test_dropping_is_a_function_of_the_generator():
    batch = {"label": torch.arange(1000) % 10}
    first, again, other = (Label(10, 0.5)(batch, generator(s)).signals["label"].index for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_evaluation_keeps_every_label():
    batch = {"label": torch.arange(1000) % 10}
    assert torch.equal(Label(10, 1.0).keep(batch).signals["label"].index, batch["label"])


def test_pictures_show_the_classes_in_turn():
    assert Label(3).for_samples([0, 1, 2, 3, 7], None).signals["label"].index.tolist() == [0, 1, 2, 0, 1]


def population(counts):
    return Population(torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)), len(counts))


@pytest.mark.parametrize("counts", [[1] * 10, [5, 3, 1, 1], [0, 2, 0, 6], [1_000_000, 1]])
@pytest.mark.parametrize(("first", "n"), [(0, 1000), (17, 100), (10**6, 5000), (3, 12)])
def test_any_run_of_ids_has_the_classes_in_proportion(counts, first, n):
    """With an error of a few log n samples: far below the root of n of independent draws."""
    f = torch.tensor(counts)
    label = Label(len(f)).for_samples(range(first, first + n), population(counts)).signals["label"].index
    counts = torch.bincount(label, minlength=len(f)).double()
    expected = n * f.double() / f.double().sum()
    assert (counts - expected).abs().max() <= 1.5 + log(n)
    assert (counts[f == 0] == 0).all()


def test_the_class_of_a_sample_is_a_function_of_its_id_alone():
    few, many = population([5, 3, 1, 1]), population([500, 300, 100, 100])
    for people in (None, few, many):
        together = Label(4).for_samples(range(50), people).signals["label"].index
        assert torch.equal(Label(4).for_samples([30, 7], people).signals["label"].index, together[[30, 7]])
    assert Label(4).for_samples(range(50), few) == Label(4).for_samples(range(50), many)


def test_unlabelled_data_is_refused_with_the_remedy():
    with pytest.raises(UserError, match="conditioner=unconditional"):
        Label(0)


@pytest.mark.parametrize("dropout", [-0.1, 2])
def test_dropout_is_a_share(dropout):
    with pytest.raises(UserError, match="from 0 to 1"):
        Label(10, dropout)


def test_a_class_that_there_is_not_is_refused_wherever_it_comes_from():
    for odd in (-1, 10, 12):
        with pytest.raises(UserError, match=rf"label {odd} is no class of the model, which has 0 to 9"):
            Label(10).keep({"label": torch.tensor([3, odd])})
    with pytest.raises(UserError, match="the model has 10 classes and the data 12"):
        Label(10).check(Population(torch.arange(12), 12))
