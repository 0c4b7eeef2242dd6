"""AdamW for replicas of a model, each at a rate of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from zoo.training.private import foreach_copy

# Every parameter starts at a multiple of as many numbers: kernels want addresses of 16 bytes.
ALIGNMENT = 4


class ReplicaAdamW(Optimizer):
    """AdamW over parameters whose first dimension counts replicas, which have nothing in common.

        m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g^2
        p <- p - rate (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay p)

    with the gradient g of a replica cut to `clip_norm` and a rate that is the peak of the replica
    times lr / initial_lr, the course that a schedule moves. Parameters, gradients and moments are
    views of one tensor (num_replicas, numel) each, so that a step is a dozen kernels whatever the
    number of parameters, and nothing waits for the device.

    Args:
        groups: As of `parameter_groups`, with `peaks`, the rates of the replicas, beside `lr`.
        betas: beta1 and beta2.
        clip_norm: Largest norm of a replica's gradient, None for any.
        eps: Added to the root.

    Source: Loshchilov & Hutter 2019 (arXiv 1711.05101).
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        betas: tuple[float, float],
        clip_norm: float | None,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(groups, {"betas": betas, "eps": eps})
        self.betas, self.eps, self.clip_norm = betas, eps, clip_norm
        self.parameters = [p for group in self.param_groups for p in group["params"]]
        numels = [-(-p[0].numel() // ALIGNMENT) * ALIGNMENT for p in self.parameters]
        like = self.parameters[0].detach()
        shape = len(self.param_groups[0]["peaks"]), sum(numels)
        self._flat, self._grad, self._m, self._v = (like.new_zeros(shape) for _ in range(4))
        self._views: list[list[Tensor]] = []  # of each parameter: itself, its gradient, m and v
        parts = [flat.split(numels, dim=1) for flat in (self._flat, self._grad, self._m, self._v)]
        for parameter, *owned in zip(self.parameters, *parts, strict=True):
            views = [part[:, : parameter[0].numel()].view_as(parameter) for part in owned]
            views[0].copy_(parameter.detach())
            parameter.data = views[0]
            self._views.append(views)
        counts = [len(group["params"]) for group in self.param_groups]
        widths = [sum(numels[sum(counts[:i]) : sum(counts[: i + 1])]) for i in range(len(counts))]
        pairs = list(zip(self.param_groups, widths, strict=True))
        peaks = [like.new_tensor(group["peaks"])[:, None].expand(-1, n) for group, n in pairs]
        self._peaks = torch.cat(peaks, dim=1)  # (num_replicas, numel)
        self._decay = torch.cat([like.new_full((n,), group["weight_decay"]) for group, n in pairs])
        self._has_decay = any(group["weight_decay"] for group in self.param_groups)
        self._t = torch.zeros((), dtype=torch.float64, device=like.device)
        self._course = torch.ones_like(self._t)
        self._fill_state()

    def take(self, gradients: Sequence[Tensor], add: bool = False) -> None:
        """Puts gradients in the place of those there, or adds them, in the order of parameters."""
        own = [grad for _, grad, _, _ in self._views]
        if add:
            gradients = [old + new for old, new in zip(own, gradients, strict=True)]
        foreach_copy(own, gradients)
        for parameter, grad in zip(self.parameters, own, strict=True):
            parameter.grad = grad  # for whoever looks, such as a callback

    def norms(self) -> Tensor:
        """Norm of the gradient of each replica, (num_replicas,)."""
        norms: Tensor = self._grad.norm(dim=1)
        return norms

    def follow(self) -> None:
        """Notes how far the rates are on their course; to be called before each step."""
        group = self.param_groups[0]
        self._course.fill_(group["lr"] / group["initial_lr"])

    @torch.no_grad()
    def step(self, alive: Tensor, norms: Tensor) -> Tensor:  # type: ignore[override]
        """A step of the replicas that are `alive` and whose weights stay finite; returns which.

        Of those that are not alive nothing changes, and the steps are not counted where none is.

        Args:
            alive: bool (num_replicas,).
            norms: As `norms` has them.
        """
        beta1, beta2 = self.betas
        g, m, v, alive = self._grad, self._m, self._v, alive[:, None]
        if self.clip_norm is not None:
            g.mul_((self.clip_norm / (norms + 1e-6)).clamp(max=1)[:, None])
        g.copy_(torch.where(alive, g, 0))
        weight = alive.to(g.dtype)
        self._t += alive.any()
        m.lerp_(g, weight * (1 - beta1))
        v.lerp_(g * g, weight * (1 - beta2))
        rates = self._peaks * self._course
        direction = m / (1 - beta1**self._t) / ((v / (1 - beta2**self._t)).sqrt() + self.eps)
        if self._has_decay:
            direction += self._decay * self._flat
        new = self._flat - rates * direction
        alive = alive & new.isfinite().all(dim=1, keepdim=True)
        self._flat.copy_(torch.where(alive, new, self._flat))
        return alive[:, 0]

    def state_dict(self) -> dict[str, Any]:
        """As that of `torch.optim.AdamW`."""
        self._fill_state()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the state of the same replicas."""
        super().load_state_dict(state_dict)
        for parameter, (_, _, m, v) in zip(self.parameters, self._views, strict=True):
            loaded = self.state[parameter]
            m.copy_(loaded["exp_avg"])
            v.copy_(loaded["exp_avg_sq"])
            self._t.copy_(loaded["step"])
        self._fill_state()

    def _fill_state(self) -> None:
        for parameter, (_, _, m, v) in zip(self.parameters, self._views, strict=True):
            self.state[parameter] = {"step": self._t.float(), "exp_avg": m, "exp_avg_sq": v}
