"""Stages small enough to test the runner with. They run in child processes, found by their module's name."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from targets.errors import ModelError


def write_number(context):
    (context.out / "number.txt").write_text(str(context.settings["number"]))


def add_one(context):
    number = int(context.inputs["number"].read_text())
    context.progress("adding", 1, 1)
    (context.out / "number.txt").write_text(str(number + 1))


def constant(context):
    (context.out / "number.txt").write_text("7")


def count_runs(context):
    """Leave a mark outside the store for every run, slowly."""
    with Path(context.settings["marks"]).open("a") as stream:
        stream.write("x")
    time.sleep(context.settings["seconds"])
    (context.out / "done.txt").write_text("done")


def leave_a_trace(context):
    """What an earlier stage left in this process, and the environment."""
    traces = globals().setdefault("TRACES", [])
    traces.append(os.getpid())
    (context.out / "traces.json").write_text(json.dumps([len(traces), os.environ["MARK"]]))


def how_threads_wait(context):
    """What OpenMP was told when the process that this one is a fork of began."""
    started = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
    spins = next(each.decode() for each in started if each.startswith(b"GOMP_SPINCOUNT"))
    (context.out / "spins.txt").write_text(spins)


def refuse(context):
    raise ModelError("this model is no good", where="model.onnx", mend="use another")


def bug(context):
    sys.stdout.write("about to fail\n")
    raise KeyError("nobody thought of this")


def die(context):
    os.kill(os.getpid(), signal.SIGSEGV)


def exhaust(context):
    raise MemoryError


def fail_to_allocate(context):
    raise RuntimeError("std::bad_alloc")


def spin(context):
    while True:
        pass


def leave_quietly(context):
    sys.exit(5)


def fill_disk(context):
    with Path("/dev/full").open("w") as stream:
        stream.write("x")


def half_then_die(context):
    (context.out / "half.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)


def meet(context):
    """Every process tells its rank; rank 0 writes what all of them told."""
    import torch
    from torch import distributed

    from pipeline import parallel

    told = [torch.zeros(2, dtype=torch.int64) for _ in range(parallel.size())]
    distributed.all_gather(told, torch.tensor([parallel.rank(), os.getpid()]))
    context.progress("meeting", 1, 1)
    (context.out / f"{parallel.rank()}.txt").write_text(json.dumps([one.tolist() for one in told]))


def one_fails(context):
    """Rank 1 fails as it is told while the others wait for it."""
    from torch import distributed

    from pipeline import parallel

    if parallel.rank() == 1:
        globals()[context.settings["how"]](context)
    distributed.barrier()


def meet_then_wait(context):
    """Leave all processes' numbers outside the store, then take long."""
    from torch import distributed

    distributed.barrier()
    with Path(context.settings["marks"]).open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    distributed.barrier()
    time.sleep(600)
