"""Recurrences whose state is a small model that every token trains by one step: one file a rule.

S is the state (d_k, d_v) of a head, and q, k, v are query, key and value of a token. The output is
o_t = S_t^T q_t, of the state after the token (`inclusive=True`), or S_{t-1}^T q_t, of the state
before the token decays it and writes to it (`inclusive=False`). Queries are not scaled.

Every rule has `method="loop"`, the recurrence as it is written, and `method="chunked"`, which
treats many tokens at once, and a single one as the loop does. Both give the same values and
gradients. The arithmetic is float32 at least, and outputs have the type of the values. An output
depends on nothing after its token, not even by numbers that are not finite.
"""

from zoo.ops.fast_weights.delta_product import delta_product
from zoo.ops.fast_weights.delta_rule import delta_rule
from zoo.ops.fast_weights.gated_delta_rule import gated_delta_rule
from zoo.ops.fast_weights.gated_linear_attention import gated_linear_attention
from zoo.ops.fast_weights.linear_attention import linear_attention
from zoo.ops.fast_weights.longhorn import longhorn
from zoo.ops.fast_weights.mesa import mesa
from zoo.ops.fast_weights.test_time_training import test_time_training

__all__ = [
    "delta_product",
    "delta_rule",
    "gated_delta_rule",
    "gated_linear_attention",
    "linear_attention",
    "longhorn",
    "mesa",
    "test_time_training",
]
