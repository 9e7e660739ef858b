"""Stages small enough to test the runner with. They run in child processes, found by their module's name."""

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


def refuse(context):
    raise ModelError("this model is no good", where="model.onnx", mend="use another")


def bug(context):
    sys.stdout.write("about to fail\n")
    raise KeyError("nobody thought of this")


def die(context):
    os.kill(os.getpid(), signal.SIGSEGV)


def exhaust(context):
    raise MemoryError


def leave_quietly(context):
    sys.exit(5)


def fill_disk(context):
    with Path("/dev/full").open("w") as stream:
        stream.write("x")


def half_then_die(context):
    (context.out / "half.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
