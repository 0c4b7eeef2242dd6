"""What is used of torch without being promised, with the version it was seen in.

Lightning's is in `zoo/training/private.py`.
"""

import torch


def under_transform() -> bool:
    """Whether a transform of torch.func, such as vmap, is under way; torch 2.13."""
    active: bool = torch._C._are_functorch_transforms_active()
    return active
