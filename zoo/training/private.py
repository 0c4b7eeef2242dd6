"""What is used of torch and Lightning without being promised, with the versions it was seen in."""

from lightning.pytorch.utilities import rank_zero_only


def rank_of_process() -> int:
    """The rank of this process, before there is a trainer too; Lightning 2.6."""
    rank: int = getattr(rank_zero_only, "rank", 0)
    return rank
