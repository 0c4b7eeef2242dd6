"""Memory that has been freed."""

import subprocess
import sys

# Page faults of touching 8 x 16 MiB ten times, each time after they were freed.
FAULTS = """
import resource
{first}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    blocks = [bytearray(16 * 2**20) for _ in range(8)]
    for block in blocks:
        block[::4096] = bytes(4096)
    del blocks, block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(first: str) -> int:
    code = FAULTS.format(first=first)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_freed_memory_is_used_again_without_asking_the_system() -> None:
    kept = faults("from zoo.memory import keep_freed_memory; keep_freed_memory()")
    assert kept < faults("import zoo.memory") / 3
