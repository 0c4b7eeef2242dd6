"""How good logits over classes are: cross entropy, accuracy, calibration."""

import torch
from torch import Tensor

# Equal parts of [0, 1] into which confidences are sorted.
NUM_BINS = 15
# Distances that are less apart, by this share, are equal: rounding differs between processors.
TIED = 1e-5


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-sum_k target_k log softmax(logits)_k, in nats.

    Args:
        logits: (..., d_y).
        target: One-hot, or any distribution over the classes, (..., d_y).

    Returns:
        (...).
    """
    return -(target * torch.log_softmax(logits, dim=-1)).sum(-1)


def correct(prediction: Tensor, target: Tensor) -> Tensor:
    """Whether the class of the largest coordinate is a possible one, 1.0 or 0.0, (...).

    Args:
        prediction: Logits or values of one-hot labels, (..., d_y).
        target: One-hot: its class is the only possible one. Of a distribution over the classes
            all with a probability above zero are possible, (..., d_y).
    """
    predicted = prediction.argmax(-1, keepdim=True)
    return (target.gather(-1, predicted)[..., 0] > 0).to(prediction.dtype)


def nearest_is_right(prediction: Tensor, target: Tensor, code_book: Tensor) -> Tensor:
    """Whether the nearest vector of a code book is that of the target, 1.0 or 0.0, (...).

    Of several at the same distance, as all are from zero where their norms are 1, the first counts.

    Args:
        prediction: (..., d_y).
        target: Vectors of the code book, (..., d_y).
        code_book: (num_values, d_y).
    """
    values = code_book.to(prediction)
    predicted, right = (_nearest(part.flatten(0, -2), values) for part in (prediction, target))
    return (predicted == right).to(prediction.dtype).view(prediction.shape[:-1])


def _nearest(vectors: Tensor, values: Tensor) -> Tensor:
    """The place of the nearest of the values, the first of those at the same distance."""
    distances = torch.cdist(vectors, values)
    least = distances.amin(-1, keepdim=True)
    return (distances <= (1 + TIED) * least).int().argmax(-1)


def expected_calibration_error(logits: Tensor, target: Tensor) -> Tensor:
    """Mean distance between how sure predictions are and how often they are right, in [0, 1].

    The probabilities of the predicted classes are sorted into 15 equal bins of [0, 1]; the distance
    between mean probability and accuracy in each is weighted by its share of the predictions.
    Source: "On Calibration of Modern Neural Networks", arXiv 1706.04599.

    Args:
        logits: (num_episodes, d_y), d_y >= 2.
        target: One-hot, (num_episodes, d_y).
    """
    # torchmetrics brings matplotlib.
    from torchmetrics.functional.classification import multiclass_calibration_error

    return multiclass_calibration_error(
        logits.softmax(-1), target.argmax(-1), logits.shape[-1], n_bins=NUM_BINS, norm="l1"
    )
