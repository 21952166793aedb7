from math import comb

import pytest
import torch

from oboro.task import retrieval
from oboro.task.retrieval import recall


def test_recall_counts_the_queries_that_find_their_key(normal, monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK", 7)
    queries, gallery = normal(30, 4), normal(20, 4)
    query_keys, gallery_keys = torch.arange(30) % 11, torch.arange(20) % 6
    for k in (1, 3, 50):
        found = 0
        for query, key in zip(queries.tolist(), query_keys.tolist(), strict=True):
            near = sorted(range(20), key=lambda j: -sum(a * b for a, b in zip(query, gallery[j].tolist(), strict=True)))
            found += key in [int(gallery_keys[j]) for j in near[:k]]
        assert recall(queries, query_keys, gallery, gallery_keys, k) == found / 30


@pytest.mark.parametrize("k", [1, 5])
def test_chance_is_what_the_documents_say(normal, k):
    keys = torch.arange(600) % 40
    right = 15  # items of each key
    chance = 1 - comb(600 - right, k) / comb(600, k)
    found = [recall(normal(600, 3), keys, normal(600, 8)[:, :3], keys, k) for _ in range(20)]
    assert sum(found) / 20 == pytest.approx(chance, rel=0.15)
