"""Numbers and nouns in messages agree."""

import pytest

from oboro.base.amounts import check_fits_memory
from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.memory import machine

ONE = {
    "images": "1 image",
    "classes": "1 class",
    "series": "1 series",
    "training series": "1 training series",
    "class folders": "1 class folder",
    "other machines": "1 other machine",
    "patches": "1 patch",
    "entries": "1 entry",
}


@pytest.mark.parametrize("plural", ONE)
def test_one_is_singular(plural):
    assert counted(1, plural) == ONE[plural]
    assert counted(0, plural) == f"0 {plural}" and counted(1234, plural) == f"1,234 {plural}"


def test_what_memory_does_not_hold_is_refused_with_a_number_that_it_holds():
    most = machine()[0] // 100
    check_fits_memory("n", most, (1, 10, 10), 1, "images")
    check_fits_memory("n", 2 * most, (1, 10, 10), 1, "images", share=0.5)
    with pytest.raises(
        UserError, match=rf"^n={most + 1} images of 1×10×10 take .* set n={machine()[0] // 200} or less\.$"
    ):
        check_fits_memory("n", most + 1, (1, 10, 10), 1, "images")
