"""Coverage-guided fuzzing of one reader: `python -m tests.reliability.fuzz TARGET --runs 100000`.

Needs atheris (extra "fuzz"). Ends with an error where a reader raises anything but an error of ours, takes
longer than ten seconds, or two GiB; the input lies in FINDINGS then, and belongs into tests/reliability.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

# Seconds of one input; MiB of the process.
LONGEST_S, LARGEST_MIB = 10, 2048


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=480, help="end after so many seconds even so")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path("findings"))
    arguments = parser.parse_args()
    with atheris.instrument_imports(include=["pipeline", "calibration", "targets", "tomllib", "zipfile"]):
        from tests.reliability.readers import READERS

        reader = READERS[arguments.target]
        for seed in reader.seeds():
            # Once before fuzzing: what is imported inside of functions is instrumented as well.
            refused = reader(seed)
            sys.stderr.write(f"seed of {len(seed)} bytes: {'taken' if refused is None else refused}\n")
    arguments.findings.mkdir(parents=True, exist_ok=True)
    corpus = Path(tempfile.mkdtemp(prefix="corpus-"))
    for number, seed in enumerate(reader.seeds()):
        (corpus / str(number)).write_bytes(seed)
    longest = max(len(seed) for seed in reader.seeds())
    options = [
        f"-runs={arguments.runs}",
        f"-max_total_time={arguments.seconds}",
        f"-seed={arguments.seed}",
        f"-max_len={2 * longest + 64}",
        f"-timeout={LONGEST_S}",
        f"-rss_limit_mb={LARGEST_MIB}",
        f"-artifact_prefix={arguments.findings}/{arguments.target}-",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], reader)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
