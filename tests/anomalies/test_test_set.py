import pytest
import torch

from oboro.anomalies import TestSet


def parts(**changed):
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[1:, 2] = True
    given = {
        "samples": torch.arange(48, dtype=torch.uint8).view(3, 1, 4, 4),
        "anomalous": torch.tensor([False, True, True]),
        "masks": masks,
        "kinds": ["good", "scratch", "class 3"],
        "names": ["a", "b", "c"],
    }
    return given | changed


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"anomalous": torch.tensor([True, True, True])}, "the kind of normal samples, and of no others, is good"),
        ({"anomalous": torch.tensor([0, 1, 1])}, "3 samples and anomalous"),
        ({"names": ["a", "b", "b"]}, "3 samples, 3 kinds and 2 different names"),
        ({"masks": torch.zeros(3, 4, 4, dtype=torch.bool)}, "b is scratch and its mask says something else"),
        ({"masks": torch.ones(3, 4, 4, dtype=torch.bool)}, "a is good and its mask says something else"),
        ({"masks": torch.ones(3, 2, 2, dtype=torch.bool)}, "samples .* and masks"),
    ],
)
def test_what_does_not_belong_together_is_refused(changed, reason):
    TestSet(**parts())
    with pytest.raises(ValueError, match=reason):
        TestSet(**parts(**changed))


def test_the_fingerprint_is_that_of_everything():
    masks = parts()["masks"].clone()
    masks[1, 0, 0] = True
    changes = [{}, {"samples": parts()["samples"] + 1}, {"masks": masks}, {"masks": None}, {"names": ["a", "b", "d"]}]
    changes += [{"kinds": ["good", "scratch", "patch"]}]
    assert len({TestSet(**parts(**changed)).fingerprint for changed in changes}) == len(changes)
    assert TestSet(**parts()).fingerprint == TestSet(**parts()).fingerprint


def test_some_of_them_are_taken_with_all_that_is_known():
    taken = TestSet(**parts()).taken(torch.tensor([2, 0]))
    assert (taken.names, taken.kinds, taken.anomalous.tolist()) == (["c", "a"], ["class 3", "good"], [True, False])
    assert torch.equal(taken.samples, parts()["samples"][[2, 0]]) and torch.equal(taken.masks, parts()["masks"][[2, 0]])
