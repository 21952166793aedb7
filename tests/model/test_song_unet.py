from math import pi, sqrt

import pytest
import torch
import torch.nn.functional as F

from oboro.base.errors import UserError
from oboro.model.layers import ResidualBlock, SelfAttention
from oboro.model.song_unet import ConvDown, Embedding, FilterDown, FilterUp, SongUNet, Stage

TAPS = [(1, 1), (1, 3, 3, 1)]
each_filter = pytest.mark.parametrize("taps", TAPS, ids=["box", "tent"])


@pytest.fixture
def small_song(randomise):
    """``small_song(pyramid=True)``: three levels of 8 and 16 channels with random weights, in eval mode."""

    def make(**keywords) -> SongUNet:
        settings = {"channels": 8, "channel_mult": (1, 2, 2), "blocks": 2, "noise_channels": 8, "dropout": 0.0}
        with torch.random.fork_rng():
            network = SongUNet(1, **{**settings, **keywords})
        return randomise(network).double().eval()

    return make


@pytest.mark.parametrize(
    ("name", "num_classes", "expected"),
    [
        ("song_unet_ddpmpp", 0, 55_732_739),
        ("song_unet_ddpmpp", 10, 55_734_147),
        ("song_unet_ncsnpp", 0, 56_395_523),
        ("song_unet_ncsnpp", 10, 56_398_339),
    ],
)
def test_parameters_are_those_of_edm(count_parameters, name, num_classes, expected):
    """55.7 M of DDPM++ and 56.4 M of NCSN++ on CIFAR-10 without inputs for augmentation (arXiv:2206.00364)."""
    assert count_parameters(name, 3, num_classes) == expected


def test_a_level_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match=r"attention_levels=\[3\].*use levels 0 to 2"):
        SongUNet(1, channels=8, attention_levels=[3])


# --- resizing


