"""What becomes of memory that has been freed."""

import ctypes
import os
import sys

# Of glibc's malloc.h. By default larger blocks go back to the system at once, and their pages come
# back one fault at a time.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 32 * 2**20  # glibc's own limit of that threshold
MOST_KEPT = 2**30


def keep_freed_memory() -> None:
    """Keeps freed blocks of up to 32 MiB for later ones, and 1 GiB at the end of the heap.

    A training step frees what the next one asks for. With glibc only, and not where the environment
    has settings of malloc.
    """
    settled = any(name.startswith("MALLOC_") for name in os.environ)
    if sys.platform == "linux" and not settled and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, MOST_KEPT)
