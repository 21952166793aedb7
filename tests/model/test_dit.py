from math import pi

import pytest
import torch
import torch.nn.functional as F

from oboro.base.errors import UserError
from oboro.condition import Label
from oboro.model.dit import Attention, Block, DiT, from_patches, to_patches
from oboro.model.position import grid_positions, rotary_angles, rotate


@pytest.fixture
def small_dit(randomise):
    """``small_dit(rotary=True)``: two blocks of 16 channels with random weights on patches of 2, in eval mode."""

    def make(in_channels: int = 1, **keywords) -> DiT:
        settings = {"patch": 2, "dim": 16, "depth": 2, "heads": 2, "reference_size": 8}
        with torch.random.fork_rng():
            network = DiT(in_channels, **{**settings, **keywords})
        return randomise(network).double().eval()

    return make


each_kind = pytest.mark.parametrize("rotary", [False, True], ids=["added", "rotary"])


# --- size


SIZES = [("dit_s4", 12, 384, 4), ("dit", 12, 384, 2), ("dit_b2", 12, 768, 2), ("dit_b4", 12, 768, 4)]
SIZES += [("dit_l2", 24, 1024, 2), ("dit_l4", 24, 1024, 4), ("dit_xl2", 28, 1152, 2)]
PUBLISHED = {"dit": 33e6, "dit_b2": 130e6, "dit_l2": 458e6, "dit_xl2": 675e6}  # arXiv:2212.09748, tables 1 and 4


@pytest.mark.parametrize(("name", "depth", "d", "patch"), SIZES)
def test_parameters_are_those_of_the_paper_with_a_learned_variance(count_parameters, name, depth, d, patch):
    """Without one p² C (d + 1) fewer. Latents have C = 4, ImageNet K = 1000."""
    c, k = 4, 1000
    block = (3 * d + 3) * d + (d + 1) * d + (d + 1) * 4 * d + (4 * d + 1) * d + (d + 1) * 6 * d
    ends = (c * patch**2 + 1) * d + (256 + 1) * d + (d + 1) * d + (k + 1) * d + (d + 1) * 2 * d
    ours = depth * block + ends + (d + 1) * c * patch**2
    assert count_parameters(name, c, k) == ours
    if name in PUBLISHED:
        theirs = count_parameters(name, c, k, "model.learned_variance=true")
        assert theirs == ours + (d + 1) * c * patch**2
        assert theirs == pytest.approx(PUBLISHED[name], abs=0.6e6)


def test_dit_tiny_costs_little(flop):
    assert flop("dit_tiny", 28) < 0.3e9


def test_heads_of_odd_widths_are_refused():
    for dim, heads in ((30, 4), (24, 4)):
        with pytest.raises(UserError, match=r"set model\.heads to a divisor of model\.dim / 4\.$"):
            DiT(1, dim=dim, heads=heads)


# --- layers


def test_patches_become_channels_and_back(normal):
    """On a plane as torch's pixel_unshuffle, on a line as consecutive numbers, in space and back."""
    x, line, space = normal(2, 3, 6, 4), normal(2, 3, 6), normal(2, 3, 4, 6, 2)
    assert torch.equal(to_patches(x, 2), F.pixel_unshuffle(x, 2))
    assert torch.equal(to_patches(line, 3), torch.stack([line[:, c, k::3] for c in range(3) for k in range(3)], 1))
    for sample in (x, line, space):
        assert torch.equal(from_patches(to_patches(sample, 2), 2), sample)
    corner = to_patches(space, 2)[:, :, 1, 2, 0].view(2, 3, 2, 2, 2)
    assert torch.equal(corner, space[:, :, 2:, 4:, :])


