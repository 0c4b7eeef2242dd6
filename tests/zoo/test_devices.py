"""What a model computes stays on its device: a CUDA graph can be made of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import zoo

VARIANTS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in zoo.list_models()]
VARIANTS += [
    ("gd_ssm", {"decay": "none"}),
    ("gd_ssm", {"num_steps": 3, "learn_start": True, "precondition": True}),
    ("gd_ssm", {"num_steps": 2, "decay": "none", "shape_E": "scalar"}),
    ("gd_ssm_deep", {"decay": "none"}),
    ("linear_transformer", {"attention": "causal"}),
    ("s5", {"discretization": "bilinear", "activation": "full_glu"}),
    ("transformer", {"positions": "none"}),
]
# Each makes a tensor on the CPU of Python's numbers, and copies it to the device.
FROM_PYTHON = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor)


class NothingFromPython(TorchFunctionMode):
    """Refuses tensors made of Python's numbers. On the meta device no operation shows them."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert func not in FROM_PYTHON, f"{func.__name__} of {args}"
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(isinstance(part, list) for part in index), f"index {index}"
        return func(*args, **(kwargs or {}))


class NothingElsewhere(TorchDispatchMode):
    """Refuses operations that take or make a tensor which is not on the meta device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = (t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor))
        assert all(t.is_meta for t in tensors), f"{func} of {args}"
        return result


def run_on_meta(compute: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Forward and backward pass on a device without numbers, where none can be looked at."""
    x = torch.empty(4, 70, 3, device="meta", requires_grad=True)
    y = torch.empty(4, 70, 2, device="meta")
    with NothingFromPython(), NothingElsewhere():
        compute(x, y).square().sum().backward()


@pytest.mark.parametrize(("name", "arguments"), VARIANTS)
@pytest.mark.parametrize("positions", ["all", "last"])
def test_no_tensor_of_a_model_is_made_elsewhere_or_looked_at(
    name: str, arguments: dict[str, Any], positions: str
) -> None:
    sizes = {"max_context": 70} if name == "transformer" else {}
    model = zoo.create_model(name, d_x=3, d_y=2, **arguments, **sizes).to("meta")
    run_on_meta(model if positions == "all" else model.predict_query)


class Faulty(nn.Module):
    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.fault == "a list as numbers":
            return x[..., :2] * x.new_tensor([2, -2])
        if self.fault == "a list as an index":
            return x[:, :, [0, 1]]
        if self.fault == "a device left out":
            return x * torch.ones(3)
        if self.fault == "a number taken out":
            return x * x.sum().item()
        return x if x.sum() > 0 else -x


FAULTS = [
    "a list as numbers",
    "a list as an index",
    "a device left out",
    "a number taken out",
    "a question",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_sees_what_a_cuda_graph_cannot_hold(fault: str) -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        run_on_meta(Faulty(fault))
