"""Shared by the reliability tests: the smallest whole build, made once and left undisturbed."""

import pytest
from filelock import FileLock

from tests.reliability.crash import undisturbed


@pytest.fixture(scope="session")
def tiny_build(tmp_path_factory, worker_id):
    """Folder of a finished tiny build. Tests must not change it."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    with FileLock(str(shared / "tiny.lock")):
        undisturbed(shared / "tiny")
    return shared / "tiny"
