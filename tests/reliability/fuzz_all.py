"""All readers one after the other: `python -m tests.reliability.fuzz_all FOLDER`; more than a million inputs.

FOLDER keeps a tally and the findings; the same command goes on where it was stopped. Each slice of a reader
runs in a process of its own with another seed.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

# Inputs of each reader: many for the quick ones, fewer where a library of somebody else's does the work.
RUNS = {
    "manifest": 200_000,
    "frames": 160_000,
    "packed": 120_000,
    "skeleton": 100_000,
    "bits": 80_000,
    "entry": 60_000,
    "engine": 60_000,
    "key": 50_000,
    "safetensors": 50_000,
    "tar": 20_000,
    "archive": 20_000,
    "header": 20_000,
    "arrays": 20_000,
    "build": 20_000,
    "checkpoint": 20_000,
    "image": 20_000,
    "onnx": 20_000,
    "float": 15_000,
    "planned": 10_000,
    "inputs": 10_000,
    "observations": 10_000,
    "device": 10_000,
    "sweep": 10_000,
    "record": 5_000,
    "signed": 2_000,
}
DONE = re.compile(r"stat::number_of_executed_units:\s+(\d+)")


def fuzz(reader, runs, seconds, seed, folder):
    """One slice; how many inputs it tried, and its log where it found something."""
    command = [sys.executable, "-m", "tests.reliability.fuzz", reader, "--runs", str(runs)]
    command += ["--seconds", str(seconds), "--seed", str(seed), "--findings", str(folder / "findings")]
    ended = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    found = DONE.search(ended.stdout)
    return int(found.group(1)) if found else 0, ended.stdout if ended.returncode else None


def rounds(folder, readers, seconds, until):
    """Slices of all readers in turns until each has had its inputs, or the time is up; the tally."""
    path = folder / "tally.json"
    tally = json.loads(path.read_text()) if path.exists() else {}
    while waiting := [reader for reader in readers if tally.get(reader, 0) < RUNS[reader]]:
        for reader in waiting:
            if time.monotonic() > until:
                return tally
            done = tally.get(reader, 0)
            tried, log = fuzz(reader, RUNS[reader] - done, seconds, 1 + done, folder)
            tally[reader] = done + tried
            path.write_text(json.dumps(tally, indent=1))
            if log is not None:
                (folder / f"{reader}-{tally[reader]}.log").write_text(log)
    return tally


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=540.0, help="of this slice of the whole")
    parser.add_argument("--slice", type=int, default=30, help="seconds of one reader at a time")
    parser.add_argument("--readers", nargs="*", default=list(RUNS))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + arguments.seconds
    tally = rounds(arguments.folder, arguments.readers, arguments.slice, until)
    findings = sorted(path.name for path in arguments.folder.glob("findings/*"))
    sys.stdout.write(f"{sum(tally.values()):,} inputs, {len(findings)} findings\n{tally}\n{findings}\n")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
