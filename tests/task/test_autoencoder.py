import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

import runs
from oboro.task.autoencoder import likeness


@pytest.fixture(scope="module")
def built():
    trainer, task, data = runs.built(runs.AUTOENCODER)
    data.setup()
    task.check(data)
    trainer.datamodule = data
    task._trainer = trainer
    return task.eval().requires_grad_(False), data


@pytest.fixture
def x(built):
    return torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_likeness_is_psnr_ssim_and_absolute_error_of_each_image(x):
    made = (x + 0.1 * torch.arange(5)[:, None, None, None] * x.flip(0)).clamp(-1, 1)
    psnr, ssim, l1 = likeness(made, x)
    for i in range(1, 5):
        a, b = made[i : i + 1], x[i : i + 1]
        assert psnr[i].item() == pytest.approx(peak_signal_noise_ratio(a, b, data_range=2.0).item(), rel=1e-5)
        expected = structural_similarity_index_measure(a, b, data_range=2.0)
        assert ssim[i].item() == pytest.approx(expected.item(), rel=1e-4)
        assert l1[i].item() == pytest.approx((a - b).abs().mean().item(), rel=1e-5)
    assert (psnr[0], ssim[0], l1[0]) == (pytest.approx(10 * math.log10(4e10)), pytest.approx(1), 0)


def test_validation_sees_the_averages_and_reconstructions_in_the_range_of_pixels(built, x):
    task, _ = built
    with task.averaged():
        rows = task.measure({}, x)
        made = task.learned.decode(task.learned.encode(x)).clamp(-1, 1)
    expected = [*likeness(made, x), task.loss.perceptual(made, x)]
    torch.testing.assert_close(rows[:, :4], torch.stack(expected, 1))
    raw = task.measure({}, x)
    assert (rows - raw).abs().max() > 1e-3


def test_the_summary_is_means_over_images_and_what_the_codec_says(built):
    task, _ = built
    rows = torch.tensor([[20.0, 0.5, 0.1, 2.0, 30.0], [30.0, 0.7, 0.3, 4.0, 50.0]], dtype=torch.float64)
    expected = {"psnr": 25.0, "ssim": 0.6, "l1": 0.2, "perceptual": 3.0, "kl": 40.0}
    assert task.summary(rows) == pytest.approx(expected)