@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_the_box_filter_is_the_mean_of_four_and_the_nearest_neighbour(size, normal):
    x = normal(2, 3, *size)
    torch.testing.assert_close(FilterDown((1, 1))(x), F.avg_pool2d(x, 2, ceil_mode=True))
    torch.testing.assert_close(FilterUp((1, 1))(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_the_tent_filter_written_out(normal):
    """Rows 2 i - 1 … 2 i + 2 weigh 1, 3, 3, 1 eighths, columns too, and the plane around the image is zero."""
    x = normal(1, 2, 6, 8)
    taps = torch.tensor([1, 3, 3, 1], dtype=torch.float64) / 8
    plane, expected = F.pad(x, (1, 1, 1, 1)), torch.zeros(1, 2, 3, 4, dtype=torch.float64)
    for i in range(3):
        for j in range(4):
            window = plane[:, :, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4]
            expected[:, :, i, j] = torch.einsum("bcij,i,j->bc", window, taps, taps)
    torch.testing.assert_close(FilterDown((1, 3, 3, 1))(x), expected)


@each_filter
def test_going_up_is_four_times_the_transpose_of_going_down(taps, normal):
    x, y = normal(2, 3, 6, 8), normal(2, 3, 3, 4)
    torch.testing.assert_close((FilterUp(taps)(y) * x).sum(), 4 * (FilterDown(taps)(x) * y).sum())


@each_filter
def test_constant_images_stay_constant_inside(taps):
    for layer in (FilterDown(taps), FilterUp(taps)):
        inside = layer(torch.ones(1, 2, 9, 12, dtype=torch.float64))[:, :, 1:-1, 1:-1]
        torch.testing.assert_close(inside, torch.ones_like(inside))


@each_filter
def test_convolution_and_filter_act_on_the_whole_plane(taps, randomise, normal):
    """Beyond the image everything is zero, and the convolution, without its bias, spreads there before the filter."""
    layer, x = randomise(ConvDown(taps, 2, 3)).double(), normal(1, 2, 6, 8)
    plane = F.conv2d(F.pad(x, (5, 5, 5, 5)), layer.conv.weight, layer.conv.bias)  # 4 rows and columns more on all sides
    expected = FilterDown(taps)(plane)[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(layer(x), expected)


def test_an_odd_image_is_one_with_its_last_row_and_column_twice(randomise, normal):
    x = normal(1, 2, 5, 7)
    full = torch.cat([x, x[:, :, -1:]], 2)
    full = torch.cat([full, full[..., -1:]], 3)
    for layer in (FilterDown((1, 3, 3, 1)), randomise(ConvDown((1, 3, 3, 1), 2, 3)).double()):
        torch.testing.assert_close(layer(x), layer(full))


# --- parts


def test_sums_of_two_branches_are_divided_by_the_root_of_two(randomise, normal):
    block = ResidualBlock(4, 8, 6, dropout=0.0, scale_shift=False)
    stage = randomise(Stage(block, SelfAttention(8, 0))).double()
    x, embedding = normal(2, 4, 4, 4), normal(2, 6)
    h = stage.block(x, embedding) / sqrt(2)
    torch.testing.assert_close(stage(x, embedding), stage.attention(h) / sqrt(2))


def test_embedding_written_out(randomise, normal):
    """Frequencies fall from 1 to 1/10000 radians; the label is a row of weights times sqrt(K) beside the features."""
    layer, c_noise = randomise(Embedding(8, 6, 3, fourier=False)).double(), normal(3)
    angle = c_noise[:, None] * torch.tensor([10_000 ** (-k / 3) for k in range(4)], dtype=torch.float64)
    label = layer.label.weight.T[[2, 0, 1]] * sqrt(3)
    label[2] = 0  # a dropped one
    h = torch.cat([angle.sin(), angle.cos()], 1) + label + layer.label.bias
    expected = layer.mlp[2](F.silu(layer.mlp[0](h)))
    torch.testing.assert_close(layer(c_noise, torch.tensor([2, 0, -1])), expected, atol=1e-6, rtol=1e-6)


def test_fourier_frequencies_are_normal_of_16_turns_and_travel_with_the_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = Embedding(20_000, 2, 0, fourier=True)
    turns = layer.frequencies / (2 * pi)
    assert turns.mean().abs() < 5 * 16 / 100
    assert (turns.square().mean() - 256).abs() < 5 * 256 * sqrt(2) / 100
    assert "frequencies" in layer.state_dict()


def test_attention_is_after_every_block_down_and_the_last_one_up(small_song):
    network = small_song(attention_levels=(1,))
    down = [[stage.attention is not None for stage in stages] for stages in network.down]
    assert down == [[False] * 2, [False, True, True], [False] * 3]
    assert [stage.attention is not None for stage in network.middle] == [True, False]
    up = [stages[0].attention is not None for stages in network.up]
    assert up == [False] * 3 + [False, False, True] + [False] * 3
    assert all(stages[1].attention is None for stages in network.up if len(stages) > 1)


@pytest.mark.parametrize("pyramid", [False, True])
def test_every_activation_on_the_way_down_arrives_on_the_way_up(small_song, normal, pyramid):
    """Skips are taken last in, first out. With the pyramid, what leaves a resizing block is joined with the image."""
    network, seen, images = small_song(pyramid=pyramid, taps=(1, 3, 3, 1)), [], []
    for layer in [network.first, *(s for stages in network.down for s in stages)]:
        layer.register_forward_hook(lambda module, args, out: seen.append(out))
    for layer in network.pyramid:
        layer.register_forward_hook(lambda module, args, out: images.append((args[0], out)))
    joined = []
    for stages in network.up:
        stages[0].register_forward_pre_hook(lambda module, args: joined.append(args[0]))
    x = normal(2, 1, 8, 8)
    network(x, normal(2), {})
    if pyramid:
        chain = x
        for k, (read, out) in zip((3, 6), images, strict=True):
            torch.testing.assert_close(read, chain)
            seen[k] = chain = (seen[k] + out) / sqrt(2)
    assert len(joined) == len(seen) == 9
    for h, skip in zip(joined, reversed(seen), strict=True):
        torch.testing.assert_close(h[:, -skip.shape[1] :], skip)


def test_weights_start_glorot_uniform_and_branches_at_zero():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SongUNet(3, channels=32, channel_mult=(1, 2), attention_levels=(1,), noise_channels=32, pyramid=True)
    for name, p in network.named_parameters():
        if name.endswith("bias") or "conv2.weight" in name or "proj.weight" in name or name == "last.2.weight":
            assert not p.any()
        elif p.ndim > 1:
            area = p[0, 0].numel()
            variance = 2 / (area * (p.shape[0] + p.shape[1])) * (0.2 if "qkv" in name else 1.0)
            assert p.var().item() == pytest.approx(variance, rel=0.15)
            assert p.abs().max().item() <= sqrt(3 * variance)


def test_dropout_is_for_training_only(small_song, normal):
    network, x, c_noise = small_song(dropout=0.5), normal(2, 1, 8, 8), normal(2)
    assert torch.equal(network(x, c_noise, {}), small_song(dropout=0.0)(x, c_noise, {}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network.train()
        assert not torch.equal(network(x, c_noise, {}), network(x, c_noise, {}))
