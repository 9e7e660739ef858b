"""What a stage's process may take of the machine, so that it dies alone when it wants too much."""

from __future__ import annotations

import resource
from pathlib import Path

# Above everything that is not a stage: when memory is short, the kernel ends this process and no other.
OOM_SCORE = "800"
# What frameworks say whose allocations fail; Python's own is a MemoryError.
WORDS = ("bad_alloc", "bad allocation", "allocate memory", "out of memory", "Failed to allocate")


def hold(processor_s: int | None, root: Path = Path("/")) -> None:
    """Limit this process for good.

    Memory: what the machine, or the control group this runs in, has in all. A request beyond that could never
    be met; with the limit it fails at once, instead of pushing everything else out of memory first.

    Args:
        processor_s: most seconds of processor time, all threads together; None for no limit.
        root: folder that holds proc/ and sys/.
    """
    memory = machine_memory(root)
    if memory is not None:
        _lower(resource.RLIMIT_DATA, memory)
    if processor_s is not None:
        _lower(resource.RLIMIT_CPU, processor_s)
    try:
        (root / "proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
    except OSError:
        return  # a sandbox may forbid it; the limits hold all the same


def machine_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory and swap this process could get at most; None where the system does not say."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    facts = {line.partition(":")[0]: line.split()[1] for line in lines}
    total = (int(facts["MemTotal"]) + int(facts.get("SwapTotal", 0))) * 1024
    try:
        group = (root / "sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(group)) if group.isdecimal() else total


def is_memory_short(error: BaseException) -> bool:
    """Whether an error says that memory could not be had."""
    return isinstance(error, MemoryError) or any(word in str(error) for word in WORDS)


def _lower(kind: int, value: int) -> None:
    soft, hard = resource.getrlimit(kind)
    limits = [each for each in (value, soft, hard) if each != resource.RLIM_INFINITY]
    resource.setrlimit(kind, (min(limits), hard))
