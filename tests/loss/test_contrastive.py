"""Contrastive losses against their formulas, and over two processes against one."""

from math import log

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from oboro.base import distributed
from oboro.loss import Contrastive, SigLIP

DISTINCT, REPEATED = torch.arange(8), torch.tensor([0, 1, 0, 2, 1, 0, 3, 4])
LOSSES = [Contrastive(), Contrastive(equal_captions=False), SigLIP(), SigLIP(equal_captions=False)]
SCALE, BIAS = torch.tensor(7.0).double(), torch.tensor(-3.0).double()


def captions(keys):
    """Rows of tokens that are equal where ``keys`` are; they differ in their last token alone."""
    return torch.stack([torch.full_like(keys, 5), keys], 1)


@pytest.fixture
def pairs(normal):
    return F.normalize(normal(8, 6)), F.normalize(normal(8, 6))


def test_infonce_is_cross_entropy_with_the_diagonal_both_ways(pairs):
    image, text = pairs
    logits = SCALE * image @ text.T
    expected = (F.cross_entropy(logits, DISTINCT) + F.cross_entropy(logits.T, DISTINCT)) / 2
    for loss in LOSSES[:2]:
        found = loss(image, text, captions(DISTINCT), SCALE, None)
        torch.testing.assert_close(found.mean(), expected, rtol=1e-12, atol=0)
    alone = F.cross_entropy(logits[3:4], DISTINCT[3:4]) + F.cross_entropy(logits.T[3:4], DISTINCT[3:4])
    torch.testing.assert_close(found[3], alone / 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(Contrastive()(image, text, captions(DISTINCT), SCALE, BIAS), found)  # no bias is seen


def test_siglip_is_a_logistic_regression_of_every_pair(pairs):
    image, text = pairs
    logits = SCALE * image @ text.T + BIAS
    for loss in LOSSES[2:]:
        found = loss(image, text, captions(DISTINCT), SCALE, BIAS)
        expected = F.binary_cross_entropy_with_logits(logits, torch.eye(8).double(), reduction="none").sum(1)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_pairs_of_equal_captions_are_positive_in_equal_shares(pairs):
    image, text = pairs
    same = (REPEATED[:, None] == REPEATED).double()
    logits = SCALE * image @ text.T
    target = same / same.sum(1, keepdim=True)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    found = Contrastive()(image, text, captions(REPEATED), SCALE, None)
    torch.testing.assert_close(found.mean(), expected, rtol=1e-12, atol=0)
    pairwise = F.binary_cross_entropy_with_logits(logits + BIAS, same, reduction="none").sum(1)
    torch.testing.assert_close(SigLIP()(image, text, captions(REPEATED), SCALE, BIAS), pairwise, rtol=1e-12, atol=0)


def test_without_equal_captions_only_the_own_pair_is_positive(pairs):
    for loss in (LOSSES[1], LOSSES[3]):
        found, expected = (loss(*pairs, captions(keys), SCALE, BIAS) for keys in (REPEATED, DISTINCT))
        assert torch.equal(found, expected)


def test_the_best_embeddings_have_the_least_loss():
    """One direction for each caption: log m of m equal captions, and nothing where the pairwise logits are sure."""
    vectors, scale = torch.eye(8).double()[REPEATED], torch.tensor(200.0).double()
    m = (REPEATED[:, None] == REPEATED).sum(1)
    assert Contrastive()(vectors, vectors, captions(REPEATED), scale, None).tolist() == pytest.approx(m.log().tolist())
    assert SigLIP()(vectors, vectors, captions(REPEATED), scale, torch.tensor(-100.0)).abs().max() < 1e-40


def test_a_softmax_that_knows_nothing_has_the_loss_of_chance(normal):
    same = F.normalize(normal(1, 6)).expand(8, 6)
    found = Contrastive()(same, same, captions(REPEATED), SCALE, None)
    assert found.tolist() == pytest.approx([log(8)] * 8)


# --- two processes


class Towers(nn.Module):
    """Two linear towers, a scale and a bias, all learned."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(3)
        self.image, self.text = (nn.Parameter(torch.randn(5, 6, generator=g).double()) for _ in range(2))
        self.log_scale, self.bias = (nn.Parameter(torch.tensor(v).double()) for v in (1.5, -2.0))

    def forward(self, loss, x, y, keys):
        image, text = F.normalize(x @ self.image), F.normalize(y @ self.text)
        return loss(image, text, captions(keys), self.log_scale.exp(), self.bias)


def batch():
    g = torch.Generator().manual_seed(4)
    return *(torch.randn(8, 5, generator=g).double() for _ in range(2)), REPEATED


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters()}


def on_two_ranks(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    x, y, keys = (part[4 * rank : 4 * rank + 4] for part in batch())
    found = []
    for loss in LOSSES:
        towers = Towers()
        each = towers(loss, x, y, keys)
        each.mean().backward()
        for p in towers.parameters():  # as DDP does, whose import takes longer than this
            dist.all_reduce(p.grad)
            p.grad /= 2
        found.append((each.detach(), gradients(towers)))
    found.append(distributed.gather_with_gradients(torch.arange(3) + 10 * rank))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(on_two_ranks, (folder,), 2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("k", range(len(LOSSES)))
def test_two_ranks_are_one_of_twice_the_batch(ranks, k):
    """The same losses, and on average the same gradients of every parameter."""
    towers = Towers()
    each = towers(LOSSES[k], *batch())
    each.mean().backward()
    torch.testing.assert_close(torch.cat([rank[k][0] for rank in ranks]), each.detach(), rtol=1e-12, atol=1e-12)
    for rank in ranks:
        for name, expected in gradients(towers).items():
            torch.testing.assert_close(rank[k][1][name], expected, rtol=1e-10, atol=1e-12)
    assert expected.abs() > 1e-3 or not LOSSES[k].needs_bias  # the last is the bias


@pytest.mark.slow
def test_rows_of_all_ranks_come_in_the_order_of_the_ranks(ranks):
    for rank in ranks:
        assert rank[-1].tolist() == [0, 1, 2, 10, 11, 12]
