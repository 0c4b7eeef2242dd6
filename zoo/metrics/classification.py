"""How good logits over classes are: cross entropy, accuracy, calibration."""

import torch
from torch import Tensor

# Equal parts of [0, 1] into which confidences are sorted.
NUM_BINS = 15


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
    """Whether the largest coordinates of both (..., d_y) are the same one, 1.0 or 0.0, (...).

    Predictions may be logits or values of one-hot labels.
    """
    return (prediction.argmax(-1) == target.argmax(-1)).to(prediction.dtype)


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
