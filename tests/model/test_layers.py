from math import log

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from oboro.model.layers import (
    Downsample,
    LabelEmbedding,
    NoiseEmbedding,
    ResidualBlock,
    SelfAttention,
    Upsample,
    conv,
    convolution,
    group_norm,
    mean_of_halves,
    modulated,
    zero,
)


@pytest.mark.parametrize("head_channels", [0, 4, 8, 32])
def test_attention_is_the_softmax_written_out(head_channels, randomise, normal):
    """x + proj(softmax(q kᵀ / sqrt(d)) v), head by head and pixel by pixel."""
    layer, x = randomise(SelfAttention(16, head_channels)).double(), normal(2, 16, 3, 5)
    d = min(head_channels, 16) or 16
    qkv = F.conv2d(layer.norm(x), layer.qkv.weight, layer.qkv.bias).flatten(2)
    q, k, v = qkv[:, :16], qkv[:, 16:32], qkv[:, 32:]
    h = torch.zeros_like(q)
    for first in range(0, 16, d):
        c = slice(first, first + d)
        scores = torch.einsum("bci,bcj->bij", q[:, c], k[:, c]) / d**0.5
        weights = scores.exp() / scores.exp().sum(2, keepdim=True)
        h[:, c] = torch.einsum("bij,bcj->bci", weights, v[:, c])
    expected = x + F.conv2d(h.view_as(x), layer.proj.weight, layer.proj.bias)
    torch.testing.assert_close(layer(x), expected)


def gradients(f, *tensors):
    """f and its gradients, by a cotangent that tells places apart."""
    tensors = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
    out = f(*tensors)
    cotangent = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)
    return out, *torch.autograd.grad(out, tensors, cotangent)


@pytest.mark.parametrize("shape", [(3, 8, 5), (3, 8, 4, 6), (3, 8, 2, 3, 4)])
def test_a_norm_is_modulated_in_one_pass(shape, normal, randomise):
    """As in two, its gradients too; also where channels are last in memory, or nothing is there."""
    norm, h = randomise(group_norm(8)).double(), normal(*shape)
    e = normal(3, 16)

    def written_out(h, e, weight, bias):
        scale, shift = (part.view(len(h), 8, *[1] * (h.ndim - 2)) for part in e.chunk(2, 1))
        return (1 + scale) * F.group_norm(h, norm.num_groups, weight, bias, norm.eps) + shift

    def ours(h, e, weight, bias):
        return torch.func.functional_call(Modulated(norm), {"norm.weight": weight, "norm.bias": bias}, (h, e))

    for layout in (h, h.mT.contiguous().mT):
        expected = gradients(written_out, h, e, *norm.parameters())
        torch.testing.assert_close(gradients(ours, layout, e, *norm.parameters()), expected)
    assert Modulated(norm)(h[:0], e[:0]).shape == (0, *shape[1:])


class Modulated(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, h, e):
        return modulated(self.norm, h, *e.chunk(2, 1))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_one_pixel_is_a_product(dims, bias, normal):
    """In value and gradients, in any order of memory."""
    layer = conv(dims, 6, 5, 1, bias=bias).double()
    x, parts = normal(3, 6, *(4, 3, 2)[:dims]), list(layer.parameters())
    names = [name for name, _ in layer.named_parameters()]

    def ours(x, *parts):
        return torch.func.functional_call(layer, dict(zip(names, parts, strict=True)), (x,))

    def theirs(x, *parts):
        return convolution(dims)(x, *parts)

    for layout in (x, x.mT.contiguous().mT):
        torch.testing.assert_close(gradients(ours, layout, *parts), gradients(theirs, x, *parts))
    assert ours(x[:0], *parts).shape == (0, 5, *x.shape[2:])


def test_attention_knows_no_place(randomise, normal):
    """Permuting the pixels permutes the answer."""
    layer, x = randomise(SelfAttention(8, 4)).double(), normal(2, 8, 4, 4)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))

    def permute(x):
        return x.flatten(2)[:, :, order].view_as(x)

    torch.testing.assert_close(layer(permute(x)), permute(layer(x)))


@pytest.mark.parametrize("scale_shift", [True, False])
def test_residual_block_written_out(scale_shift, randomise, normal):
    block = ResidualBlock(8, 16, 12, dropout=0.0, scale_shift=scale_shift)
    block, x, embedding = randomise(block).double(), normal(2, 8, 4, 6), normal(2, 12)

    def silu(x):
        return x / (1 + torch.exp(-x))

    e = F.linear(silu(embedding), block.embedding.weight, block.embedding.bias)[:, :, None, None]
    h = F.conv2d(silu(block.norm1(x)), block.conv1.weight, block.conv1.bias, padding=1)
    h = block.norm2(h) * (1 + e[:, :16]) + e[:, 16:] if scale_shift else block.norm2(h + e)
    h = F.conv2d(silu(h), block.conv2.weight, block.conv2.bias, padding=1)
    expected = F.conv2d(x, block.skip.weight, block.skip.bias) + h
    torch.testing.assert_close(block(x, embedding), expected)


