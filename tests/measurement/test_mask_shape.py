"""Masks: what they hide, and that each is a function of its generator."""

import numpy as np
import pytest
import torch
from PIL import Image

from oboro.base.errors import UserError
from oboro.base.seeding import generator
from oboro.measurement import MaskBox, MaskFile, MaskHalf, MaskRandom, MaskStroke

SHAPES = {
    "box": MaskBox(),
    "half": MaskHalf(),
    "random": MaskRandom(),
    "stroke": MaskStroke(),
}


def generators(ids):
    return [generator(0, "measurement", i) for i in ids]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_is_a_function_of_its_generator(shape):
    together = SHAPES[shape].operator((1, 28, 20), generators(range(6))).mask
    alone = SHAPES[shape].operator((3, 28, 20), generators([4])).mask
    assert torch.equal(alone[0], together[4]) and together.shape == (6, 1, 28, 20)
    assert together.flatten(1).any(1).all() and not together.flatten(1).all(1).any()
    assert len({mask.numpy().tobytes() for mask in together}) > 1


def test_holes_are_as_large_as_asked():
    box = MaskBox(14, 10).operator((1, 28, 28), generators(range(20))).mask
    assert ((~box).flatten(1).sum(1) == 140).all() and (~box).any(3).sum(2).eq(14).all()
    assert not MaskBox(2, 4, centred=True)(6, 8, generator(0, "m"))[0, 2:4, 2:6].any()
    assert (~MaskRandom(0.7)(28, 28, generator(0, "m"))).sum() == round(0.7 * 784)
    for side, hole in (("left", np.s_[:, :4]), ("right", np.s_[:, 5:]), ("top", np.s_[:3]), ("bottom", np.s_[4:])):
        mask = MaskHalf(side)(7, 9, generator(0, "m"))[0]
        assert not mask[hole].any() and (~mask).sum() == mask[hole].numel()


def test_a_stroke_is_one_piece():
    """A single stroke is connected: its hole is grown from one of its pixels by neighbours."""
    for i in range(5):
        hole = ~MaskStroke(strokes=1, width=0.1)(32, 32, generator(i, "m"))[0]
        grown = torch.zeros_like(hole)
        grown[tuple(hole.nonzero()[0])] = True
        for _ in range(400):
            wider = torch.nn.functional.max_pool2d(grown[None, None].float(), 3, 1, 1)[0, 0].bool()
            grown = wider & hole
        assert torch.equal(grown, hole)


def test_a_file_is_read_as_it_is_painted(tmp_path):
    painted = np.zeros((6, 8), np.uint8)
    painted[1:3, 2:5] = 255
    Image.fromarray(painted).save(tmp_path / "mask.png")
    hole = ~MaskFile(str(tmp_path / "mask.png"))(6, 8, generator(0, "m"))[0].numpy()
    assert (hole == (painted > 0)).all()
    assert (hole == MaskFile(str(tmp_path / "mask.png"), "known")(6, 8, generator(0, "m"))[0].numpy()).all()
    with pytest.raises(UserError, match="6×8 and the samples are 28×28"):
        MaskFile(str(tmp_path / "mask.png"))(28, 28, generator(0, "m"))
    Image.fromarray(np.dstack([painted] * 4)).save(tmp_path / "clear.png")
    with pytest.raises(UserError, match="transparent"):
        MaskFile(str(tmp_path / "clear.png"))(6, 8, generator(0, "m"))
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(tmp_path / "black.png")
    with pytest.raises(UserError, match="hides nothing"):
        MaskFile(str(tmp_path / "black.png"))(6, 8, generator(0, "m"))
    (tmp_path / "text.png").write_text("no picture")
    for name, message in (("text.png", "cannot be read"), ("none.png", "there is no mask")):
        with pytest.raises(UserError, match=message):
            MaskFile(str(tmp_path / name))(6, 8, generator(0, "m"))


def test_a_hole_larger_than_the_sample_is_refused():
    with pytest.raises(UserError, match="larger than the sample, 28"):
        MaskBox(40, 10)(28, 28, generator(0, "m"))
