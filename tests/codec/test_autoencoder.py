import pytest
import torch
from diffusers import AutoencoderKL
from torch.distributions import Normal, kl_divergence

from oboro.base.errors import UserError
from oboro.codec import Autoencoder, TinyAutoencoder
from oboro.codec.autoencoder import kl


@pytest.fixture
def codec():
    """f = 4, random in all its weights, with statistics that are neither 0 nor 1."""
    torch.manual_seed(0)
    codec = Autoencoder(1, 3, width=8, channel_mult=(1, 2, 2), blocks=1, attention=True).double()
    with torch.no_grad():
        for p in codec.parameters():
            p.normal_(std=p[0].numel() ** -0.5 if p.ndim > 1 else 0.5)
    codec.standardise(torch.tensor([0.5, -2.0, 3.0]), torch.tensor([2.0, 0.1, 0.0]))
    return codec.requires_grad_(False)


@pytest.fixture
def x():
    return torch.randn(4, 1, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


def test_the_divergence_is_that_of_the_distributions(x):
    mean, log_variance = 3 * x, 2 * x.flip(0) - 1
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros_like(x), 1.0))
    torch.testing.assert_close(kl(mean, log_variance), expected.flatten(1).sum(1))


def test_the_divergence_of_half_precision_is_summed_in_single():
    mean = torch.full((1, 1, 100, 100), 0.1).bfloat16()
    assert kl(mean, 0 * mean).dtype == torch.float32
    assert kl(mean, 0 * mean).item() == pytest.approx(1e4 * float(mean[0, 0, 0, 0]) ** 2 / 2, rel=1e-5)


def test_the_divergence_costs_its_share_of_a_sum_over_pixels(codec, x):
    made = codec.reconstruct(x, torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.penalty * 8 * 12 / 1e-6, kl(*codec.posterior(x)))
    assert made.numbers["kl"] == kl(*codec.posterior(x)).mean()
    assert codec.summary(codec.observe(x)) == {"kl": pytest.approx(made.numbers["kl"].item())}


def test_training_decodes_a_draw_of_the_posterior(codec, x):
    """Mean and variance of what the decoder sees, over many draws."""
    seen, x, codec.decoder = [], x[:1], torch.nn.Identity()
    codec.from_latent.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        codec.reconstruct(x.repeat(100, 1, 1, 1), g)
    draws = torch.cat(seen)
    mean, log_variance = (a[0] for a in codec.posterior(x))
    z = (draws.mean(0) - mean) / (log_variance / 2).exp() * len(draws) ** 0.5
    assert len(draws) == 2000 and z.abs().max() < 4.5
    torch.testing.assert_close(draws.var(0).log(), log_variance, atol=0.15, rtol=0)


def test_the_log_variance_keeps_its_bounds(codec, x):
    codec.to_posterior.weight *= 1e4
    _, log_variance = codec.posterior(x)
    assert (log_variance.min(), log_variance.max()) == (-30, 20)


def test_encode_standardises_the_mean_and_decode_undoes_it(codec, x):
    z, mean = codec.encode(x), codec.posterior(x)[0]
    torch.testing.assert_close(z[:, 0], (mean[:, 0] - 0.5) / 2)
    torch.testing.assert_close(z[:, 1], (mean[:, 1] + 2) / 0.1)
    torch.testing.assert_close(z[:, 2], mean[:, 2] - 3)  # a channel that never changed is only shifted
    torch.testing.assert_close(codec.decode(z), codec.image(mean))
    assert torch.equal(codec.encode(x), z)


def test_a_size_that_leaves_a_rest_ends_in_the_nearest_ones(codec):
    assert codec.latent_shape((1, 28, 36)) == (3, 7, 9)
    with pytest.raises(UserError, match=r"\[28,36\] or data.resolution=\[32,36\]"):
        codec.latent_shape((1, 30, 36))


# --- parity


def renamed(weights):
    """Weights of diffusers' ``AutoencoderKL`` under the names of ``Autoencoder``."""
    levels = 1 + max(int(k.split(".")[2]) for k in weights if "down_blocks" in k)
    blocks = {
        "encoder": 1 + max(int(k.split(".")[4]) for k in weights if "down_blocks" in k and "resnets" in k),
        "decoder": 1 + max(int(k.split(".")[4]) for k in weights if "up_blocks" in k and "resnets" in k),
    }
    plain = {"quant_conv": "to_posterior", "post_quant_conv": "from_latent"}
    new = {}
    for key, weight in weights.items():
        part, *rest = key.split(".")
        match rest:
            case [what] if part in plain:
                name = f"{plain[part]}.{what}"
            case [("conv_in" | "conv_out") as layer, what]:
                name = f"{part}.{layer}.{what}"
            case ["conv_norm_out", what]:
                name = f"{part}.norm.{what}"
            case ["mid_block", "resnets", k, layer, what]:
                name = f"{part}.middle.{2 * int(k)}.{layer}.{what}"
            case ["mid_block", "attentions", "0", "group_norm", what]:
                name = f"{part}.middle.1.norm.{what}"
            case ["mid_block", "attentions", "0", "to_out", "0", what]:
                name, weight = f"{part}.middle.1.proj.{what}", weight[..., None, None] if weight.ndim > 1 else weight
            case ["mid_block", "attentions", "0", "to_q", what]:
                prefix = key.removesuffix(f"to_q.{what}")
                weight = torch.cat([weights[f"{prefix}to_{a}.{what}"] for a in "qkv"])
                name, weight = f"{part}.middle.1.qkv.{what}", weight[..., None, None] if weight.ndim > 1 else weight
            case ["mid_block", "attentions", "0", "to_k" | "to_v", _]:
                continue
            case [_, level, "resnets", k, layer, what]:
                name = f"{part}.levels.{level}.{k}.{'skip' if layer == 'conv_shortcut' else layer}.{what}"
            case [_, level, "downsamplers" | "upsamplers", "0", "conv", what]:
                assert int(level) < levels - 1
                name = f"{part}.levels.{level}.{blocks[part]}.1.{what}"
        new[name] = weight
    return new


def test_it_is_the_autoencoder_of_diffusers():
    """Weights of the one, renamed, in the other: equal posteriors and images."""
    torch.manual_seed(0)
    theirs = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=2,
        norm_num_groups=8,
    ).double()
    ours = Autoencoder(3, 4, width=32, channel_mult=(1, 2, 2), blocks=2).double()
    for module in ours.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = 8  # at the published widths both have 32
    missing, unknown = ours.load_state_dict(renamed(theirs.state_dict()), strict=False)
    assert missing == ["latent_mean", "latent_std"] and unknown == []
    x = torch.rand(2, 3, 16, 24, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        expected, (mean, log_variance) = theirs.encode(x).latent_dist, ours.posterior(x)
        torch.testing.assert_close(mean, expected.mean)
        torch.testing.assert_close(log_variance, expected.logvar)
        torch.testing.assert_close(ours.decode(mean), theirs.decode(expected.mean).sample)


def test_the_published_widths_have_32_groups():
    with torch.device("meta"):
        published = Autoencoder(3, 4)
    groups = {m.num_groups for m in published.modules() if isinstance(m, torch.nn.GroupNorm)}
    assert groups == {32} and sum(p.numel() for p in published.parameters()) == 83_653_863  # Stable Diffusion's


def test_images_of_other_channels_are_refused_before_a_convolution_meets_them():
    with pytest.raises(UserError, match=r"for images of 1 channel and these have 3; set data.channels=1"):
        TinyAutoencoder(in_channels=1, channels=4, width=8, blocks=(1, 1)).latent_shape((3, 16, 16))
