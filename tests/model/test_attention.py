"""Attention by matrix products is that of torch's own function, and is what trains in half precision on a CPU."""

import pytest
import torch
import torch.nn.functional as F

from oboro.edit.attention import Controlled
from oboro.model import attention
from oboro.model.attention import attend, by_products

MASKS = {
    "nothing": {},
    "causal": {"causal": True},
    "keys": {"mask": torch.tensor([[True, True, False, True, False], [False] * 5, [True] * 5])[:, None, None]},
}


@pytest.mark.parametrize("seen", MASKS)
def test_it_is_torchs_own_with_its_gradients(seen, normal):
    keys = 5 if seen == "keys" else 7
    q, k, v = (normal(3, 2, n, 4).requires_grad_() for n in (7, keys, keys))
    mask, causal = MASKS[seen].get("mask"), MASKS[seen].get("causal", False)
    reference = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    ours = by_products(q, k, v, mask, causal)
    torch.testing.assert_close(ours, reference)
    out = normal(*reference.shape)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (q, k, v), out), torch.autograd.grad(reference, (q, k, v), out)
    )


def test_in_half_precision_it_is_as_near_as_the_precision(normal):
    q, k, v = (normal(2, 3, 16, 8).bfloat16().requires_grad_() for _ in range(3))
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    torch.testing.assert_close(attend(q, k, v).double(), exact, rtol=0.02, atol=0.02)


def test_which_way_is_taken(normal, monkeypatch):
    """That of products where a gradient goes through a small map in half precision, and nobody answers instead."""
    monkeypatch.setattr(attention, "by_products", lambda *_: "products")
    half, single = (normal(1, 1, 4, 4).to(dtype) for dtype in (torch.bfloat16, torch.float32))
    assert attend(half, half, half) == "products"
    assert torch.is_tensor(attend(single, single, single))
    with torch.no_grad():
        assert torch.is_tensor(attend(half, half, half))
    with Controlled(lambda asked: "control"):
        assert attend(half, half, half) == "control"
    many = half.repeat(1, 1, 256, 1)
    assert torch.is_tensor(attend(many, many, many))