@each_kind
def test_attention_is_the_softmax_written_out(rotary, randomise, normal):
    """Head by head: proj(softmax(q kᵀ / sqrt(d)) v), q and k turned by their angle."""
    layer, h = randomise(Attention(12, 3)).double(), normal(2, 5, 12)
    angle = rotary_angles(normal(5, 2), 4) if rotary else None
    q, k, v = F.linear(h, layer.qkv.weight, layer.qkv.bias).split(12, 2)
    out = torch.zeros_like(h)
    for first in range(0, 12, 4):
        c = slice(first, first + 4)
        a, b = (rotate(q[..., c], angle), rotate(k[..., c], angle)) if rotary else (q[..., c], k[..., c])
        scores = torch.einsum("bic,bjc->bij", a, b) / 2
        out[..., c] = torch.einsum("bij,bjc->bic", scores.exp() / scores.exp().sum(2, keepdim=True), v[..., c])
    torch.testing.assert_close(layer(h, angle), F.linear(out, layer.proj.weight, layer.proj.bias))


def test_block_written_out(randomise, normal):
    block, h, embedding = randomise(Block(8, 2, 3)).double(), normal(2, 5, 8), normal(2, 8)
    silu = embedding / (1 + torch.exp(-embedding))
    shift1, scale1, gate1, shift2, scale2, gate2 = (silu @ block.modulation.weight.T + block.modulation.bias).split(
        8, 1
    )

    def norm(h):
        centred = h - h.mean(2, keepdim=True)
        return centred / (centred.square().mean(2, keepdim=True) + 1e-6).sqrt()

    def gelu(x):
        return 0.5 * x * (1 + torch.tanh((2 / pi) ** 0.5 * (x + 0.044715 * x**3)))

    middle = h + gate1[:, None] * block.attention(norm(h) * (1 + scale1[:, None]) + shift1[:, None])
    second = norm(middle) * (1 + scale2[:, None]) + shift2[:, None]
    up, _, down = block.mlp
    expected = middle + gate2[:, None] * (gelu(second @ up.weight.T + up.bias) @ down.weight.T + down.bias)
    torch.testing.assert_close(block(h, embedding), expected)


def test_blocks_start_as_the_identity(normal):
    h = normal(2, 5, 8)
    for block in DiT(1, dim=8, depth=2, heads=2).double().blocks:
        assert torch.equal(block(h, normal(2, 8)), h)