@pytest.mark.parametrize("scale_shift", [True, False])
def test_blocks_start_as_the_identity(scale_shift, normal):
    block, attention = (
        ResidualBlock(8, 8, 12, dropout=0.0, scale_shift=scale_shift).double(),
        SelfAttention(8, 4).double(),
    )
    x = normal(2, 8, 4, 4)
    assert torch.equal(block(x, normal(2, 12)), x)
    assert torch.equal(attention(x), x)


def test_resampling_blocks_resize_both_branches(randomise, normal):
    x, embedding = normal(1, 8, 4, 6), normal(1, 12)
    for resample, size in ((nn.AvgPool2d(2), (2, 3)), (nn.Upsample(scale_factor=2.0), (8, 12))):
        block = ResidualBlock(8, 8, 12, dropout=0.0, scale_shift=True, resample=resample).double()
        torch.testing.assert_close(block(x, embedding), resample(x))  # the residual branch starts at zero
        assert randomise(block)(x, embedding).shape[2:] == size


def test_down_and_upsampling_halve_and_double(randomise, normal):
    x = normal(1, 4, 6, 8)
    assert randomise(Downsample(4)).double()(x).shape == (1, 4, 3, 4)
    up = randomise(Upsample(4)).double()
    nearest = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(up(x), up[1](nearest))


def test_means_of_halves_are_means_along_each_axis_in_turn(normal):
    """A last one that has no partner stays as it is."""
    x = expected = normal(2, 3, 5, 4, 7)
    for axis in (2, 3, 4):
        pairs = [part.mean(axis, keepdim=True) for part in expected.split(2, axis)]
        expected = torch.cat(pairs, axis)
    torch.testing.assert_close(mean_of_halves(3)(x), expected)
    torch.testing.assert_close(mean_of_halves(1)(x[:, :, 0, 0]), mean_of_halves(2)(x[:, :, :1, 0])[:, :, 0])


@pytest.mark.parametrize(("channels", "groups"), [(8, 2), (16, 4), (32, 8), (96, 24), (128, 32), (192, 32), (1024, 32)])
def test_group_norm_has_groups_of_at_least_four(channels, groups):
    assert group_norm(channels).num_groups == groups


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 20, 100, 108, 250])
def test_group_norm_divides_any_number_of_channels(channels):
    norm = group_norm(channels)
    x = torch.randn(2, channels, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    groups = norm.double()(x).view(2, norm.num_groups, -1)
    torch.testing.assert_close(groups.mean(2), torch.zeros_like(groups[:, :, 0]), atol=1e-12, rtol=0)
    assert channels % norm.num_groups == 0 and (channels < 8 or channels // norm.num_groups >= 4)


def test_zeroed_layers_are_zero(normal):
    assert not zero(nn.Conv2d(3, 4, 3).double())(normal(1, 3, 5, 5)).any()


def test_noise_embedding_tells_neighbouring_noise_levels_apart(randomise):
    """One step of 1000 in log sigma over EDM's range changes the features; equal noise gives equal features."""
    embedding = NoiseEmbedding(32, 16)
    c_noise = torch.linspace(log(0.002) / 4, log(80) / 4, 1000)
    angle = c_noise[:, None] * embedding.frequencies
    features = torch.cat([angle.cos(), angle.sin()], 1)
    assert (features.diff(dim=0).norm(dim=1) > 0.1).all()
    distance = torch.cdist(features, features) + 10 * torch.eye(1000)
    assert distance.min() > 0.1  # no two levels are confused
    out = randomise(embedding)(c_noise[[3, 3, 4]])
    assert torch.equal(out[0], out[1]) and not torch.equal(out[0], out[2])


def test_frequencies_run_from_1_to_100_radians():
    frequencies = NoiseEmbedding(32, 16).frequencies
    assert len(frequencies) == 16
    torch.testing.assert_close(frequencies[[0, -1]], torch.tensor([1.0, 100.0]))
    torch.testing.assert_close(frequencies[1:] / frequencies[:-1], torch.full((15,), 100 ** (1 / 15)))


def test_a_class_that_there_is_not_is_no_dropped_label():
    for label in (3, 4, 100):
        with pytest.raises(IndexError):
            LabelEmbedding(3, 5)(torch.tensor([0, label]))


def test_a_dropped_label_has_a_row_of_its_own():
    embedding = LabelEmbedding(3, 5)
    rows = embedding(torch.tensor([0, 1, 2, -1]))
    assert torch.equal(rows, embedding.table.weight)
    assert len(rows.unique(dim=0)) == 4
