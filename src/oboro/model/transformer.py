"""The plain transformer block."""

from torch import Tensor, nn

from oboro.model.dit import Attention, glorot


class PreNormBlock(nn.Module):
    """h + attention(norm(h)), then h + mlp(norm(h)), for tokens h (B, N, D) (Xiong et al. 2020, arXiv:2002.04745).

    ``mask`` (B, N), bool: the tokens that are there to be attended to.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: int = 4):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        wide, narrow = glorot(nn.Linear(dim, mlp_ratio * dim)), glorot(nn.Linear(mlp_ratio * dim, dim))
        self.mlp = nn.Sequential(wide, nn.GELU(approximate="tanh"), narrow)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        h = h + self.attention(self.norm1(h), mask=mask)
        return h + self.mlp(self.norm2(h))
