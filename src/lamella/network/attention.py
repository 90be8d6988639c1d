"""Define self-attention: the layer alone, and torch's TransformerEncoderLayer with a causal or a padding mask."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lamella.network.inputs import Named
from lamella.network.layers import NamedLayer


class SelfAttention(NamedLayer):
    """Lets each position of a sequence read all positions, or with `causal` those up to itself.

    It is torch's scaled_dot_product_attention between two Linear layers, `qkv` and `proj`. dropout: of the attention
    weights. mask: the named input (B, T) that is not 0 (or is True) where a position may be read, or `input` for the
    tokens of a network with one input, of which 0 is padding.
    Shapes: (B, T, C) in and out.
    """

    def __init__(
        self,
        embed_dim: int,
        heads: int,
        causal: bool = False,
        dropout: float = 0.0,
        mask: str | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if embed_dim % heads:
            raise ValueError(f"{embed_dim} features cannot be split into {heads} heads; choose a divisor")
        self.heads, self.causal, self.dropout, self.mask = heads, causal, dropout, mask
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias)
        self.proj = nn.Linear(embed_dim, embed_dim, bias)

    def forward(self, input: Tensor, named: Named = None) -> Tensor:
        """Return what the positions have read."""
        query, key, value = self.qkv(input).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        allowed = None
        if self.mask is not None:
            allowed = readable_positions(named, self.mask, input)[:, None, None]
            if self.causal:
                length = input.shape[1]
                allowed = allowed & torch.ones(length, length, dtype=torch.bool, device=input.device).tril()
        read = scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=allowed,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal and allowed is None,
        )
        output: Tensor = self.proj(read.transpose(1, 2).flatten(2))
        return output

    def extra_repr(self) -> str:
        """Return the arguments that are printed with the layer."""
        mask = f", mask={self.mask}" if self.mask else ""
        return f"heads={self.heads}, causal={self.causal}, dropout={self.dropout}{mask}"


class TransformerEncoderLayer(NamedLayer, nn.TransformerEncoderLayer):
    """torch's TransformerEncoderLayer, in which `causal` hides the later positions, and `mask` those that do not count.

    mask: as for SelfAttention. The other arguments are torch's, with the batch as the first dimension.
    Shapes: (B, T, C) in and out.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = True,
        norm_first: bool = False,
        bias: bool = True,
        causal: bool = False,
        mask: str | None = None,
    ) -> None:
        given = d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias
        super().__init__(*given)
        self.causal, self.mask = causal, mask

    def forward(self, input: Tensor, named: Named = None) -> Tensor:  # type: ignore[override]
        """Return the output of torch's layer."""
        later, hidden = None, None
        if self.causal:
            length = input.shape[1]
            later = torch.ones(length, length, dtype=torch.bool, device=input.device).triu(1)
        if self.mask is not None:
            hidden = ~readable_positions(named, self.mask, input)
        return super().forward(input, later, hidden, is_causal=self.causal)


def readable_positions(named: Named, mask: str, input: Tensor) -> Tensor:
    """Return which positions of each sample may be read (B, T).

    That is all of them in a sample in which none counts, because a mean over no position is not a number.
    """
    assert named is not None
    counts = named[mask].bool()
    if counts.shape != input.shape[:2]:
        raise ValueError(f"its mask has {counts[0].numel()} positions, and the sequence has {input.shape[1]}")
    return counts | ~counts.any(1, keepdim=True)
