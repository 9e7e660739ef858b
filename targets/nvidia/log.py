"""What trtexec prints, from 8.2 to 11: its version, what it was told, how it went, what it measured.

Lines are "[date-time] [severity] text" (samples/common/logging.h of NVIDIA/TensorRT), between a line
"&&&& RUNNING" and one "&&&& PASSED" or "&&&& FAILED" that name the version. The figures of the performance
summary are milliseconds (sampleReporting.cpp); 8.2 has one percentile and an end-to-end latency besides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Iterator, Mapping

from targets.errors import ModelError

LINE = re.compile(r"^\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] \[([VIWEF])\] ?(.*)$")
BANNER = re.compile(
    r"^&&&& (RUNNING|PASSED|FAILED) TensorRT\.trtexec \[TensorRT v(\d+)\](?: \[b\d+\])? # (.*)$"
)
SECTION = re.compile(r"^=== (.+) ===$")
FIGURES = re.compile(r"^([A-Z][\w\- ]+): (min = .* ms)$")
FIGURE = re.compile(r"(min|max|mean|median|percentile\([\d.]+%\)) = ([\d.e+-]+|inf|nan) ms")
THROUGHPUT = re.compile(r"^Throughput: ([\d.e+-]+) qps$")
QUERIES = re.compile(r"^Timing trace has (\d+) queries over ([\d.e+-]+) s$")
DLA_LEFT = (
    re.compile(r"Layer '(.+)' \(\w+\): Unsupported on DLA\. Switching this layer's device type to GPU"),
    re.compile(
        r"Default DLA is enabled but layer (.+) is not (?:supported|running) on DLA, falling back to GPU"
    ),
    re.compile(r"Switching to GPU for layer (.+)$"),
)
SETTINGS = ("Build Options", "System Options", "Inference Options", "Device Information")
FROM_RUNTIME = "[TRT] "


@dataclass(frozen=True)
class TrtexecLog:
    """What a log says.

    Args:
        version: of TensorRT, as in "10.3.0".
        command: as it was typed.
        passed: it ended well; False as well where the log has no end.
        settings: what it was told and where it ran, by trtexec's own names ("Spin-wait": "Enabled").
        throughput: inferences a second; None where nothing was timed.
        queries: inferences timed.
        figures: "Latency", "GPU Compute Time" …: name → "median" and the like → milliseconds.
        dla_left: layers that a DLA left to the GPU.
        warnings: trtexec's own of its measurement.
        errors: of trtexec and TensorRT, in the order they came.
        said: all lines, without date and severity.
    """

    version: str
    command: str
    passed: bool
    settings: Mapping[str, str]
    throughput: float | None
    queries: int
    figures: Mapping[str, Mapping[str, float]]
    dla_left: tuple[str, ...]
    warnings: tuple[str, ...]
    errors: tuple[str, ...]
    said: tuple[str, ...]

    def reason(self) -> str:
        """Return why it failed, as one line."""
        last = next((line for line in reversed(self.said) if line), "nothing")
        text = (
            "; ".join(dict.fromkeys(self.errors)) or f"the log has no error and no end; its last line: {last}"
        )
        return text if len(text) <= 400 else text[:399] + "…"


def read_log(text: str) -> TrtexecLog:
    """Read what trtexec printed; lines of others between its own are passed over. The last run counts.

    Raises:
        ModelError: no run of trtexec is in it.
    """
    banners = [found for found in map(BANNER.match, text.splitlines()) if found]
    if not banners:
        raise ModelError(
            "this is no log of trtexec: no line names it and its version",
            mend="save all it prints: trtexec … > trtexec.log 2>&1",
        )
    started = text.rfind("&&&& RUNNING TensorRT.trtexec")
    lines = [(found[1], found[2]) for found in map(LINE.match, text[max(0, started) :].splitlines()) if found]
    said = [line for _, line in lines]
    figures = {found[1]: _figures(found[2]) for found in map(FIGURES.match, said) if found}
    throughput = [float(found[1]) for found in map(THROUGHPUT.match, said) if found]
    queries = [int(found[1]) for found in map(QUERIES.match, said) if found]
    return TrtexecLog(
        version=version_of(int(banners[-1][2])),
        command=banners[-1][3].strip(),
        passed=banners[-1][1] == "PASSED",
        settings=dict(_settings(said)),
        throughput=throughput[-1] if throughput else None,
        queries=queries[-1] if queries else 0,
        figures=figures,
        dla_left=tuple(dict.fromkeys(_left(said))),
        warnings=tuple(line[2:] for severity, line in lines if severity == "W" and line.startswith("* ")),
        errors=tuple(" ".join(_plain(line).split()) for severity, line in lines if severity in "EF"),
        said=tuple(said),
    )


def version_of(number: int) -> str:
    """Return the version that a banner's number stands for.

    Five digits are needed since 10.0 (NV_TENSORRT_VERSION): 8601 is 8.6.1, 100300 is 10.3.0.
    """
    if number >= 100_000:
        return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"
    return f"{number // 1000}.{number // 100 % 10}.{number % 100}"


def _figures(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in FIGURE.findall(text)}


def _settings(said: list[str]) -> Iterator[tuple[str, str]]:
    section = ""
    for line in said:
        heading = SECTION.match(line)
        section = heading[1] if heading else section
        name, colon, value = line.partition(":")
        if section in SETTINGS and colon and not line.startswith(FROM_RUNTIME):
            yield name.strip(), value.strip()
        if line.startswith("TensorRT version:"):
            return


def _left(said: list[str]) -> Iterator[str]:
    for line in said:
        for pattern in DLA_LEFT:
            found = pattern.search(line)
            if found:
                yield found[1]


def _plain(line: str) -> str:
    return line[len(FROM_RUNTIME) :] if line.startswith(FROM_RUNTIME) else line
