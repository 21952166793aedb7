"""The Python of docs/python.md, as it stands."""

import contextlib
import io
import re

import numpy as np
import torch
from PIL import Image

import runs
from oboro.modality.image import to_uint8

EXACT, CHECKPOINT = re.findall(r"^```python\n(.*?)^```$", (runs.ROOT / "docs/python.md").read_text(), re.M | re.S)


def test_exact_samples_have_the_moments_that_are_printed():
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(EXACT, {})
    assert out.getvalue().strip() == EXACT.rpartition("# ")[2].strip() == "2.0 ± 0.5"


def test_a_checkpoint_draws_what_the_command_draws(tmp_path, monkeypatch):
    trained = runs.train(tmp_path / "run", runs.NO_EVALUATION)
    drawn = runs.sample(tmp_path / "drawn", trained.last, "n=4", "chunk=4")
    monkeypatch.chdir(trained.last.parent)
    names: dict = {}
    exec(CHECKPOINT, names)
    files = sorted((drawn.folder / "images").iterdir())
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(file))) for file in files])
    assert torch.equal(to_uint8(names["samples"])[:, 0], pixels)
