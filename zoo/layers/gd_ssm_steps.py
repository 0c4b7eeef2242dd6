"""The GD-SSM layer of several steps, with learnable step sizes, start and preconditioner.

Source: "State-space models can learn in-context by gradient descent", arXiv 2410.11687; free
readouts for each step and the learned start are ours.
"""

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from zoo.layers.discretization import at_most_zero
from zoo.layers.gd_ssm import Decay
from zoo.ops.precision import without_autocast
from zoo.ops.scan import Method
from zoo.ops.windows import mix, read_states, window_inputs, window_states

ShapeE = Literal["matrix", "diagonal", "scalar"]

# Windows whose states, one for each recurrence, are held at once.
CHUNK = 32


class GDSSMStepsLayer(nn.Module):
    """k steps of gradient descent on what two recurrences have collected.

    With the windows S_i of `GDSSMLayer`, two recurrences
    Z_B <- Lambda_bar_B * Z_B + S_i^T Q_B S_i and Z_A <- Lambda_bar_A * Z_A + S_i^T Q_A S_i are read
    out k times. From v = S_i^T D and p = 0,

        for j = k, ..., 1:    u = P_j v;    p <- p + C_j Z_B^T u;    v <- v - E_j Z_A^T u
        o_i = p + W_0 v

    where W_0 reads the first d_x coordinates and writes the last d_y. With Q_B = e_1 e_2^T,
    Q_A = e_1 e_1^T, no decay and D = e_3, Z_B is sum_i x_i y_i^T, Z_A is sum_i x_i x_i^T and o_i is
    the prediction of k steps from W_0 with step sizes eta_j = C_j = E_j or, as matrices, P_j.
    Free C and E reach every polynomial of degree k - 1 in Z_A.

    Parameters: `Q_B (3, 3)`, `D (3,)`, `C (k, d, d)`; where E is not empty `Q_A (3, 3)` and `E`,
    which has k - 1 entries, or k with `learn_start`, each (d, d), (d,) or a number by `shape_E`;
    with `learn_start` `W_0 (d_y, d_x)`; with `precondition` `P (k, d, d)`, which starts as the
    identity; with `decay="elementwise"` `Lambda_re_B (d, d)`, `log_step_B (d, 1)` and the same for
    A. Without `precondition` P_j is the identity. Step 1 is first in C, E and P.

    Args:
        d_x: Width of an input.
        d_y: Width of a label; tokens have width d = max(d_x, d_y).
        num_steps: k.
        decay: `"elementwise"` learns a Lambda_bar (d, d) for each recurrence; `"none"` fixes one.
        learn_start: Whether there is a W_0.
        shape_E: `"matrix"`, `"diagonal"` or `"scalar"`.
        precondition: Whether there is a P.
        scale_Q: Standard deviation of the random start of Q_A and Q_B.
        scale_C: Standard deviation of the random start of C, times sqrt(d).
        scale_D: Standard deviation of the random start of D.
        scale_E: Standard deviation of the random start of E, times sqrt(d) for matrices.
        scale_W_0: Standard deviation of the random start of W_0, times sqrt(d_x).
    """

    ssm_parameters: ClassVar[tuple[str, ...]] = (
        "Lambda_re_A",
        "Lambda_re_B",
        "log_step_A",
        "log_step_B",
    )

    def __init__(
        self,
        d_x: int,
        d_y: int,
        num_steps: int,
        decay: Decay = "elementwise",
        learn_start: bool = False,
        shape_E: ShapeE = "matrix",
        precondition: bool = False,
        scale_Q: float = 0.01,
        scale_C: float = 0.1,
        scale_D: float = 0.1,
        scale_E: float = 0.1,
        scale_W_0: float = 0.1,
    ) -> None:
        super().__init__()
        self.d_x, self.d_y, self.d_token = d_x, d_y, max(d_x, d_y)
        self.num_steps = num_steps
        self.scale_Q, self.scale_C, self.scale_D = scale_Q, scale_C, scale_D
        self.scale_E, self.scale_W_0 = scale_E, scale_W_0
        d, num_E = self.d_token, num_steps if learn_start else num_steps - 1
        shapes: dict[str, tuple[int, ...] | None] = dict.fromkeys(
            ("Q_A", "Lambda_re_A", "log_step_A", "Lambda_re_B", "log_step_B", "E", "W_0", "P")
        )
        shapes |= {"Q_B": (3, 3), "C": (num_steps, d, d), "D": (3,)}
        recurrences = ["B"]
        if num_E > 0:
            recurrences.append("A")
            sizes: dict[ShapeE, tuple[int, ...]] = {
                "matrix": (d, d),
                "diagonal": (d,),
                "scalar": (),
            }
            shapes |= {"Q_A": (3, 3), "E": (num_E, *sizes[shape_E])}
        if decay == "elementwise":
            for name in recurrences:
                shapes |= {f"Lambda_re_{name}": (d, d), f"log_step_{name}": (d, 1)}
        if learn_start:
            shapes["W_0"] = (d_y, d_x)
        if precondition:
            shapes["P"] = (num_steps, d, d)
        self.recurrences = tuple(recurrences)
        self.Q_A: nn.Parameter | None
        self.Q_B: nn.Parameter
        self.Lambda_re_A: nn.Parameter | None
        self.Lambda_re_B: nn.Parameter | None
        self.log_step_A: nn.Parameter | None
        self.log_step_B: nn.Parameter | None
        self.C: nn.Parameter
        self.D: nn.Parameter
        self.E: nn.Parameter | None
        self.P: nn.Parameter | None
        self.W_0: nn.Parameter | None
        for name, shape in shapes.items():
            parameter = None if shape is None else nn.Parameter(torch.empty(shape))
            self.register_parameter(name, parameter)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the random start from torch's global generator."""
        root = math.sqrt(self.d_token)
        stds = {
            "Q_A": self.scale_Q,
            "Q_B": self.scale_Q,
            "C": self.scale_C / root,
            "D": self.scale_D,
            "E": self.scale_E / (root if self.E is not None and self.E.ndim == 3 else 1),
            "W_0": self.scale_W_0 / math.sqrt(self.d_x),
        }
        for name, parameter in self.named_parameters():
            if name in stds:
                nn.init.normal_(parameter, std=stds[name])
            elif name.startswith("Lambda_re"):
                nn.init.constant_(parameter, -0.5)
            elif name.startswith("log_step"):
                nn.init.uniform_(parameter, math.log(1e-3), math.log(1e-1))
        if self.P is not None:
            with torch.no_grad():
                self.P.copy_(torch.eye(self.d_token))

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of the state of one episode: Z_B, and Z_A if it exists."""
        return (len(self.recurrences), self.d_token, self.d_token)

    @property
    def Lambda_bar(self) -> dict[str, Tensor]:
        """The decay of each recurrence, `{"B": (d, d), ...}`."""
        log_Lambda_bar = self._log_Lambda_bar()
        if log_Lambda_bar is None:
            log_Lambda_bar = self.C.new_zeros(self.state_shape)
        return dict(zip(self.recurrences, log_Lambda_bar.exp(), strict=True))

    def before_windows(self, x: Tensor) -> Tensor:
        """The output at an input token with no example before it: W_0 v with v = D[2] x.

        Args:
            x: (..., d_token).

        Returns:
            (..., d_token), zero without a W_0.
        """
        with without_autocast(x.device):
            wide = x.to(self._state_type(x))
            return self._start(self.D[2].to(wide.dtype) * wide).to(x.dtype)

    def all_windows(self, S: Tensor, method: Method = "chunked") -> Tensor:
        """The outputs of all windows.

        Args:
            S: (3, N, batch, d_token).
            method: `"chunked"`, or the reference `"loop"` over windows.

        Returns:
            o_1, ..., o_N, (batch, N, d_token).
        """
        if method not in ("chunked", "loop"):
            raise ValueError(f"method must be 'chunked' or 'loop', got {method!r}")
        with without_autocast(S.device):
            dtype, S = S.dtype, self._batch_first(S)
            Z = S.new_zeros(len(S), *self.state_shape)
            run = self._loop if method == "loop" else self._chunk
            outputs = []
            for part in torch.split(S, CHUNK, dim=1):
                o, Z = run(part, Z)
                outputs.append(o)
            return torch.cat(outputs, dim=1).to(dtype)

    def last_window(self, S: Tensor) -> Tensor:
        """The output of the last window alone, `all_windows(S)[:, -1]`, (batch, d_token)."""
        with without_autocast(S.device):
            dtype, S = S.dtype, self._batch_first(S)
            Z = self._advance(S.new_zeros(len(S), *self.state_shape), S)
            v = self._readout(S[:, -1])  # (batch, d)
            return self._descend(v, lambda u: read_states(Z, u[:, None])).to(dtype)

    def advance(self, Z: Tensor, S: Tensor) -> Tensor:
        """The state Z (batch, num_recurrences, d, d) after windows S (3, N, batch, d), N >= 0."""
        with without_autocast(S.device):
            S = self._batch_first(S)
            return self._advance(Z.to(S.dtype), S)

    def virtual_window(self, Z: Tensor, S: Tensor) -> Tensor:
        """The outputs of windows that are tried on a state and not added to it.

        A window adds rank-three terms to each state, Z_new^T u = (Lambda_bar * Z)^T u +
        sum_a (S[a] . u) (Q S)[a], so no new state is formed.

        Args:
            Z: State after the completed windows, (batch, num_recurrences, d, d).
            S: One window for each query, (3, num_query, batch, d).

        Returns:
            (num_query, batch, d).
        """
        with without_autocast(S.device):
            dtype, S = S.dtype, self._batch_first(S)  # (batch, num_query, 3, d)
            Z = Z.to(S.dtype)
            log_Lambda_bar = self._log_Lambda_bar(S.dtype)
            if log_Lambda_bar is not None:
                Z = log_Lambda_bar.exp() * Z
            Q_S = mix(S[:, :, None], self._Q(S.dtype))  # (batch, num_query, num_recurrences, 3, d)

            def read(u: Tensor) -> Tensor:
                kept = torch.einsum("brpq,bmp->bmrq", Z, u)
                added = (S @ u[..., None])[:, :, None]  # (batch, num_query, 1, 3, 1)
                return kept + (added * Q_S).sum(-2)

            return self._descend(self._readout(S), read).to(dtype).transpose(0, 1)

    def _descend(self, v: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
        """p + W_0 v after all steps.

        Args:
            v: What is asked, (..., d).
            read: From u (..., d) to Z_B^T u and Z_A^T u, (..., num_recurrences, d).
        """
        C = self.C.to(v.dtype)
        E = None if self.E is None else self.E.to(v.dtype)
        P = None if self.P is None else self.P.to(v.dtype)
        num_E = 0 if E is None else len(E)
        p = torch.zeros_like(v)
        for j in reversed(range(self.num_steps)):
            u = v if P is None else linear(v, P[j])
            states_u = read(u)
            p = p + linear(states_u[..., 0, :], C[j])
            # The first step's E comes last and is there with a start only.
            index = j - (self.num_steps - num_E)
            if E is not None and index >= 0:
                A_u = states_u[..., 1, :]
                v = v - (linear(A_u, E[index]) if E.ndim == 3 else E[index] * A_u)
        return p + self._start(v)

    def _start(self, v: Tensor) -> Tensor:
        """W_0 v in the coordinates of labels, zero without a W_0."""
        if self.W_0 is None:
            return torch.zeros_like(v)
        W_0_v = linear(v[..., : self.d_x], self.W_0.to(v.dtype))
        return pad(W_0_v, (self.d_token - self.d_y, 0))

    def _loop(self, S: Tensor, Z: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of windows S (batch, N, 3, d) from the state Z, and the last state."""
        Q, log_Lambda_bar = self._Q(S.dtype), self._log_Lambda_bar(S.dtype)
        Lambda_bar = torch.ones_like(Z[0]) if log_Lambda_bar is None else log_Lambda_bar.exp()
        outputs = []
        for S_i in S.unbind(1):  # (batch, 3, d)
            Z = Lambda_bar * Z + torch.einsum("bap,rac,bcq->brpq", S_i, Q, S_i)
            v = torch.einsum("bap,a->bp", S_i, self.D.to(S.dtype))
            outputs.append(
                self._descend(v, lambda u, Z=Z: torch.einsum("brpq,bp->brq", Z, u))  # type: ignore[misc]
            )
        return torch.stack(outputs, dim=1), Z

    def _chunk(self, S: Tensor, Z: Tensor) -> tuple[Tensor, Tensor]:
        """`_loop` with all states at once."""
        log_Lambda_bar = self._log_Lambda_bar(S.dtype)
        Lambda_bar = None if log_Lambda_bar is None else log_Lambda_bar.exp()
        states = window_states(S[:, :, None], self._Q(S.dtype), Lambda_bar, Z)
        o = self._descend(self._readout(S), lambda u: read_states(states, u[:, :, None]))
        return o, states[:, -1]

    def _advance(self, Z: Tensor, S: Tensor) -> Tensor:
        """The state after windows S (batch, N, 3, d): Lambda_bar^N * Z + sum Lambda_bar^(N-i) U_i.

        As one sum for each chunk, so that no state in between is kept for the gradient.
        """
        Q, log_Lambda_bar = self._Q(S.dtype), self._log_Lambda_bar(S.dtype)
        for part in torch.split(S, CHUNK, dim=1):
            if log_Lambda_bar is None:  # both sums over the window and over windows are products
                Q_S = mix(part[:, :, None], Q).transpose(1, 2)  # (batch, num_recurrences, N, 3, d)
                Z = Z + part.flatten(1, 2)[:, None].mT @ Q_S.flatten(2, 3)
                continue
            num_windows = part.shape[1]
            num_after = torch.arange(num_windows - 1, -1, -1, device=S.device)
            K = (num_after[:, None, None, None] * log_Lambda_bar).exp()  # (N, R, d, d)
            U = window_inputs(part[:, :, None], Q)  # (batch, N, R, d, d)
            Z = (num_windows * log_Lambda_bar).exp() * Z + (K * U).sum(1)
        return Z

    def _readout(self, S: Tensor) -> Tensor:
        return self.D.to(S.dtype) @ S  # (..., d)

    def _Q(self, dtype: torch.dtype) -> Tensor:
        return torch.stack([getattr(self, f"Q_{r}") for r in self.recurrences]).to(dtype)

    def _log_Lambda_bar(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """(num_recurrences, d, d), None without decay."""
        if self.Lambda_re_B is None:
            return None
        Lambda_re = torch.stack([getattr(self, f"Lambda_re_{r}") for r in self.recurrences])
        log_step = torch.stack([getattr(self, f"log_step_{r}") for r in self.recurrences])
        return (at_most_zero(Lambda_re) * log_step.mT.exp()).to(dtype or Lambda_re.dtype)

    def _batch_first(self, S: Tensor) -> Tensor:
        """(3, N, batch, d) to (batch, N, 3, d) in the type of the state."""
        return S.permute(2, 1, 0, 3).to(self._state_type(S)).contiguous()

    def _state_type(self, S: Tensor) -> torch.dtype:
        dtype = torch.promote_types(S.dtype, self.C.dtype)
        return torch.promote_types(dtype, torch.float32)
