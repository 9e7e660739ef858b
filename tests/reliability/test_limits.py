"""A stage that wants too much dies alone, and says so."""

import os
import resource

import pytest

from pipeline.limits import OOM_SCORE, hold, is_memory_short, machine_memory
from pipeline.run import Listener, Run
from pipeline.stage import Stage
from pipeline.store import Store
from targets.errors import StageError
from tests.reliability.test_disk import FUNCTIONS
from tests.reliability.tiny import write_build

MIB = 1 << 20


def machine(root, total_mib, group=None):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {total_mib * 1024} kB\nSwapTotal: 0 kB\n")
    (root / "proc/self/oom_score_adj").write_text("0")
    if group:
        (root / "sys/fs/cgroup").mkdir(parents=True)
        (root / "sys/fs/cgroup/memory.max").write_text(group)
    return root


@pytest.mark.parametrize(("group", "mib"), [(None, 900), ("max\n", 900), (f"{100 * MIB}\n", 100)])
def test_the_memory_there_is_is_the_machines_or_the_control_groups(tmp_path, group, mib):
    assert machine_memory(machine(tmp_path, 900, group)) == mib * MIB


def test_a_system_that_says_nothing_of_its_memory_sets_no_limit(tmp_path):
    assert machine_memory(tmp_path) is None


def test_more_than_the_machine_has_is_refused_at_once(tmp_path):
    root = machine(tmp_path, 900)
    child = os.fork()
    if not child:
        hold(7, root)
        try:
            bytearray(2 << 30)
        except MemoryError:
            os._exit(7 if resource.getrlimit(resource.RLIMIT_CPU)[0] == 7 else 1)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    # The kernel ends this process first when memory is short, not the build or something else.
    assert (root / "proc/self/oom_score_adj").read_text() == OOM_SCORE


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_frameworks_say_in_their_own_words_that_memory_is_short(error):
    assert is_memory_short(error) and not is_memory_short(ValueError("shapes differ"))


def run(tmp_path, monkeypatch, stage):
    monkeypatch.syspath_prepend(str(FUNCTIONS))
    store = Store(tmp_path / "store")
    store.prepare()
    (tmp_path / "build").mkdir()
    Run(store, tmp_path / "build", tmp_path / "debris", FUNCTIONS, Listener()).run([stage])


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("fail_to_allocate", "the stage 's' ran out of memory"),
        ("spin", "more processor time than such a stage may"),
    ],
)
def test_a_stage_that_takes_too_much_is_told_in_words(tmp_path, monkeypatch, function, words):
    with pytest.raises(StageError, match=words):
        run(tmp_path, monkeypatch, Stage("s", f"stage_functions:{function}", processor_s=1))
    assert not list((tmp_path / "store" / "work").glob("*/*"))


def test_native_code_over_somebodys_model_is_held_to_a_time(tmp_path):
    from pipeline.session import Session

    stages = {stage.name: stage for stage in Session(write_build(tmp_path)).stages()}
    native = [name for name in stages if name.startswith(("simplify", "compile", "model"))]
    assert len(native) == 4 and all(stages[name].processor_s for name in native)
