"""Causal softmax attention that can go on from earlier keys and values, and its block."""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

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
    length = q.shape[2]
    return _products(q, k, v, q.new_full((length, length), -torch.inf).triu(1))


def _products(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    """As `causal_products`, with minus infinity for what a token does not see, else zero."""
    # Added by the product, which takes no pass of its own. Infinity hides a token as long as
    # products of queries and keys are finite, as those of normalised tokens are.
    flat_q, flat_k, flat_v = (part.flatten(0, 1) for part in (q, k, v))
    scores = torch.baddbmm(hidden, flat_q, flat_k.mT, alpha=q.shape[3] ** -0.5)  # (B heads, T, T)
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
        q, new_k, new_v, new_undefined = self._heads(u)
        undefined = undefined[:, None] + new_undefined.cumsum(1)  # (batch, length)
        if num_before == 0:
            k, v = new_k, new_v
            if _is_short(u):
                mixed = causal_products(q, k, v)
            else:
                mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            k, v = torch.cat([k, new_k], dim=2), torch.cat([v, new_v], dim=2)
            seen = torch.ones(length, num_before + length, dtype=torch.bool, device=u.device)
            mixed = scaled_dot_product_attention(q, k, v, attn_mask=seen.tril(num_before))
        return self._output(mixed, undefined), k, v, undefined[:, -1]

    def ask(self, u: Tensor, num_pairs: int) -> Tensor:
        """Attends from pairs and queries to earlier pairs and to oneself.

        Args:
            u: N pairs, then N + 1 queries, (batch, 2N + 1, d_model). Query i sees i pairs.
            num_pairs: N.

        Returns:
            Outputs, of the same shape.
        """
        q, k, v, undefined = self._heads(u)
        place = torch.arange(u.shape[1], device=u.device)
        is_pair = place < num_pairs
        place = torch.where(is_pair, place, place - num_pairs)
        seen = is_pair & (place < place[:, None])
        seen = seen | torch.eye(len(seen), dtype=torch.bool, device=u.device)
        if _is_short(u):
            hidden = torch.zeros_like(seen, dtype=q.dtype).masked_fill(~seen, -torch.inf)
            mixed = _products(q, k, v, hidden)
        else:
            mixed = scaled_dot_product_attention(q, k, v, attn_mask=seen)
        of_pairs = undefined[:, :num_pairs].cumsum(1)
        of_queries = undefined[:, num_pairs:] + pad(of_pairs, (1, 0))
        return self._output(mixed, torch.cat([of_pairs, of_queries], dim=1))

    def _heads(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys, values, (batch, heads, length, d_head), and NaN for tokens that are none.

        A token that is not seen has weight zero, but zero times NaN is NaN. So what is not finite
        stays out of the products, and the NaN, (batch, length), zero for other tokens, is added to
        the outputs: arithmetic, which is cheaper here than masks.
        """
        largest = u.detach().abs().amax(-1)
        heads = self.qkv(u.nan_to_num(0.0, 0.0, 0.0))
        heads = heads.unflatten(2, (3, self.num_heads, -1))  # (batch, length, 3, heads, d_head)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        return q, k, v, largest - largest

    def _output(self, mixed: Tensor, undefined: Tensor) -> Tensor:
        """Outputs (batch, length, d_model) from mixed values (batch, heads, length, d_head)."""
        output: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return output + undefined[..., None].to(output.dtype)


def _is_short(u: Tensor) -> bool:
    """Whether plain products take less time than the kernel of torch."""
    return u.shape[1] <= SHORT and u.device.type == "cpu"


class TransformerBlock(SequenceBlock):
    """u + attention(norm(u)), then u + mlp(norm(u)).

    The state is keys and values of all tokens so far, and so it grows, and whether one of them was
    not finite.

    Args:
        d_model: Width of a token.
        num_heads: Attention heads; divides d_model.
    """

    asks_at_once = True

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

    def ask(self, pairs: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        num_pairs = pairs.shape[1]
        u = torch.cat([pairs, queries], dim=1)  # (batch, 2N + 1, d_model)
        u = u + self.attention.ask(self.attention_norm(u), num_pairs)
        u = u + self.mlp(self.mlp_norm(u))
        return u[:, :num_pairs], u[:, num_pairs:]

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> BlockState:
        heads = self.attention.num_heads
        shape = (batch_size, heads, 0, self.d_model // heads)
        k = torch.zeros(shape, device=device, dtype=dtype)
        return k, k, k.new_zeros(batch_size)

    def state_size(self, num_tokens: int) -> int:
        return 2 * num_tokens * self.d_model
