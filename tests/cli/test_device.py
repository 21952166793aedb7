"""Every word of Lightning for a precision, and some that are none: one that trains right, or one line."""

import pytest

import runs
from oboro.base.errors import UserError
from oboro.cli.device import as_trained, resolve_precision

THREE = "choose one of auto, 32-true, bf16-mixed, 16-mixed."


def kept(word: str, bits: str, instead: str) -> str:
    return f"precision={word} keeps weights in {bits} bits and weights are float32 here; set precision={instead}."


TABLE = {
    ("32-true", "cpu"): "32-true",
    ("32", "cpu"): "32-true",
    ("bf16-mixed", "cpu"): "bf16-mixed",
    ("bf16", "cuda"): "bf16-mixed",
    ("bf16-mixed", "mps"): "bf16-mixed",
    ("16-mixed", "cuda"): "16-mixed",
    ("16", "mps"): "16-mixed",
    ("auto", "mps"): "32-true",
    ("16-mixed", "cpu"): "precision=16-mixed is not to be had on CPUs; set precision=bf16-mixed.",
    ("16", "cpu"): "precision=16 is not to be had on CPUs; set precision=bf16-mixed.",
    ("16-true", "cuda"): kept("16-true", "16", "16-mixed"),
    ("bf16-true", "cpu"): kept("bf16-true", "16", "bf16-mixed"),
    ("bf16-true", "cuda"): kept("bf16-true", "16", "bf16-mixed"),
    ("64", "cpu"): kept("64", "64", "32-true"),
    ("64-true", "cuda"): kept("64-true", "64", "32-true"),
    ("transformer-engine", "cuda"): kept("transformer-engine", "16 and 8", "bf16-mixed"),
    ("transformer-engine-float16", "cuda"): kept("transformer-engine-float16", "16 and 8", "16-mixed"),
    ("fp16", "cuda"): f"there is no precision=fp16; {THREE}",
    ("bfloat16", "cpu"): f"there is no precision=bfloat16; {THREE}",
    ("8", "cuda"): f"there is no precision=8; {THREE}",
    ("None", "cpu"): f"there is no precision=null; {THREE}",
    ("", "cpu"): f"there is no precision=; {THREE}",
}


@pytest.mark.parametrize(("given", "expected"), TABLE.items(), ids=map("-".join, TABLE))
def test_a_precision_is_one_that_trains_right_or_refused(given, expected):
    if " " not in expected:
        assert resolve_precision(*given) == expected
        return
    with pytest.raises(UserError) as error:
        resolve_precision(*given)
    assert str(error.value) == expected


def test_what_was_trained_in_float16_is_drawn_in_bfloat16_on_a_cpu():
    assert as_trained("16-mixed", "cpu") == as_trained("16", "cpu") == "bf16-mixed"
    assert as_trained("16-mixed", "cuda") == "16-mixed" and as_trained("32-true", "cpu") == "32-true"


def test_the_line_names_the_key_as_it_was_typed(tmp_path):
    run = runs.call("train.py", *runs.outputs(tmp_path, *runs.toy("trainer.precision=bf16-true")), cwd=tmp_path)
    line = "trainer.precision=bf16-true keeps weights in 16 bits and weights are float32 here; "
    assert run.status == 1 and f"{line}set trainer.precision=bf16-mixed." in run.stderr
    assert "Traceback" not in run.stderr