def test_other_weights_start_as_those_of_vision_transformers():
    """Glorot: variance 2 / (fan in + fan out); the embeddings 0.02²; no biases."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = DiT(4, dim=128, depth=1, heads=2, num_classes=50)
    assert not any(p.any() for name, p in network.named_parameters() if name.endswith("bias"))
    mlp, attention = network.blocks[0].mlp, network.blocks[0].attention
    for layer in (network.first, mlp[0], mlp[2], attention.qkv, attention.proj):
        assert layer.weight.var().item() == pytest.approx(2 / sum(layer.weight.shape), rel=0.1)
    for layer in (network.noise.mlp[0], network.noise.mlp[2], network.label.table):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)


# --- tokens and places


@each_kind
def test_permuting_tokens_with_their_places_permutes_the_answer(small_dit, normal, rotary):
    network, h, positions, embedding = small_dit(rotary=rotary), normal(2, 9, 16), 5 * normal(9, 2), normal(2, 16)
    order = torch.tensor([4, 0, 8, 2, 1, 7, 3, 6, 5])
    out = network.core(h, positions, embedding)
    torch.testing.assert_close(network.core(h[:, order], positions[order], embedding), out[:, order])
    assert not torch.isclose(network.core(h[:, order], positions, embedding), out[:, order]).all(2).any()


def test_rotary_networks_do_not_notice_that_all_tokens_move(small_dit, normal):
    h, positions, embedding = normal(2, 9, 16), 5 * normal(9, 2), normal(2, 16)
    moved = positions + torch.tensor([3.0, -7.0])
    network = small_dit(rotary=True)
    torch.testing.assert_close(network.core(h, moved, embedding), network.core(h, positions, embedding))
    network = small_dit(rotary=False)
    assert not torch.isclose(network.core(h, moved, embedding), network.core(h, positions, embedding)).all(2).any()


@each_kind
@pytest.mark.parametrize("patch", [2, 4])
def test_patches_become_tokens_row_by_row(small_dit, normal, rotary, patch):
    """Cutting the image up and putting it together is F.unfold and F.fold, and nothing is filled up."""
    network, x, c_noise = small_dit(3, patch=patch, rotary=rotary), normal(2, 3, 8, 12), normal(2)
    tokens = F.unfold(x, patch, stride=patch).transpose(1, 2)
    positions = grid_positions((8 // patch, 12 // patch), 8 / patch)
    h = network.core(network.first(tokens), positions, network.noise(c_noise))
    expected = F.fold(network.last(h).transpose(1, 2), (8, 12), patch, stride=patch)
    torch.testing.assert_close(network(x, c_noise, {}), expected)


@each_kind
@pytest.mark.parametrize("size", [(7, 5), (1, 1), (9, 12), (28, 3)])
def test_other_sizes_are_filled_up_with_zeros_and_cut_off(small_dit, normal, rotary, size):
    network, x, c_noise = small_dit(patch=4, rotary=rotary), normal(2, 1, *size), normal(2)
    full = torch.zeros(2, 1, *(-(-side // 4) * 4 for side in size), dtype=torch.float64)
    full[..., : size[0], : size[1]] = x
    expected = network(full, c_noise, {})[..., : size[0], : size[1]]
    torch.testing.assert_close(network(x, c_noise, {}), expected)


def test_places_are_scaled_to_the_reference(small_dit, normal):
    """The places of a 16×24 image lie in the stretch that 8 pixels of the reference cover."""
    network, seen = small_dit(reference_size=8), []
    core = network.core
    network.core = lambda h, positions, *told: seen.append(positions) or core(h, positions, *told)
    network(normal(1, 1, 16, 24), normal(1), {})
    assert torch.equal(seen[0], grid_positions((8, 12), 4.0))


def test_it_computes_what_diffusers_computes(small_dit, normal):
    """Same weights, same conditioning vector: DiTTransformer2DModel; its noise embedding is another one."""
    diffusers = pytest.importorskip("diffusers")
    network = small_dit(4, num_classes=3)
    with torch.random.fork_rng():
        theirs = diffusers.DiTTransformer2DModel(
            2, 8, 4, num_layers=2, sample_size=8, num_embeds_ada_norm=3, norm_eps=1e-6
        )
    theirs = theirs.eval().requires_grad_(False)
    projection = theirs.pos_embed.proj
    pairs = [(theirs.proj_out_1, network.modulation)]
    for a, b in zip(theirs.transformer_blocks, network.blocks, strict=True):
        pairs += [(a.attn1.to_out[0], b.attention.proj), (a.norm1.linear, b.modulation)]
        pairs += [(a.ff.net[0].proj, b.mlp[0]), (a.ff.net[2], b.mlp[2])]
        for i, layer in enumerate((a.attn1.to_q, a.attn1.to_k, a.attn1.to_v)):
            layer.weight.copy_(b.attention.qkv.weight[16 * i : 16 * i + 16])
            layer.bias.copy_(b.attention.qkv.bias[16 * i : 16 * i + 16])
    for a, b in pairs:
        a.load_state_dict(b.state_dict())
    projection.weight.copy_(network.first.weight.view_as(projection.weight))
    projection.bias.copy_(network.first.bias)
    theirs.proj_out_2.weight.copy_(network.last.weight.view(4, 4, 16).transpose(0, 1).flatten(0, 1))  # (C, p²) there
    theirs.proj_out_2.bias.copy_(network.last.bias.view(4, 4).T.flatten())
    x, c_noise, label = normal(3, 4, 8, 8).float(), normal(3).float(), torch.tensor([0, 2, 1])
    network = network.float()
    embedding = network.noise(c_noise) + network.label(label)
    for block in theirs.transformer_blocks:
        block.norm1.emb.register_forward_hook(lambda module, args, out: embedding)
    expected = theirs(x, torch.zeros(3, dtype=torch.int64), label).sample
    torch.testing.assert_close(network(x, c_noise, {"label": Label(label)}), expected, atol=1e-5, rtol=0)
