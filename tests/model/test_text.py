"""Laws of networks that read a text."""

from dataclasses import replace

import pytest
import torch

from oboro.condition import Condition, Text
from oboro.denoiser import Denoiser
from oboro.guidance import CFGPP, CFGZeroStar, ClassifierFree
from oboro.model import DiT, UNet
from oboro.model.text import TextEmbedding
from oboro.parameterization import Velocity
from oboro.sampler import DDIM
from oboro.schedule import Linear

TEXT = {"text_dim": 6, "pooled_dim": 5}
NETWORKS = {
    "unet": (UNet, {"channels": 8, "channel_mult": (1, 2), "blocks": 1, "attention_levels": (1,), "head_channels": 8}),
    "dit": (DiT, {"patch": 2, "dim": 16, "depth": 2, "heads": 2, "reference_size": 8}),
}


@pytest.fixture(params=NETWORKS)
def network(request, randomise):
    cls, settings = NETWORKS[request.param]
    with torch.random.fork_rng():  # drawn by torch's layers
        torch.manual_seed(0)
        return randomise(cls(1, **settings, **TEXT).double().eval())


@pytest.fixture
def question(normal):
    """x, c_noise and a text of 3, 4 and no tokens for a batch of three."""
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.bool)
    cond = {"text": Text(normal(3, 4, 6), mask, normal(3, 5))}
    return normal(3, 1, 8, 8), torch.tensor([-1.0, 0.0, 1.2], dtype=torch.float64), cond


def test_tokens_past_the_end_are_not_read(network, question):
    x, c_noise, cond = question
    tokens = cond["text"].tokens.clone()
    tokens[0, 3] += 7
    changed = {"text": replace(cond["text"], tokens=tokens)}
    torch.testing.assert_close(network(x, c_noise, cond), network(x, c_noise, changed))


@pytest.mark.parametrize("key", ["tokens", "pooled"])
def test_what_a_text_says_is_read(network, question, key):
    x, c_noise, cond = question
    changed = {"text": replace(cond["text"], **{key: getattr(cond["text"], key).flip(-1)})}
    difference = (network(x, c_noise, cond) - network(x, c_noise, changed)).abs().amax((1, 2, 3))
    assert difference[:2].min() > 1e-4 and difference[2] == 0


def test_a_dropped_text_is_a_missing_one(network, question):
    """Training with masks of False alone teaches what guidance asks with an empty condition."""
    x, c_noise, cond = question
    torch.testing.assert_close(network(x, c_noise, cond)[2:], network(x, c_noise, {})[2:])
    dropped = {"text": cond["text"].drop(torch.ones(3, dtype=torch.bool))}
    torch.testing.assert_close(network(x, c_noise, dropped), network(x, c_noise, {}))


def test_padding_a_text_changes_nothing(network, question, normal):
    x, c_noise, cond = question
    text = cond["text"]
    tokens, mask = torch.cat([text.tokens, normal(3, 2, 6)], 1), torch.nn.functional.pad(text.mask, (0, 2))
    longer = {"text": Text(tokens, mask, text.pooled)}
    torch.testing.assert_close(network(x, c_noise, cond), network(x, c_noise, longer))


def test_every_parameter_takes_part(network, question, normal):
    x, c_noise, cond = question
    (network(x, c_noise, cond) * normal(3, 1, 8, 8)).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_attention_to_a_text_is_a_softmax_over_its_tokens(randomise, normal):
    """Against the formula, token by token."""
    with torch.random.fork_rng():
        module = randomise(NETWORKS["dit"][0](1, **NETWORKS["dit"][1], **TEXT).double()).blocks[0].cross
    h, text, mask = normal(2, 3, 16), normal(2, 4, 6), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    q, (k, v) = module.query(h), module.key_value(text).chunk(2, -1)
    heads = []
    for j in range(2):
        part = slice(8 * j, 8 * j + 8)
        scores = q[..., part] @ k[..., part].mT / 8**0.5
        weights = scores.exp() * mask[:, None]
        heads.append(weights / weights.sum(-1, keepdim=True) @ v[..., part])
    torch.testing.assert_close(module(h, text, mask), module.proj(torch.cat(heads, -1)))


def test_without_a_pooled_vector_a_text_adds_nothing_to_the_noise_level(normal):
    embedding = TextEmbedding(6, 0, 3).double()
    torch.nn.init.normal_(embedding.no_pooled, generator=torch.Generator().manual_seed(0))
    text = Text(normal(2, 4, 6), torch.tensor([[True] * 4, [False] * 4]), normal(2, 0))
    _, _, whole = embedding(text, 2)
    assert not whole[0].any() and torch.equal(whole[1], embedding.no_pooled)


@pytest.mark.parametrize(
    "guidance", [ClassifierFree(3.0), CFGPP(0.7), CFGZeroStar(2.0, 0)], ids=lambda g: type(g).__name__
)
def test_a_negative_text_takes_the_place_of_no_text(network, question, normal, guidance):
    """Where the negative text is that of the empty condition, nothing changes; where it is another one, much does."""
    x, _, signals = question
    cond, text = Condition(signals), signals["text"]
    denoiser = Denoiser(network, Linear(), Velocity())
    grid = DDIM(4).nodes(denoiser.schedule)
    t = torch.full((3,), grid[1].t, dtype=torch.float64)
    plain = guidance(denoiser, grid)(x, t, cond)
    nothing = replace(cond, away={"text": text.drop(torch.ones(3, dtype=torch.bool))})
    torch.testing.assert_close(guidance(denoiser, grid)(x, t, nothing), plain)
    other = replace(cond, away={"text": Text(text.tokens.flip(-1), text.mask, text.pooled.flip(-1))})
    assert (guidance(denoiser, grid)(x, t, other) - plain).abs().amax((1, 2, 3))[:2].min() > 1e-4


def test_away_from_itself_is_nowhere(network, question):
    """With the condition itself as the negative one, guidance of any scale is the conditional model."""
    x, _, signals = question
    cond = Condition(signals, away=signals)
    denoiser = Denoiser(network, Linear(), Velocity())
    t = torch.full((3,), 0.5, dtype=torch.float64)
    guided = ClassifierFree(5.0)(denoiser, [])(x, t, cond)
    torch.testing.assert_close(guided, denoiser(x, t, cond))
