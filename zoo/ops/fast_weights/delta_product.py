"""The delta product: several delta steps for every token."""

import torch
from torch import Tensor

from zoo.ops.fast_weights.arguments import Method, Shapes
from zoo.ops.fast_weights.gated_delta_rule import gated_delta_rule


def delta_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    inclusive: bool = True,
    method: Method = "chunked",
) -> tuple[Tensor, Tensor]:
    """S <- exp(log_decay) S once, then S <- S + beta_j k_j (v_j - S^T k_j)^T for j = 1, 2, ...

    The transition of a token is a product of as many reflections or projections. It is the gated
    delta rule on a sequence in which every token stands as often as it updates.

    Source: DeltaProduct, Siems et al. 2025 (arXiv 2502.10297).

    Args:
        q: Queries, (batch, length, heads, d_k).
        k: Keys, (batch, length, num_updates, heads, d_k).
        v: Values, (batch, length, num_updates, heads, d_v).
        beta: Rates, (batch, length, num_updates, heads).
        log_decay: Finite, (batch, length, heads) or (batch, length, heads, d_k); None for no decay.
        initial_state: (batch, heads, d_k, d_v); zero unless given.
        inclusive: Whether a token reads the state after it, or the one before it.
        method: `"chunked"`, or the reference `"loop"` over updates.

    Returns:
        Outputs (batch, length, heads, d_v), and the last state (batch, heads, d_k, d_v).

    Raises:
        ValueError: If shapes do not fit each other, the length is 0 or the method is unknown.
    """
    shapes = Shapes("delta_product", method)
    shapes.check("q", q, "batch", "length", "heads", "d_k")
    shapes.check("k", k, "batch", "length", "num_updates", "heads", "d_k")
    shapes.check("v", v, "batch", "length", "num_updates", "heads", "d_v")
    shapes.check("beta", beta, "batch", "length", "num_updates", "heads")
    if log_decay is not None:
        of_coordinates = ("d_k",) if log_decay.ndim == 4 else ()
        shapes.check("log_decay", log_decay, "batch", "length", "heads", *of_coordinates)
        waiting = torch.zeros_like(log_decay[:, :, None]).expand(
            -1, -1, k.shape[2] - 1, *log_decay.shape[2:]
        )
        log_decay = torch.cat([log_decay[:, :, None], waiting], 2).flatten(1, 2)
    num_updates = k.shape[2]
    repeated = q.repeat_interleave(num_updates, 1)  # (batch, length num_updates, heads, d_k)
    o, S = gated_delta_rule(
        repeated,
        k.flatten(1, 2),
        v.flatten(1, 2),
        beta.flatten(1, 2),
        log_decay,
        initial_state=initial_state,
        inclusive=inclusive,
        method=method,
    )
    return o[:, (num_updates - 1 if inclusive else 0) :: num_updates], S
