"""How often the nearest of the other kind is the right one."""

from torch import Tensor

BLOCK = 1024  # queries at once


def recall(queries: Tensor, query_keys: Tensor, gallery: Tensor, gallery_keys: Tensor, k: int) -> float:
    """R@k: the share of ``queries`` (Q, E) with an item of their own key among the ``k`` nearest of ``gallery`` (N, E).

    Nearest is the largest scalar product; an item is right where its key (N,) equals that of the query (Q,). For a
    gallery in random order R@k is the mean over queries of 1 - C(N - m, k) / C(N, k), m the right items of each.
    """
    right = 0
    for query, key in zip(queries.split(BLOCK), query_keys.split(BLOCK), strict=True):
        nearest = (query @ gallery.T).topk(min(k, len(gallery)), 1).indices
        right += int((gallery_keys[nearest] == key[:, None]).any(1).sum())
    return right / len(queries)
