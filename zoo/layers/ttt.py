"""The layers of test-time training: a small network that every mini-batch of tokens trains.

Source: "Learning to (Learn at Test Time): RNNs with Expressive Hidden States", arXiv 2407.04620;
`TTTLinear` and `TTTMLP` of its published code, in their Mamba backbone (shared maps of queries and
keys, and a gate).
"""

from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from zoo.layers.block import BlockState
from zoo.layers.layer_norm import LayerNorm
from zoo.layers.mixer import Mixer, check_sizes
from zoo.layers.short_convolution import ShortConvolution
from zoo.ops.fast_weights import test_time_training
from zoo.ops.precision import without_autocast

EPS = 1e-6  # of the layer norm of the output
ROPE_BASE = 10_000


class TTTLayer(Mixer):
    """Test-time training, with the parameter names and shapes of the published layers.

    For every token s_t, the i-th of its mini-batch, and for each head by itself,

        q_t, k_t = conv_q(q_proj(s))_t, conv_k(q_proj(s))_t,   turned by rotary positions i
        v_t = v_proj(s_t)
        beta_t = base_rate sigmoid(<learnable_ttt_lr_weight, s_t> + learnable_ttt_lr_bias) / d_head
        o_t = test_time_training(q, k, v, rho_i beta, mini_batch)_t
        output_t = o_proj(post_norm(o_t) gelu(g_proj(s_t)))

    with d_head = d_model / num_heads and rho_i = 1/i + learnable_token_idx_i, zero at least. The
    network starts each sequence at learned weights, has a layer norm (`ttt_norm_weight`,
    `ttt_norm_bias`) and a residual. A stream keeps the weights at the start of the mini-batch under
    way, and what the tokens of that write. Weights of the network and `learnable_ttt_lr_weight`
    start at N(0, 0.02^2), other maps as `nn.Linear` and `nn.Conv1d`.

    Args:
        d_model: Width of a token.
        network: `"linear"`, or `"mlp"` with a hidden layer of 4 d_head.
        num_heads: Heads; d_model is an even multiple.
        mini_batch: Tokens whose gradients are taken at the same weights.
        base_rate: Largest rate, times d_head; published 1 for `"linear"`, 0.1 for `"mlp"`.
        d_conv: Number of tokens under the convolutions, the current one included.

    Raises:
        ValueError: If a size is not positive or heads do not fit.
    """

    # Of each head by itself, so that they have the shape of matrices.
    no_decay_parameters: ClassVar[tuple[str, ...]] = (
        "learnable_ttt_lr_bias",
        "ttt_norm_weight",
        "ttt_norm_bias",
        "b1",
        "b2",
    )

    def __init__(
        self,
        d_model: int,
        network: Literal["linear", "mlp"] = "linear",
        num_heads: int = 4,
        mini_batch: int = 16,
        base_rate: float = 1.0,
        d_conv: int = 4,
    ) -> None:
        super().__init__(d_model)
        check_sizes(d_model=d_model, num_heads=num_heads, mini_batch=mini_batch, d_conv=d_conv)
        if d_model % (2 * num_heads):
            raise ValueError(
                f"d_model must be a multiple of 2 * num_heads = {2 * num_heads}, got {d_model}"
            )
        self.network: Literal["linear", "mlp"] = network
        self.num_heads, self.d_head = num_heads, d_model // num_heads
        self.mini_batch, self.base_rate, self.d_conv = mini_batch, base_rate, d_conv
        self.learnable_token_idx = nn.Parameter(torch.zeros(mini_batch))
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)
        self.g_proj = nn.Linear(d_model, d_model, bias=False)
        self.conv_q = ShortConvolution(d_model, d_conv, bias=True)
        self.conv_k = ShortConvolution(d_model, d_conv, bias=True)
        self.learnable_ttt_lr_weight = nn.Parameter(0.02 * torch.randn(num_heads, 1, d_model))
        self.learnable_ttt_lr_bias = nn.Parameter(torch.zeros(num_heads, 1))
        self.ttt_norm_weight = nn.Parameter(torch.ones(num_heads, self.d_head))
        self.ttt_norm_bias = nn.Parameter(torch.zeros(num_heads, self.d_head))
        self.post_norm = LayerNorm(d_model, eps=EPS)
        widths = [self.d_head, self.d_head]
        if network == "mlp":
            widths.insert(1, 4 * self.d_head)
        for i, (d_in, d_out) in enumerate(pairwise(widths), start=1):
            weight = 0.02 * torch.randn(num_heads, d_in, d_out)
            self.register_parameter(f"W{i}", nn.Parameter(weight))
            self.register_parameter(f"b{i}", nn.Parameter(torch.zeros(num_heads, 1, d_out)))

    def forward(self, s: Tensor, state: BlockState | None = None) -> tuple[Tensor, BlockState]:
        tail, kept, *weights = self.start(s, state)
        wide = kept.dtype
        x, both = self.q_proj(s), []
        for convolution in (self.conv_q, self.conv_k):
            u, after = convolution(x, tail)
            both.append(self._turned(u.unflatten(-1, (self.num_heads, -1)).to(wide), kept.shape[1]))
        q, k = both  # (batch, length, heads, d_head)
        v = self.v_proj(s).unflatten(-1, (self.num_heads, -1)).to(wide)
        with without_autocast(s.device):
            logits = s.to(wide) @ self.learnable_ttt_lr_weight[:, 0].mT.to(wide)
            logits = logits + self.learnable_ttt_lr_bias[:, 0].to(wide)
            beta = self.base_rate / self.d_head * torch.sigmoid(logits)  # (batch, length, heads)
        # The mini-batch under way is gone through again, without its outputs.
        writes = torch.cat([kept, torch.cat([k, v, beta[..., None]], dim=-1)], dim=1)
        q = torch.cat([torch.zeros_like(kept[..., : self.d_head]), q], dim=1)
        whole = writes.shape[1] // self.mini_batch * self.mini_batch
        parts, network = [], tuple(weights)
        if whole:
            o, network = self._train(q[:, :whole], writes[:, :whole], network)
            parts.append(o)
        if whole < writes.shape[1]:
            parts.append(self._train(q[:, whole:], writes[:, whole:], network)[0])
        o = torch.cat(parts, dim=1)[:, kept.shape[1] :].flatten(2).to(s.dtype)
        o = gelu(self.g_proj(s), approximate="tanh") * self.post_norm(o)
        # A copy, so that the state does not hold on to the whole sequence.
        return self.o_proj(o), (after, writes[:, whole:].clone(), *network)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> BlockState:
        """The learned start, and nothing kept.

        The state is the convolutions' tail; keys, values and rates of the mini-batch under way,
        (batch, its tokens, heads, 2 d_head + 1); and weights and biases at its start.
        """
        wide = torch.promote_types(dtype, torch.float32)
        tail = torch.zeros(batch_size, self.d_conv - 1, self.d_model, device=device, dtype=dtype)
        kept = torch.zeros(
            batch_size, 0, self.num_heads, 2 * self.d_head + 1, device=device, dtype=wide
        )
        # Copies, so that a state stays what it was when the weights are trained further.
        weights = (
            part.to(device, wide).expand(batch_size, *part.shape).clone()
            for part in self._network()
        )
        return (tail, kept, *weights)

    def state_size(self, num_tokens: int) -> int:
        under_way = num_tokens % self.mini_batch * self.num_heads * (2 * self.d_head + 1)
        weights = sum(part.numel() for part in self._network())
        return (self.d_conv - 1) * self.d_model + under_way + weights

    def _network(self) -> list[Tensor]:
        """Weights (heads, in, out) and biases (heads, out) that a sequence starts from."""
        last = 2 if self.network == "mlp" else 1
        pairs = [(getattr(self, f"W{i}"), getattr(self, f"b{i}")) for i in range(1, last + 1)]
        return [part for W, b in pairs for part in (W, b[:, 0])]

    def _train(
        self, q: Tensor, writes: Tensor, weights: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        k, v, beta = writes.split([self.d_head, self.d_head, 1], dim=-1)
        places = torch.arange(1, self.mini_batch + 1, device=q.device, dtype=q.dtype)
        rho = (1 / places + self.learnable_token_idx).clamp(min=0)
        o, after = test_time_training(
            q,
            k,
            v,
            beta[..., 0],
            self.mini_batch,
            network=self.network,
            norm=(self.ttt_norm_weight, self.ttt_norm_bias),
            residual=True,
            position_rates=rho,
            initial_state=weights,
        )
        return o, tuple(after)

    def _turned(self, x: Tensor, first: int) -> Tensor:
        """Coordinates (2i, 2i + 1) turned by 10000^(-2i / d_head) times the place of a token."""
        places = (torch.arange(x.shape[1], device=x.device) + first) % self.mini_batch
        even = torch.arange(0, self.d_head, 2, device=x.device, dtype=x.dtype)
        angles = places[:, None].to(x.dtype) * ROPE_BASE ** (-even / self.d_head)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]  # (length, 1, d_head / 2)
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
