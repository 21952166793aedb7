"""Attention maps of one walk in another, in every network that attends."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from oboro.base.errors import UserError
from oboro.base.seeding import SampleNoise
from oboro.condition import Condition, Text
from oboro.denoiser import Denoiser
from oboro.edit import Inversion, Model, Pictures, PromptToPrompt
from oboro.edit.attention import Attention, Controlled
from oboro.edit.prompt_to_prompt import WORDS, attended
from oboro.edit.words import Correspondence, check_weights, correspondence, factors, read_words
from oboro.generate import walk
from oboro.guidance import ClassifierFree, Unguided
from oboro.model import DiT, LDMUNet, UNet
from oboro.model.ldm_unet import Attention as LDMSeen
from oboro.model.ldm_unet import EmptyText, GroupNormSettings, LDMAttention, StepIndex
from oboro.model.text import CrossAttention
from oboro.model.tokenizer import Tokenizer
from oboro.parameterization import EDM
from oboro.sampler import DDIM, Adaptive, DPMSolverPP, Heun, LearnedVariance
from oboro.schedule import DDPM, Cosine

LEVELS = {"channels": 8, "channel_mult": (1, 2), "blocks": 1, "attention_levels": (1,), "head_channels": 8}
LDM = {"widths": (8, 16), "blocks": 1, "attention": LDMAttention((1,), (2, 2)), "empty_text": EmptyText(4, 6)}
NETWORKS = {
    "unet": lambda **k: UNet(1, **LEVELS, text_dim=6, pooled_dim=6, **k),
    "dit": lambda **k: DiT(1, dim=16, depth=2, heads=2, text_dim=6, pooled_dim=6, **k),
    "ldm_unet": lambda **k: LDMUNet(1, StepIndex(DDPM()), **LDM, text_dim=6, norm=GroupNormSettings(4), **k),
}
IDS = [2, 5]


@pytest.fixture
def denoiser(request, randomise):
    def make(name: str, **settings) -> Denoiser:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = randomise(NETWORKS[name](**settings)).float().eval()
        return Denoiser(network, Cosine(), EDM()).requires_grad_(False)

    return make


def text(seed: int, n: int = 2, length: int = 5) -> Condition:
    g = torch.Generator().manual_seed(seed)
    tokens, pooled = torch.randn(n, length, 6, generator=g), torch.randn(n, 6, generator=g)
    mask = torch.arange(length).expand(n, -1) < torch.tensor([[4], [3]])[:n]
    return Condition.of(text=Text(tokens, mask, pooled))


def pictures(source: int, target: int, shares=None, factor=None, drawn=True) -> Pictures:
    shares = torch.eye(5).repeat(2, 1, 1) if shares is None else shares
    words = Correspondence(shares, torch.ones(2, 5) if factor is None else factor)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(9)) / 2
    first = text(source)
    second = replace(first if source == target else text(target), sampling={WORDS: words})
    return Pictures(x, first, second, IDS, 0, drawn=drawn)


def plain(model: Model, cond: Condition) -> torch.Tensor:
    return walk(
        *(model.denoiser, model.guidance, model.sampler),
        ids=IDS,
        seed=0,
        cond=cond,
        latent_shape=(1, 8, 8),
        device=torch.device("cpu"),
    )


each_network = pytest.mark.parametrize("name", NETWORKS)


@each_network
def test_attention_is_seen_where_it_is_and_left_as_it_was(denoiser, name):
    seen, d = [], denoiser(name)
    x, t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.full((2,), 0.5)

    def control(attention: Attention) -> torch.Tensor:
        seen.append(attention)
        return attention.answer()

    with Controlled(control):
        made = d(x, t, text(0))
    assert torch.equal(made, d(x, t, text(0)))
    layers = [m for m in d.modules() if isinstance(m, CrossAttention | LDMSeen)]
    across = [m for m in layers if m.key_value.in_features == 6]
    assert sum(a.crosses for a in seen) == len(across) > 0 and any(not a.crosses for a in seen)
    for a in seen:
        assert torch.allclose(a.map() @ a.v, a.answer(), atol=1e-5)


@each_network
def test_without_injection_it_is_the_plain_sample_of_the_target(denoiser, name):
    for guidance in (Unguided(), ClassifierFree(3.0)):
        model, p = Model(denoiser(name), guidance, DDIM(4)), pictures(0, 1)
        made = PromptToPrompt(cross_steps=0, self_steps=0)(model, p)
        assert (made - plain(model, p.target)).abs().max() < 1e-5
        assert (made - plain(model, p.source)).abs().max() > 1e-2


@each_network
def test_with_equal_prompts_it_is_the_plain_sample(denoiser, name):
    for sampler, settings in ((Heun(3), {}), (DPMSolverPP(4), {}), (LearnedVariance(4), {"learned_variance": True})):
        model, p = Model(denoiser(name, **settings), ClassifierFree(2.0), sampler), pictures(0, 0)
        made = PromptToPrompt(cross_steps=1, self_steps=1)(model, p)
        assert (made - plain(model, p.source)).abs().max() < 1e-4


@each_network
def test_injection_is_of_the_first_share_of_the_steps(denoiser, name):
    """One more step changes the sample; in one step it is the target with all maps of the source, computed apart."""
    model, p = Model(denoiser(name), Unguided(), DDIM(4)), pictures(0, 1)
    made = [PromptToPrompt(cross_steps=k / 4, self_steps=0)(model, p) for k in range(5)]
    assert all((a - b).abs().max() > 1e-5 for a, b in pairwise(made))
    among = [PromptToPrompt(cross_steps=0, self_steps=k / 4)(model, p) for k in range(5)]
    assert all((a - b).abs().max() > 1e-5 for a, b in pairwise(among))
    assert torch.equal(made[0], among[0])
    model, kept = Model(model.denoiser, Unguided(), DDIM(1)), []
    x = Cosine().prior(SampleNoise(0, IDS)(p.x))
    t = torch.ones(2)

    def record(a: Attention) -> torch.Tensor:
        kept.append(a)
        return a.answer()

    with Controlled(record):
        model.denoiser(x, t, p.source)
    maps = iter(a.map() for a in kept)
    with Controlled(lambda a: next(maps) @ a.v):
        wanted = model.denoiser(x, t, p.target)
    made = PromptToPrompt(cross_steps=1, self_steps=1)(model, p)
    assert torch.allclose(made, wanted, atol=1e-4)


def test_a_photograph_comes_back_under_its_own_text(denoiser):
    for name in NETWORKS:
        model, p = Model(denoiser(name), Unguided(), DDIM(6)), pictures(0, 0, drawn=False)
        made = PromptToPrompt(cross_steps=1, self_steps=1, strength=0.5)(model, p)
        wanted = Inversion(strength=0.5)(model, p)
        assert (made - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_attention_to_words_is_taken_shared_and_weighted():
    """Token by token, after the formulas."""
    g = torch.Generator().manual_seed(0)
    own, other = (Attention(*torch.randn(3, 1, 2, 4, 3, generator=g).unbind(0)) for _ in range(2))
    shares = torch.tensor([[[1.0, 0, 0], [0, 0.5, 0.5], [0, 0, 0]]])  # of 3 tokens; the network has filled up to 4
    factor = torch.tensor([[1.0, 3.0, 1.0]])
    m, s = own.map(), other.map()
    assert torch.allclose(m, ((own.q @ own.k.mT) / 3**0.5).softmax(-1))
    columns = [s[..., 0], 3 * 0.5 * s[..., 1], 0.5 * s[..., 1], s[..., 3]]
    words = Correspondence(shares, factor)
    assert torch.allclose(attended(own, other, words), torch.stack(columns, -1) @ own.v, atol=1e-6)
    weighted = m * torch.tensor([1.0, 3.0, 1.0, 1.0])
    assert torch.allclose(attended(own, None, words), weighted @ own.v, atol=1e-6)
    no_second = Correspondence(shares * torch.tensor([1.0, 0, 1.0])[None, :, None], torch.ones(1, 3))
    columns = [s[..., 0], m[..., 1], m[..., 2], s[..., 3]]
    assert torch.allclose(attended(own, other, no_second), torch.stack(columns, -1) @ own.v, atol=1e-6)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(400, 12)
    tokenizer.fit(["a red bag", "a blue bag", "a sneaker", "the ankle boot", "red shoes"] * 3)
    return tokenizer


def pairs(tokenizer: Tokenizer, source: str, target: str, swap: bool = True) -> list[tuple[str, str, float]]:
    """(piece of the source, piece of the target, share) of all that corresponds but marks."""
    spans = tokenizer.spans([source, target])
    words = [read_words(text, row) for text, row in zip((source, target), spans, strict=True)]
    made = correspondence(*words, swap)
    return [
        (source.lower()[slice(*spans[0][i])].strip(), target.lower()[slice(*spans[1][j])].strip(), made[i, j].item())
        for i, j in made.nonzero().tolist()
        if spans[0][i] != (0, 0)
    ]


def test_words_that_two_texts_share_correspond(tokenizer):
    assert pairs(tokenizer, "a red bag", "a Blue bag") == [("a", "a", 1), ("red", "blue", 1), ("bag", "bag", 1)]
    assert pairs(tokenizer, "a red bag", "a blue bag", swap=False) == [("a", "a", 1), ("bag", "bag", 1)]
    assert pairs(tokenizer, "a bag", "a red bag") == [("a", "a", 1), ("bag", "bag", 1)]
    assert pairs(tokenizer, "a red bag", "a bag") == [("a", "a", 1), ("bag", "bag", 1)]
    swapped = pairs(tokenizer, "a bag", "a zq")  # of two tokens
    assert swapped == [("a", "a", 1), ("bag", "z", 0.5), ("bag", "q", 0.5)]
    assert pairs(tokenizer, "", "a bag") == []
    long = "a red bag " * 3 + "zq"  # whose end is not read, on either side
    assert ("bag", "bag", 1) in pairs(tokenizer, long, long) and pairs(tokenizer, "zq", long) == []
    assert pairs(tokenizer, long, "zq") == []


def test_start_end_and_padding_correspond_in_their_order(tokenizer):
    spans = tokenizer.spans(["a bag", "a red bag"])
    source, target = (read_words(t, row) for t, row in zip(("a bag", "a red bag"), spans, strict=True))
    assert source.of_token[:4] == (-1, 0, 1, -1) and target.of_token[:5] == (-1, 0, 1, 2, -1)
    made = correspondence(source, target, True)
    assert made[0, 0] == made[3, 4] == made[4, 5] == 1 and made[:, 2].sum() == 0


def test_weights_are_of_words(tokenizer):
    row = read_words("a red, red bag", tokenizer.spans(["a red, red bag"])[0])
    factor = factors(row, {"red": 3.0})
    assert row.words == ("a", "red", ",", "red", "bag")
    assert factor.tolist() == [3.0 if word in (1, 3) else 1.0 for word in row.of_token]
    with pytest.raises(UserError, match=r"edit\.weights names green"):
        check_weights({"green": 2.0}, [row])


def test_what_a_network_has_not_is_refused(denoiser):
    """Labels alone: no attention to a text; a network without any."""
    plain_unet = UNet(1, **LEVELS, num_classes=3)
    d = Denoiser(plain_unet.eval(), Cosine(), EDM())
    model = Model(d, Unguided(), DDIM(2))
    p = replace(pictures(0, 1), source=Condition(), target=replace(pictures(0, 1).target, signals={}))
    with pytest.raises(UserError, match="attends to a text"):
        PromptToPrompt()(model, p)
    bare = Denoiser(torch.nn.Conv2d(1, 1, 3, padding=1), Cosine(), EDM())
    bare.network.forward = lambda x, c_noise, signals: x
    with pytest.raises(UserError, match=r"edit\.self_steps=0"):
        PromptToPrompt()(Model(bare, Unguided(), DDIM(2)), replace(p, target=Condition()))
    with pytest.raises(UserError, match="sampler=ddim"):
        PromptToPrompt().check(Model(d, Unguided(), Adaptive()), True)
    with pytest.raises(UserError, match=r"edit\.cross_steps=0"):
        PromptToPrompt().check(Model(d, Unguided(), DDIM(3)), True)
    among, stochastic = PromptToPrompt(cross_steps=0), Model(d, Unguided(), DDIM(3, eta=1))
    with pytest.raises(UserError, match="cannot be taken back"):
        among.check(stochastic, False)
    among.check(stochastic, True)
