"""What one sample is: both of its forms, its files, its picture."""

import numpy as np
import PIL.Image
import pytest
import torch
from hydra.utils import instantiate

from oboro.base.errors import UserError
from oboro.modality import Image, Series

NAMES = ("temperature", "a pressure, in hPa")
SERIES = Series(50, (20.0, 1e5), (5.0, 300.0), NAMES)
MODALITIES = [Image(1, 5, 7), Image(3, 5, 7), Image(4, 5, 7), SERIES, Series(3, (0.0,), (1.0,))]


def stored(modality, count=6, seed=0):
    """Random samples as they are stored."""
    g = torch.Generator().manual_seed(seed)
    if modality.dtype == torch.uint8:
        return torch.randint(0, 256, (count, *modality.shape), dtype=torch.uint8, generator=g)
    return modality.to_stored(torch.randn(count, *modality.shape, generator=g))


@pytest.mark.parametrize("modality", MODALITIES, ids=str)
class TestEveryModality:
    def test_files_and_arrays_give_the_same_bits_back(self, modality, tmp_path):
        samples = stored(modality)
        for i, one in enumerate(samples):
            path = modality.write(one, tmp_path / f"{i:06d}")
            assert path.suffix == modality.suffixes[0] and torch.equal(modality.read(path), one)
        np.savez(tmp_path / "all.npz", **{modality.noun: modality.to_array(samples)})
        with np.load(tmp_path / "all.npz") as file:
            assert torch.equal(modality.from_array(file[modality.noun]), samples)

    def test_the_two_forms_are_inverses(self, modality):
        samples = stored(modality)
        back = modality.to_stored(modality.to_model(samples).double())
        assert back.dtype == modality.dtype
        torch.testing.assert_close(back, samples, rtol=1e-6, atol=0)

    def test_it_is_built_again_from_what_a_checkpoint_keeps(self, modality):
        again = instantiate(modality.spec(), _convert_="all")
        assert again == modality and again.spec() == modality.spec() and again.shape == modality.shape
        assert all(again != other for other in MODALITIES if other is not modality)


def test_series_are_standardised_channel_by_channel():
    x = torch.stack([torch.full((50,), 30.0), torch.full((50,), 1e5 - 150)])[None]
    assert SERIES.to_model(x)[0, :, 0].tolist() == [2.0, -0.5]


def test_a_model_may_leave_the_range_of_series_but_not_that_of_pictures():
    assert Series(2, (1.0,), (10.0,)).to_stored(torch.tensor([[[100.0, -100.0]]])).tolist() == [[[1001.0, -999.0]]]
    assert Image(1, 1, 2).to_stored(torch.tensor([[[[100.0, -100.0]]]])).tolist() == [[[[255, 0]]]]


def test_samples_are_mirrored_where_the_mask_says():
    modality, mask = Image(3, 5, 7), torch.tensor([True, False, True])
    samples = stored(modality, 3)
    for form in (samples, modality.to_model(samples)):
        flipped = modality.flip(form, mask)
        assert torch.equal(flipped[1], form[1]) and torch.equal(flipped[[0, 2]], form[[0, 2]].flip(3))
    assert Image.mirrors and not Series.mirrors


def test_a_csv_file_has_a_column_for_each_channel_with_its_name(tmp_path):
    one = stored(SERIES)[0]
    lines = SERIES.write(one, tmp_path / "a").read_text().splitlines()
    assert lines[0] == 'temperature,"a pressure, in hPa"' and len(lines) == 51
    assert np.array_equal(np.array(lines[1].split(","), np.float32), one[:, 0].numpy())


def test_files_of_another_shape_are_refused(tmp_path):
    PIL.Image.new("RGB", (7, 6)).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.zeros((49, 2)))
    with pytest.raises(UserError, match="6×7 and is to be 5×7"):
        Image(3, 5, 7).read(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"2×49 numbers .* 2×50"):
        SERIES.read(tmp_path / "a.npy")


def ink(pixels):
    """Rows and columns of a picture that are blue, the colour of the first channel."""
    return np.argwhere(pixels[..., 2].astype(int) - pixels[..., 0] > 60)


def test_the_lines_of_a_plot_go_where_the_numbers_are():
    """Of two plots side by side on one scale, a step up is below the middle and then above, zero is at the bottom."""
    series = Series(40, (0.0,), (1.0,))
    step = torch.zeros(2, 1, 40)
    step[0, 0, 20:] = 10
    pixels = np.asarray(series.picture(step, 2))
    found = ink(pixels)
    middle = (found[:, 1].min() + found[:, 1].max()) / 2  # between the plots
    left = found[found[:, 1] < middle]
    place = (left[:, 1] - left[:, 1].min()) / (left[:, 1].max() - left[:, 1].min())
    low, high = left[place < 0.45][:, 0], left[place > 0.55][:, 0]
    assert low.min() > high.max() + 30
    flat = found[found[:, 1] > middle][:, 0]
    assert abs(flat.mean() - low.mean()) < 1 and np.ptp(flat) <= 3


def test_a_sample_that_is_not_finite_is_shown_as_far_as_it_is():
    broken = torch.full((1, 1, 40), torch.nan)
    assert len(ink(np.asarray(Series(40, (0.0,), (1.0,)).picture(broken, 1)))) == 0
    broken[0, 0, :20] = torch.arange(20.0)
    assert len(ink(np.asarray(Series(40, (0.0,), (1.0,)).picture(broken, 1)))) > 20
