"""Products of parameters inside of one test, and the smallest part of a product that has every pair.

    @over(schedule=SCHEDULES, steps=[1, 2, 5])
    def test_a_law(schedule, steps, normal): ...

is one test, which goes through all cases, and its failure names those that fail. Where a case takes a second, it is a
test of its own, and ``pytest.mark.parametrize`` over ``pairs(...)`` has far fewer than the product.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from itertools import combinations, product

Axis = Mapping[str, object] | Iterable


def cases(where: Callable[..., bool] | None = None, **axes: Axis) -> list[dict[str, str]]:
    """All combinations as {argument: label} for which ``where(argument=value, ...)`` holds."""
    values = {name: labelled(axis) for name, axis in axes.items()}
    labels = [dict(zip(values, choice, strict=True)) for choice in product(*values.values())]
    if where is not None:
        read = inspect.signature(where).parameters
        labels = [case for case in labels if where(**{k: values[k][v] for k, v in case.items() if k in read})]
    assert labels, f"no case of {', '.join(axes)} is left"
    return labels


def labelled(axis: Axis) -> dict[str, object]:
    """{label: value} of a mapping or a list."""
    if isinstance(axis, Mapping):
        return dict(axis)
    values = [*axis]
    items = {str(getattr(v, "__name__", v)): v for v in values}
    assert len(items) == len(values), f"two values of one label among {list(items)}"
    return items


def over(where: Callable[..., bool] | None = None, **axes: Axis):
    """Decorate a test to run for every case; the other arguments stay fixtures, of which all cases share one."""
    labels, values = cases(where, **axes), {name: labelled(axis) for name, axis in axes.items()}

    def decorate(test):
        @wraps(test)
        def run(**fixtures):
            failures = []
            for case in labels:
                try:
                    test(**{name: values[name][label] for name, label in case.items()}, **fixtures)
                except Exception as error:
                    failures.append((case, error))
            if failures:
                failed = "\n".join(", ".join(f"{k}={v}" for k, v in case.items()) for case, _ in failures)
                failures[0][1].add_note(f"{len(failures)} of {len(labels)} cases fail, the first as above:\n{failed}")
                raise failures[0][1]

        signature = inspect.signature(test)
        kept = [p for name, p in signature.parameters.items() if name not in axes]
        run.__signature__ = signature.replace(parameters=kept)
        return run

    return decorate


def pairs(where: Callable[..., bool] | None = None, **axes: Axis) -> list[tuple[str, ...]]:
    """Few cases, as tuples of labels in the order of the axes, in which any two values that go together meet.

    Greedy: of the cases that ``where`` admits always the one with the most pairs that no case had before.
    """
    left = [tuple(case.values()) for case in cases(where, **axes)]
    met = lambda case: set(combinations(enumerate(case), 2))  # noqa: E731
    missing, chosen = set().union(*map(met, left)), []
    while missing:
        best = max(left, key=lambda case: len(met(case) & missing))
        chosen.append(best)
        missing -= met(best)
    return chosen
