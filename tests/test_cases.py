"""What the tests go through: a product inside of one test, and the pairs of one."""

from itertools import combinations, product

import pytest

from cases import over, pairs


def test_every_case_runs_and_the_failing_ones_are_named():
    seen = []

    @over(a={"one": 1, "two": 2}, b=[3, 4], where=lambda a, b: (a, b) != (2, 4))
    def example(a, b, fixture):
        seen.append((a, b, fixture))
        assert b == 3 or a > 1

    with pytest.raises(AssertionError) as caught:
        example(fixture="f")
    assert seen == [(1, 3, "f"), (1, 4, "f"), (2, 3, "f")]
    assert caught.value.__notes__ == ["1 of 3 cases fail, the first as above:\na=one, b=4"]


def test_a_product_without_a_case_is_no_test():
    with pytest.raises(AssertionError, match="no case of a is left"):
        over(a=[1], where=lambda a: a > 1)


def test_pairs_have_every_pair_that_goes_together_in_few_cases():
    axes = {"a": [*map(str, range(6))], "b": [*map(str, range(5))], "c": [*map(str, range(4))]}
    excluded = lambda a, b: (a, b) == ("0", "0")  # noqa: E731
    found = pairs(**axes, where=lambda a, b: not excluded(a, b))
    for (i, first), (j, second) in combinations(enumerate(axes.values()), 2):
        wanted = {(u, v) for u, v in product(first, second) if (i, j) != (0, 1) or not excluded(u, v)}
        assert {(case[i], case[j]) for case in found} == wanted
    assert len(found) <= 36 < 6 * 5 * 4
