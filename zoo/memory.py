"""What becomes of memory that has been freed."""

import ctypes
import sys

# Of glibc's malloc.h. By default larger blocks go back to the system at once, and their pages come
# back one fault at a time.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 32 * 2**20  # glibc's own limit of that threshold
MOST_KEPT = 2**30


def keep_freed_memory() -> None:
    """Keeps blocks of up to 32 MiB, 1 GiB in all, for the next of the same size; glibc only.

    A training step frees what the next one asks for.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, MOST_KEPT)
