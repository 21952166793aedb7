import torch

from oboro.loss.penalty import Adaptive, PseudoHuber, Squared


def test_squared_is_the_mean_of_squares(normal):
    r = normal(5, 3, 4, 4)
    torch.testing.assert_close(Squared()(r), (r**2).sum((1, 2, 3)) / 48, rtol=1e-12, atol=0)


def test_pseudo_huber_written_out(normal):
    """sqrt(|r|² + c²) - c, c = 0.00054 sqrt(D) (arXiv:2310.14189, eq. 5-6)."""
    r, c = 0.01 * normal(5, 3, 4, 4), 0.00054 * 48**0.5
    norm = r.flatten(1).norm(dim=1)
    torch.testing.assert_close(PseudoHuber()(r), (norm**2 + c**2).sqrt() - c, rtol=1e-9, atol=0)


def test_pseudo_huber_is_the_norm_for_small_c_and_the_square_over_2c_for_large_c(normal):
    r = normal(5, 3, 4, 4)
    norm = r.flatten(1).norm(dim=1)
    torch.testing.assert_close(PseudoHuber(1e-9)(r), norm, rtol=1e-7, atol=0)
    scale = 1e6
    torch.testing.assert_close(PseudoHuber(scale)(r) * 2 * scale * 48**0.5, norm**2, rtol=1e-7, atol=0)


def test_pseudo_huber_keeps_small_errors_in_single_precision(normal):
    """Written as a difference it would be 0: errors of 1e-6 beside c = 0.00374."""
    r = 1e-6 * normal(5, 3, 4, 4)
    torch.testing.assert_close(PseudoHuber()(r.float()).double(), PseudoHuber()(r), rtol=1e-4, atol=0)
    smooth = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    PseudoHuber()(smooth).sum().backward()
    assert (smooth.grad == 0).all()


def test_adaptive_written_out(normal):
    """S / sg(S + c)^p (arXiv:2505.13447, eq. 22), gradient 2 r / (S + c)^p; S is the sum or the mean of squares."""
    r = normal(5, 3, 4, 4).requires_grad_()
    for mean, size in ((False, 1), (True, 48)):
        s = r.detach().square().sum((1, 2, 3), keepdim=True) / size
        value = Adaptive(0.75, 0.01, mean)(r)
        torch.testing.assert_close(value.detach(), (s / (s + 0.01) ** 0.75).flatten(), rtol=1e-12, atol=0)
        (gradient,) = torch.autograd.grad(value.sum(), r)
        torch.testing.assert_close(gradient, 2 * r.detach() / size / (s + 0.01) ** 0.75, rtol=1e-12, atol=0)
