"""JSON files are JSON, and what is not finite comes back."""

import json
import math

import pytest

from oboro.base.json_text import json_text, read_json


def refuse(name):
    raise ValueError(f"{name} is no JSON")


def test_what_is_not_finite_is_null_with_its_place_and_comes_back():
    value = {"values": {"a.b": math.nan, "c": 1.5}, "rows": [[-math.inf, 2], (math.inf,)], "a": {"b": None}}
    text = json_text(value)
    strict = json.loads(text, parse_constant=refuse)
    assert strict["values"] == {"a.b": None, "c": 1.5} and strict["rows"] == [[None, 2], [None]]
    assert strict["not_finite"] == {"values.a.b": "nan", "rows.0.0": "-inf", "rows.1.0": "inf"}
    again = read_json(text)
    assert math.isnan(again["values"].pop("a.b")) and again == {
        "values": {"c": 1.5},
        "rows": [[-math.inf, 2], [math.inf]],
        "a": {"b": None},
    }


@pytest.mark.parametrize("value", [{}, {"a": [1, 2.5, "x", None, True]}, [], "nan", 3])
def test_what_is_finite_is_as_json_has_it(value):
    assert json_text(value, indent=2) == json.dumps(value, indent=2) and read_json(json_text(value)) == value


def test_every_file_that_is_written_goes_this_way():
    """``json.dumps`` elsewhere is for digests and texts that are never read as a file."""
    from test_imports import FILES

    writers = [
        f"{module}: {line.strip()}"
        for module, path in FILES.items()
        for line in path.read_text().splitlines()
        if "json.dumps" in line and ("write_text" in line or "file.write" in line) and module != "oboro.base.json_text"
    ]
    assert writers == []
