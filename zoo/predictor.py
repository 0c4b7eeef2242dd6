"""The contract of everything that predicts: learned models and exact algorithms alike."""

import itertools
import warnings
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from zoo.private import under_transform

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Predictions of at least this size are no predictions, whatever the scale of the labels.
ABSURD = 1e20

# For `check_pairs`: pairs by themselves. None would be what somebody takes for a state.
NO_STATE = object()


class BufferState(NamedTuple):
    """The examples seen so far: the streaming state of a predictor without a shorter summary.

    Attributes:
        x: Inputs, (batch, num_seen, d_x).
        y: Labels, (batch, num_seen, d_y).
    """

    x: Tensor
    y: Tensor

    @property
    def num_seen(self) -> int:
        """Number of examples."""
        return self.x.shape[1]


class Predictor(nn.Module):
    """A map from examples in a context to predictions.

    A subclass implements `forward`. It overrides `predict_query` where the last position is cheaper
    than all of them, and the streaming methods where it has a state smaller than the examples.

    What it is given are tensors of one floating type on one device: those of its parameters where
    it has any. Nothing is cast; anything else is a ValueError, or a TypeError if it is no tensor.
    There may be no episodes, no queries, and no pairs to observe. `check_pairs` and `check_queries`
    hold this rule, and every method that takes pairs or queries begins with one of them.

    Attributes:
        d_x: Width of an input.
        d_y: Width of a label.
        output: Whether a prediction is a `"value"` of y or `"logits"` over its coordinates.
        ssm_parameters: Names of the parameters a module owns that belong to its state-space
            recurrence. They train at their own rate and without weight decay. Layers inside a
            predictor may declare the same attribute.
        no_decay_parameters: Names of the other parameters a module owns that have no weight decay
            although they are matrices in shape, as biases and norms of heads are. Layers may
            declare it too.
        token_layout: How pairs become tokens, for the reader of a card.
        paper: Address of the paper that the architecture comes from, for the reader of a card;
            empty where it has none.
        heavy_tailed: Whether single episodes may decide about its mean error, as with predictions
            that are polynomials of high degree; it is tested on ten times as many.
        replicas_in_turn_on: Types of device on which replicas, the same model from several seeds,
            take a training step in turn, since as one batch under `torch.vmap` it takes longer.
        card: The `zoo.hub.card.Card` of the checkpoint it was loaded from, None for others. A model
            with a card warns, once each, of contexts longer than it was trained on and of absurd
            predictions; in eval mode, and not while torch compiles, traces or maps it.
    """

    output: Literal["value", "logits"] = "value"
    ssm_parameters: ClassVar[tuple[str, ...]] = ()
    no_decay_parameters: ClassVar[tuple[str, ...]] = ()
    token_layout: str = "pairs"
    paper: str = ""
    heavy_tailed: bool = False
    replicas_in_turn_on: tuple[str, ...] = ()
    card: Any = None

    def __init__(self, d_x: int, d_y: int) -> None:
        super().__init__()
        self.d_x = d_x
        self.d_y = d_y
        self._warned: set[str] = set()
        self._state_form: Any = None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Predicts at every position from the examples before it.

        Args:
            x: Inputs, (batch, length, d_x).
            y: Labels, (batch, length, d_y). The last one is never read.

        Returns:
            Predictions, (batch, length, d_y). Position i depends on `x[:, :i+1]` and `y[:, :i]`
            alone, so it is the prediction for `x[:, i]` after i examples.

        Raises:
            ValueError: If shapes, types or devices of x and y do not fit each other or the
                predictor.
        """
        raise NotImplementedError

    def predict_query(self, x: Tensor, y: Tensor) -> Tensor:
        """Predicts at the last position only: `forward(x, y)[:, -1]`, (batch, d_y)."""
        return self.forward(x, y)[:, -1]

    def init_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Any:
        """The streaming state before the first example, for `batch_size` episodes side by side.

        Device and type are those of the parameters unless given, and float64 without parameters. A
        predictor with parameters has states of their type only, in which what is summed up is
        float32 at least; sums that solvers keep are float64 whatever is given. A state is a tensor
        with the episodes first, or a tuple that begins with a state. One that has `num_seen` lets a
        loaded model warn of contexts that are longer than it was trained on.

        Raises:
            ValueError: If dtype is another, or batch_size no number of episodes.
        """
        device, dtype = self.state_options(batch_size, device, dtype)
        x = torch.zeros(batch_size, 0, self.d_x, device=device, dtype=dtype)
        return BufferState(x, x.new_zeros(batch_size, 0, self.d_y))

    def observe(self, state: Any, x: Tensor, y: Tensor) -> Any:
        """The state after further examples; the given state stays as it is.

        Args:
            state: From `init_state` or an earlier `observe`.
            x: New inputs, (batch, num_new, d_x).
            y: Their labels, (batch, num_new, d_y). All of them are read.

        Raises:
            ValueError: If the state is that of another model or of another number of episodes.

        Here the state is the pairs themselves, in the type of the state.
        """
        self.check_pairs(x, y, state)
        x, y = x.to(state.x.dtype), y.to(state.y.dtype)
        return BufferState(torch.cat([state.x, x], dim=1), torch.cat([state.y, y], dim=1))

    def predict(self, state: Any, x_query: Tensor) -> Tensor:
        """Predicts for queries that share the examples seen so far and do not see each other.

        Args:
            state: From `init_state` or `observe`; stays as it is.
            x_query: (batch, num_query, d_x).

        Returns:
            Predictions, (batch, num_query, d_y), in the type of the queries.
        """
        self.check_queries(state, x_query)
        batch, num_query, _ = x_query.shape
        x = state.x[:, None].expand(-1, num_query, -1, -1)
        y = state.y[:, None].expand(-1, num_query, -1, -1)
        x = torch.cat([x, x_query[:, :, None].to(x.dtype)], dim=2).flatten(0, 1)
        y = torch.cat([y, y.new_zeros(batch, num_query, 1, self.d_y)], dim=2).flatten(0, 1)
        predictions = self.predict_query(x, y).view(batch, num_query, self.d_y)
        return predictions.to(x_query.dtype)

    def state_size(self, num_context: int) -> int:
        """Real numbers in the streaming state of one episode after `num_context` examples."""
        return num_context * (self.d_x + self.d_y)

    def check_positions(self, positions: Literal["last", "all"]) -> None:
        """Raises ValueError if the model cannot be trained on errors there; any model can here."""

    def check_length(self, length: int) -> None:
        """Raises ValueError if the model cannot take `length` positions; any number by default."""

    def check_pairs(self, x: Tensor, y: Tensor, state: Any = NO_STATE) -> None:
        """Raises unless x (batch, length, d_x) and y (batch, length, d_y) are what the class takes.

        Without a state there must be a position to predict at; with one, its episodes must be as
        many.
        """
        _check_are_tensors(x=x, y=y)
        if (
            x.ndim != 3
            or y.ndim != 3
            or x.shape[:2] != y.shape[:2]
            or x.shape[2] != self.d_x
            or y.shape[2] != self.d_y
        ):
            raise ValueError(
                f"x must be (batch, length, {self.d_x}) and y (batch, length, {self.d_y}) with the "
                f"same batch and length, got x {tuple(x.shape)} and y {tuple(y.shape)}"
            )
        if state is NO_STATE and x.shape[1] == 0:
            raise ValueError("x and y must hold at least one position, got length 0")
        self._check_types(x=x, y=y)
        if state is not NO_STATE:
            self._check_state(state, x)
        else:
            self._warn_of_length(x.shape[1] - 1)

    def check_queries(self, state: Any, x_query: Tensor) -> None:
        """Raises unless x_query (batch, num_query, d_x) is what the class takes."""
        _check_are_tensors(x_query=x_query)
        if x_query.ndim != 3 or x_query.shape[2] != self.d_x:
            raise ValueError(
                f"x_query must be (batch, num_query, {self.d_x}), got {tuple(x_query.shape)}"
            )
        self._check_types(x_query=x_query)
        self._check_state(state, x_query)
        num_seen = getattr(state, "num_seen", None)
        if num_seen is not None and self._may_warn():
            self._warn_of_length(num_seen)

    def state_options(
        self,
        batch_size: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> tuple[torch.device, torch.dtype]:
        """Device and type of a state of so many episodes: those given, else the predictor's own.

        Raises:
            ValueError: If the type is none that the pairs could have, or batch_size no number.
        """
        is_number = isinstance(batch_size, int | torch.SymInt) and not isinstance(batch_size, bool)
        if not is_number or batch_size < 0:
            raise ValueError(f"batch_size must be a whole number from 0 on, got {batch_size!r}")
        own = next(self.parameters(), None)
        allowed = FLOATS if own is None else (own.dtype,)
        if dtype is None:
            dtype = torch.float64 if own is None else own.dtype
        elif dtype not in allowed:
            raise ValueError(f"dtype of a state must be {_listed(allowed)}, got {dtype}")
        return torch.device(device or self._own_device(torch.empty(0))), dtype

    def checked(self, predictions: Tensor) -> Tensor:
        """The predictions as they are; a model with a card warns once if they are absurd."""
        if self._may_warn() and "size" not in self._warned and _can_be_read(predictions):
            size = predictions.detach().abs()
            if not (size < ABSURD).all():
                self._warn_once(
                    "size",
                    f"{self.card.name} predicts a value of size {size.max():.3g}: its inputs, "
                    "labels or contexts are not finite or far from those it was trained on",
                )
        return predictions

    def _warn_of_length(self, given: int) -> None:
        if not self._may_warn():
            return
        trained = self.card.data.get("num_context")
        if isinstance(trained, int) and given > trained:
            self._warn_once(
                "length",
                f"{self.card.name} was trained on contexts of at most {trained} examples, "
                f"got {given}",
            )

    def _may_warn(self) -> bool:
        return (
            self.card is not None
            and not self.training
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
            and not under_transform()
        )

    def _warn_once(self, about: str, message: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            warnings.warn(message, stacklevel=2)

    def _check_types(self, **tensors: Tensor) -> None:
        """Raises ValueError unless all are of one floating type and on one device, the own ones."""
        own, given = next(self.parameters(), None), list(tensors.values())
        names = " and ".join(tensors)
        allowed = FLOATS if own is None else (own.dtype,)
        if any(t.dtype not in allowed or t.dtype != given[0].dtype for t in given):
            of_whom = "one of the types" if own is None else "the type of the parameters,"
            raise ValueError(
                f"{names} must have {of_whom} {_listed(allowed)}, "
                f"got {' and '.join(str(t.dtype) for t in given)}"
            )
        device = self._own_device(given[0])
        if any(t.device != device for t in given):
            raise ValueError(
                f"{names} must be on {device}, got {' and '.join(str(t.device) for t in given)}"
            )

    def _own_device(self, otherwise: Tensor) -> torch.device:
        """Where parameters and buffers are; without any, where that tensor is."""
        return next(itertools.chain(self.parameters(), self.buffers()), otherwise).device

    def _check_state(self, state: Any, given: Tensor) -> None:
        """Raises ValueError unless it is a state of this class, of these episodes, and beside them.

        A dimension that is zero in the state of no episodes may have any size.
        """
        if self._state_form is None:
            self._state_form = _form_of(self.init_state(0))
        _check_form("the state", state, self._state_form)
        while not isinstance(state, Tensor):
            state = state[0]
        if len(state) != len(given):
            raise ValueError(f"the state is of {len(state)} episodes, got {len(given)}")
        if state.device != given.device:
            raise ValueError(f"the state is on {state.device}, got {given.device}")


def _form_of(state: Any) -> Any:
    """The shape of a tensor, the class and forms of the parts of a tuple, the class of others."""
    if isinstance(state, Tensor):
        return torch.Size(state.shape)
    if isinstance(state, tuple):
        return type(state), [_form_of(part) for part in state]
    return type(state)


def _check_form(name: str, part: Any, form: Any) -> None:
    """Raises ValueError unless a part of a state has a form of `_form_of`."""
    if isinstance(form, torch.Size):
        is_tensor = isinstance(part, Tensor)
        if (
            not is_tensor
            or part.ndim != len(form)
            or any(size not in (0, given) for size, given in zip(form, part.shape, strict=True))
        ):
            allowed = ", ".join(str(size or "any") for size in form)
            got = tuple(part.shape) if is_tensor else type(part).__name__
            raise ValueError(f"{name} must be a tensor of shape ({allowed}), got {got}")
        return
    kind, parts = form if isinstance(form, tuple) else (form, [])
    if type(part) is not kind:
        raise ValueError(f"{name} must be of type {kind.__name__}, got {type(part).__name__}")
    if parts and len(part) != len(parts):
        raise ValueError(f"{name} must have {len(parts)} parts, got {len(part)}")
    fields = getattr(kind, "_fields", range(len(parts)))
    for field, of_part, form_of_part in zip(fields, part if parts else (), parts, strict=True):
        _check_form(f"{field} of {name}", of_part, form_of_part)


def _can_be_read(tensor: Tensor) -> bool:
    """Whether its numbers are there to be looked at."""
    capturing = tensor.is_cuda and torch.cuda.is_current_stream_capturing()
    return not tensor.is_meta and not capturing


def _check_are_tensors(**given: Any) -> None:
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value)}; see torch.as_tensor")


def _listed(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(map(str, dtypes))
