"""Which flags of TF32 hold where features and likelihoods are computed, however the program had set them."""

import os
import subprocess
import sys

import pytest
import torch
from torch.backends import cuda, cudnn

from oboro.base.precision import OPERATIONS, full_float32, rounded_to_tf32
from oboro.condition import Condition
from oboro.denoiser import GaussianDenoiser
from oboro.evaluate.evaluator import arithmetic
from oboro.evaluate.likelihood import log_likelihood, rademacher
from oboro.extractor import Fashion
from oboro.schedule import VP

SETTINGS = {
    "as PyTorch starts": "pass",
    "matrix products in TF32": "torch.set_float32_matmul_precision('high')",
    "and in bfloat16 on CPUs": "torch.set_float32_matmul_precision('medium')",
    "by the former flag": "torch.backends.cuda.matmul.allow_tf32 = True",
    "off by the former flag": "torch.backends.cudnn.allow_tf32 = False",
    "all by the new flag": "torch.backends.fp32_precision = 'tf32'",
    "one by the new flag": "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "by both": "torch.backends.cudnn.allow_tf32 = False; torch.backends.cudnn.conv.fp32_precision = 'tf32'",
}
# In a fresh process, since the flags are its own and no setter undoes another one's traces.
SCRIPT = """
import sys, warnings
warnings.simplefilter("error")
import torch
from torch.backends import cuda, cudnn
from oboro.base.precision import OPERATIONS, full_float32

def seen():
    flags = [op.fp32_precision for op in OPERATIONS]
    for former in (lambda: cudnn.allow_tf32, lambda: cuda.matmul.allow_tf32, torch.get_float32_matmul_precision):
        try:
            flags.append(former())
        except RuntimeError:
            flags.append(None)
    return flags

for setting in sys.argv[1:]:
    exec(setting)
    before = seen()
    try:
        with full_float32(), full_float32():
            assert {op.fp32_precision for op in OPERATIONS} == {"ieee"}, setting
            if None not in before:
                assert seen()[len(OPERATIONS):] == [False, False, "highest"], (setting, seen())
            raise KeyError
    except KeyError:
        assert seen() == before, (setting, before, seen())
"""


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
def test_flags_are_off_inside_and_come_back_however_they_were_set(setting):
    run = subprocess.run([sys.executable, "-c", SCRIPT, setting], capture_output=True, text=True, env=os.environ)
    assert run.returncode == 0, run.stderr


@pytest.fixture
def precise(monkeypatch):
    """Whether every call of a module of torch was in full precision."""
    calls = []
    for kind in (torch.nn.Conv2d, torch.nn.Linear):
        forward = kind.forward

        def watched(module, x, forward=forward):
            calls.append({operation.fp32_precision for operation in OPERATIONS} == {"ieee"})
            return forward(module, x)

        monkeypatch.setattr(kind, "forward", watched)
    return calls


def test_features_are_computed_in_full_precision(precise):
    Fashion()(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
    assert len(precise) > 2 and all(precise)
    assert rounded_to_tf32() == ["convolutions"] and cudnn.allow_tf32 and not cuda.matmul.allow_tf32


def test_likelihoods_are_computed_in_full_precision():
    """Forward and backward: a gradient is a convolution, too."""
    seen = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            seen.append(cudnn.conv.fp32_precision)
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            seen.append(cudnn.conv.fp32_precision)
            return gradient

    class Through(GaussianDenoiser):
        def forward(self, x_t, t, cond):
            return Watched.apply(super().forward(x_t, t, cond))

    x = torch.zeros(1, 4)
    log_likelihood(Through(torch.zeros(4), 1.0, VP()), x, Condition.of(), steps=1, probes=rademacher(x, 1, 0, [0]))
    assert len(seen) == 8 and set(seen) == {"ieee"}


def test_the_protocol_names_the_arithmetic_where_it_can_be_set():
    """Numbers that were computed on CPUs keep the protocol that they had."""
    assert arithmetic(torch.device("cpu"), drawn=True) == {}
    of_features = {"features": "float32 without TF32"}
    assert arithmetic(torch.device("cuda"), drawn=False) == of_features
    assert arithmetic(torch.device("cuda"), drawn=True) == {**of_features, "tf32": ["convolutions"]}


def test_the_flags_are_named_in_words():
    with full_float32():
        assert rounded_to_tf32() == []
        torch.set_float32_matmul_precision("high")
        assert rounded_to_tf32() == ["matrix products"]
