"""kill -9 at random moments of a whole build: `python -m tests.reliability.crash FOLDER --kills 200`.

FOLDER keeps the undisturbed build and the tally, so a run can be cut into slices: the same command goes on.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipeline.housekeeping import damaged, unneeded
from pipeline.publish import LIST_FILE
from pipeline.session import Session
from pipeline.store import Store
from tests.reliability.tiny import digests, start, write_build

STORE = ".edgewright/store"
# Longer than any stage and what the parent does around it.
PATIENCE_S = 300


class Disturbed:
    """One build in `folder` that is killed again and again until it is allowed to end."""

    def __init__(self, folder, chance):
        shutil.rmtree(folder, ignore_errors=True)
        self.folder, self.chance = folder, chance
        self.build = write_build(folder)
        self.kills = 0
        self.done = False

    def outputs(self):
        return len(list((self.folder / STORE).glob("objects/*/*")))

    def disturb(self):
        """Start the build; after none to two more stages and a moment, kill it or the stage that runs."""
        wanted = self.outputs() + self.chance.choice((0, 0, 1, 2))
        process = start(self.build)
        deadline = time.monotonic() + PATIENCE_S
        while self.outputs() < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            process.wait(self.chance.uniform(0.0, 2.0))
        except subprocess.TimeoutExpired:
            self._kill(process)
        code, said = process.wait(PATIENCE_S), process.stdout.read()
        if code == 0:
            self.done = True
        elif code != -signal.SIGKILL and "SIGKILL" not in said:
            raise AssertionError(f"the build ended with {code}:\n{said}")

    def _kill(self, process):
        victim = process.pid
        if self.chance.random() < 0.25:
            # As the kernel does when memory is short: the stage dies, the build has to say so.
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            victim = int((children.read_text().split() or [victim])[0])
        subprocess.run(["kill", "-9", str(victim)], check=False)
        self.kills += 1

    def check(self):
        """Nothing half-written lies where a build would take it from."""
        store = Store(self.folder / STORE)
        if (store.root / "objects").is_dir():
            for finding in damaged(store, lambda *_: None):
                assert finding.what == "half-made, its process is gone", finding
        for path in self.folder.glob(".edgewright/tiny/*.json"):
            json.loads(path.read_text())


def whole(folder):
    """What a finished build leaves, as names and digests; nothing in it is a measurement."""
    listed = json.loads((folder / "out" / LIST_FILE).read_text())
    found = {
        path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*") if path.is_file()
    }
    assert found - {LIST_FILE} == set(listed), found ^ set(listed)
    published = {path: sha for path, sha in listed.items() if not path.startswith("report.")}
    return {"stages": digests(folder / STORE), "published": published}


def kept_clean(folder):
    """Clean the store as `edgewright store gc` does; say what a second look finds."""
    session = Session(folder / "build.toml")
    session.build()
    store, entries = session.runner.store, list(session.runner.entries.values())
    for finding in unneeded(store, entries):
        finding.remove()
    return [*unneeded(store, entries), *damaged(store, lambda *_: None), *(store.root / "work").iterdir()]


def undisturbed(folder):
    """A build nobody kills, made once."""
    if not (folder / "out" / LIST_FILE).exists():
        process = start(write_build(folder))
        said, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, said
    return whole(folder)


def disturb_until(folder, kills, seed, seconds=float("inf"), note=lambda *_: None):
    """Kill builds until so many kills are done or the time is up; return how many, and builds that ended.

    `note` is given both after every build that ended.
    """
    expected = undisturbed(folder / "undisturbed")
    done = ended = 0
    begun = time.monotonic()
    while done < kills and time.monotonic() - begun < seconds:
        build = Disturbed(folder / "disturbed", random.Random(f"{seed} {ended}"))
        while not build.done:
            if done + build.kills >= kills or time.monotonic() - begun > seconds:
                assert start(build.build).wait(PATIENCE_S) == 0
                break
            build.disturb()
            build.check()
        assert whole(build.folder) == expected
        assert kept_clean(build.folder) == []
        done, ended = done + build.kills, ended + 1
        note(done, ended)
    return done, ended


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument(
        "--seconds", type=float, default=480.0, help="of this slice; the same command goes on"
    )
    arguments = parser.parse_args()
    tally_file = arguments.folder / "tally.json"
    tally = json.loads(tally_file.read_text()) if tally_file.exists() else {"kills": 0, "builds": 0}
    before = dict(tally)

    def note(done, ended):
        tally.update(kills=before["kills"] + done, builds=before["builds"] + ended)
        tally_file.write_text(json.dumps(tally))

    left = arguments.kills - tally["kills"]
    if left > 0:
        disturb_until(arguments.folder, left, tally["kills"], arguments.seconds, note)
    sys.stdout.write(
        f"{tally['kills']} kills in {tally['builds']} builds; every build ended as undisturbed\n"
    )


if __name__ == "__main__":
    main()
