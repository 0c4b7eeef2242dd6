"""What measures ask of their tensors: numbers, and shapes that fit without being broadcast."""

from torch import Tensor


def check_shape(name: str, value: Tensor, shape: tuple[int, ...], of: str) -> None:
    """Raises ValueError unless a tensor has a shape, which none is brought to.

    Args:
        name: What the caller calls it.
        value: What was given.
        shape: What is allowed.
        of: What has this shape, such as "y".
    """
    if value.shape != shape:
        raise ValueError(f"{name} must have the shape of {of}, {shape}, got {tuple(value.shape)}")


def check_finite(**given: Tensor) -> None:
    """Raises ValueError where a tensor holds NaN or an infinite number, as then any mean does."""
    for name, value in given.items():
        num_bad = int((~value.isfinite()).sum())
        if num_bad:
            raise ValueError(
                f"{name.replace('_', ' ')} must be finite, got {num_bad} of {value.numel()} "
                "numbers that are NaN or infinite"
            )
