"""Causal softmax attention that can go on from earlier keys and values, and its block."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from zoo.layers.block import BlockState, SequenceBlock
from zoo.layers.layer_norm import LayerNorm
from zoo.layers.mlp import MLP
from zoo.ops.softmax import softmax

# On a CPU, tokens up to which plain products take less time than the kernel of torch: two thirds at
# 21 tokens, four fifths at 61, the same at 81, more from 200 on.
SHORT = 64


def causal_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`scaled_dot_product_attention(q, k, v, is_causal=True)` as two products and a softmax.

    Args:
        q: Queries, (batch, heads, length, d_head).
        k: Keys, of the same shape.
        v: Values, of the same shape.

    Returns:
        (batch, heads, length, d_head).
    """
    length, d_head = q.shape[2:]
    # Added by the product, which takes no pass of its own. Infinity hides what comes later as long
    # as products of queries and keys are finite, as those of normalised tokens are.
    later = q.new_full((length, length), -torch.inf).triu(1)
    flat_q, flat_k, flat_v = (part.flatten(0, 1) for part in (q, k, v))
    scores = torch.baddbmm(later, flat_q, flat_k.mT, alpha=d_head**-0.5)  # (B heads, T, T)
    mixed: Tensor = (softmax(scores) @ flat_v).unflatten(0, q.shape[:2])
    return mixed


class CausalAttention(nn.Module):
    """softmax(q k^T / sqrt(d_head)) v over the tokens up to one's own, in `num_heads` heads.

    From a token that is not finite on, the outputs of its sequence are NaN; those before it are
    what they would be without it.

    Args:
        d_model: Width of a token.
        num_heads: Divides d_model.

    Raises:
        ValueError: If it does not.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError(f"num_heads must divide d_model = {d_model}, got {num_heads}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(
        self, u: Tensor, k: Tensor, v: Tensor, undefined: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Attends from new tokens to earlier ones and to each other.

        Args:
            u: New tokens, (batch, length, d_model).
            k: Keys of the tokens before them, (batch, num_heads, num_before, d_head).
            v: Their values, of the same shape.
            undefined: NaN where one of them was not finite, else zero, (batch,).

        Returns:
            Outputs (batch, length, d_model), and the other three for all tokens so far.
        """
        length, num_before = u.shape[1], k.shape[2]
        # A later token has weight zero, but zero times NaN is NaN. So what is not finite stays out
        # of the products, and the NaN is added to the outputs: arithmetic, which is cheaper here
        # than masks.
        largest = u.detach().abs().amax(-1)
        undefined = undefined[:, None] + (largest - largest).cumsum(1)  # (batch, length)
        heads = self.qkv(u.nan_to_num(0.0, 0.0, 0.0))
        heads = heads.unflatten(2, (3, self.num_heads, -1))  # (batch, length, 3, heads, d_head)
        q, new_k, new_v = heads.permute(2, 0, 3, 1, 4)  # each (batch, heads, length, d_head)
        if num_before == 0:
            k, v = new_k, new_v
            if length <= SHORT and u.device.type == "cpu":
                mixed = causal_products(q, k, v)
            else:
                mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            k, v = torch.cat([k, new_k], dim=2), torch.cat([v, new_v], dim=2)
            seen = torch.ones(length, num_before + length, dtype=torch.bool, device=u.device)
            mixed = scaled_dot_product_attention(q, k, v, attn_mask=seen.tril(num_before))
        output: Tensor = self.out(mixed.transpose(1, 2).flatten(2))  # (batch, length, d_model)
        return output + undefined[..., None].to(output.dtype), k, v, undefined[:, -1]


class TransformerBlock(SequenceBlock):
    """u + attention(norm(u)), then u + mlp(norm(u)).

    The state is keys and values of all tokens so far, and so it grows, and whether one of them was
    not finite.

    Args:
        d_model: Width of a token.
        num_heads: Attention heads; divides d_model.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.attention_norm = LayerNorm(d_model)
        self.attention = CausalAttention(d_model, num_heads)
        self.mlp_norm = LayerNorm(d_model)
        self.mlp = MLP(d_model, 4 * d_model)

    def forward(self, u: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        state = state or self.init_state(len(u), u.device, u.dtype)
        mixed, *after = self.attention(self.attention_norm(u), *state)
        u = u + mixed
        return u + self.mlp(self.mlp_norm(u)), tuple(after)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> BlockState:
        heads = self.attention.num_heads
        shape = (batch_size, heads, 0, self.d_model // heads)
        k = torch.zeros(shape, device=device, dtype=dtype)
        return k, k, k.new_zeros(batch_size)

    def state_size(self, num_tokens: int) -> int:
        return 2 * num_tokens * self.d_model
