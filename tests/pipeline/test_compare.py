"""Builds compared: what passes, what is past its limit, what cannot be compared at all."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from example_record import LABELS, accuracy, document, example
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.comparison import Ratio, compare
from pipeline.config.engines import CompareSection
from pipeline.gains import gains
from pipeline.paired import difference, mcnemar
from pipeline.pays import judge
from pipeline.record import Record
from pipeline.verbs.compare import comparison_junit, comparison_markdown, comparison_text
from targets.errors import ConfigError, DataError
from targets.native import native_precision
from targets.timing import MeasureSettings
from tests.conftest import SMALL_BUILD

LIMITS = CompareSection()
RIGHTS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200)


def steady(*_: str) -> Ratio:
    return Ratio(1.0, (0.99, 1.01), paired=True)


def changed(change: Callable[[dict[str, Any]], None]) -> Record:
    whole = document(samples=80)
    change(whole)
    return Record.model_validate(whole)


def findings(build: Record, limits: CompareSection = LIMITS, timer: Callable = steady) -> dict[str, bool]:
    found = compare(example(samples=80), build, limits, timer=timer)
    return {f"{each.target} {each.aspect}": each.passed for each in found.findings}


@given(RIGHTS)
def test_a_difference_is_that_of_the_accuracies(pairs: list[tuple[bool, bool]]) -> None:
    first, second = np.array(pairs, bool).T
    found = difference(first, second)
    assert math.isclose(found.change, second.mean() - first.mean(), abs_tol=1e-12)
    assert found.interval[0] <= found.change <= found.interval[1]
    back = difference(second, first)
    assert (back.lost, back.won, back.p) == (found.won, found.lost, found.p)


@pytest.mark.parametrize(
    ("lost", "won", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (1, 9, 22 / 1024), (10, 30, 0.00221)]
)
def test_mcnemar_is_the_exact_binomial_test(lost: int, won: int, p: float) -> None:
    assert math.isclose(mcnemar(lost, won), p, rel_tol=2e-2)
    assert mcnemar(lost, won) == mcnemar(won, lost)


def test_chance_seldom_looks_like_a_difference_and_intervals_hold_the_truth() -> None:
    random = np.random.default_rng(0)
    seen, held = [], []
    for _ in range(300):
        first = random.random(500) < 0.9
        second = np.where(random.random(500) < 0.1, random.random(500) < 0.9, first)
        found = difference(first, second)
        seen.append(found.p < 0.05)
        held.append(found.interval[0] <= 0 <= found.interval[1])
    assert np.mean(seen) <= 0.06 and np.mean(held) >= 0.93


def test_unlike_lists_of_images_are_refused() -> None:
    with pytest.raises(DataError, match="one by one"):
        difference(np.ones(3, bool), np.ones(4, bool))


def test_a_build_equals_itself() -> None:
    assert set(findings(example(samples=80)).values()) == {True}


def test_accuracy_lost_beyond_chance_fails_and_one_image_does_not() -> None:
    def worse(images: int) -> Record:
        def change(whole: dict[str, Any]) -> None:
            for result in whole["results"]:
                matrix = [list(row) for row in result["accuracy"]["confusion"]]
                matrix[0][0] -= images
                matrix[0][1] += images
                result["accuracy"] = accuracy(matrix)

        return changed(change)

    assert findings(worse(1))["any-onnxruntime accuracy"]
    assert not findings(worse(40))["any-onnxruntime accuracy"]
    assert findings(worse(40), CompareSection(accuracy_drop=0.01))["any-onnxruntime accuracy"]


@pytest.mark.parametrize(("low", "passed"), [(1.04, True), (1.06, False)])
def test_latency_fails_only_when_the_whole_interval_is_past_the_limit(low: float, passed: bool) -> None:
    found = findings(example(samples=80), timer=lambda *_: Ratio(1.1, (low, 1.2), paired=True))
    assert found["x86-avx2-openvino latency"] == passed


def test_an_engine_that_grew_fails() -> None:
    def grow(whole: dict[str, Any]) -> None:
        for result in whole["results"]:
            result["engine"]["size_bytes"] = round(1.06 * result["engine"]["size_bytes"])

    assert not findings(changed(grow))["x86-avx2-openvino size"]


def test_samples_of_two_runs_are_compared_unpaired_and_shaky_ones_named() -> None:
    def slower(whole: dict[str, Any]) -> None:
        for result in whole["results"]:
            latency = result["latency"]
            latency["samples_ms"] = [1.3 * sample for sample in latency["samples_ms"]]
            latency["median_ms"] *= 1.3
            latency["verdict"] = "drifting"

    found = compare(example(samples=80), changed(slower), LIMITS, ["latency"])
    assert not found.passed
    assert "timed in two runs" in found.findings[0].words
    assert "the build's timing was drifting" in found.findings[0].words


def set_in(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(whole: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        place: Any = whole
        for part in parents:
            place = place[int(part)] if part.isdigit() else place[part]
        place[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("project.name", "other-sorter", "another model: project.name"),
        ("data.image_shape", [32, 32, 3], "another model: data.image_shape"),
        ("data.sha256", "0" * 64, "other images"),
        ("data.split_seed", 9, "other images"),
        ("targets.0.fingerprint", {"cpu_model": "another"}, "another device: cpu_model"),
        ("targets.0.threads", 4, "another device: threads"),
        ("results.2.accuracy.right", None, "does not say which images were right"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(path: str, value: object, reason: str) -> None:
    with pytest.raises((ConfigError, DataError), match=reason) as caught:
        compare(changed(set_in(path, value)), example(samples=80), LIMITS, timer=steady)
    assert caught.value.mend


def test_another_task_is_another_model() -> None:
    names = [*LABELS[:3], "rest"]

    def rename(whole: dict[str, Any]) -> None:
        whole["task"]["outputs"] = names
        for result in whole["results"]:
            for score, name in zip(result["accuracy"]["classes"], names, strict=True):
                score["label"] = name

    with pytest.raises(ConfigError, match=r"another model: task\.outputs"):
        compare(changed(rename), example(samples=80), LIMITS, timer=steady)


def test_a_baseline_without_the_target_is_refused() -> None:
    with pytest.raises(ConfigError, match="no 'student int8' on 'any-onnxruntime'"):
        compare(example(("x86-avx2-openvino",), 80), example(samples=80), LIMITS, timer=steady)


def test_samples_left_out_are_refused() -> None:
    with pytest.raises(ConfigError, match="without samples"):
        compare(changed(set_in("results.2.latency.samples_ms", [])), example(samples=80), LIMITS)


def test_outputs_say_what_failed() -> None:
    found = compare(
        example(samples=80), example(samples=80), LIMITS, timer=lambda *_: Ratio(1.2, (1.1, 1.3), True)
    )
    root = ElementTree.fromstring(comparison_junit(found))
    assert (root.get("tests"), root.get("failures")) == ("6", "2")
    assert {case.get("name") for case in root.iter("testcase") if case.find("failure") is not None} == {
        "latency"
    }
    assert "✗ any-onnxruntime, student int8: latency 1.200×" in comparison_text(found)
    assert comparison_markdown(found).count("| ✗ |") == 2
    assert json.loads(json.dumps(found.document()))["passed"] is False


def test_the_verb_has_exit_codes_for_scripts(tmp_path: Path) -> None:
    from pipeline.report import render

    render(example(samples=80), tmp_path / "a")
    whole = document(samples=80)
    for result in whole["results"]:
        result["engine"]["size_bytes"] *= 2
    render(Record.model_validate(whole), tmp_path / "b")
    options = ["--recorded", "--junit", str(tmp_path / "x/junit.xml"), "--markdown", str(tmp_path / "s.md")]
    same = CliRunner().invoke(main, ["compare", str(tmp_path / "a"), str(tmp_path / "a"), *options])
    assert same.exit_code == 0 and "All 6 comparisons" in same.stdout
    larger = CliRunner().invoke(main, ["compare", str(tmp_path / "a"), str(tmp_path / "b"), *options])
    assert larger.exit_code == 1 and 'failures="2"' in (tmp_path / "x/junit.xml").read_text()
    left = ["--without", "size", "--json"]
    without = CliRunner().invoke(main, ["compare", str(tmp_path / "a"), str(tmp_path / "b"), *options, *left])
    assert without.exit_code == 0 and len(json.loads(without.stdout)["findings"]) == 4
    document_of_another_version = json.loads((tmp_path / "a/report.json").read_text()) | {"schema": "x/1"}
    (tmp_path / "old.json").write_text(json.dumps(document_of_another_version))
    refused = CliRunner().invoke(main, ["compare", str(tmp_path / "old.json"), str(tmp_path / "a")])
    assert refused.exit_code == 2 and "not a build record of schema" in refused.stderr


def test_engines_of_two_builds_are_timed_in_turns(
    small_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.verbs.compare.ROUNDS", 2)
    monkeypatch.setattr(
        "pipeline.verbs.compare.SETTINGS",
        MeasureSettings(warmup_min_s=0.0, warmup_max_s=0.05, min_samples=8, min_s=0.02),
    )
    shutil.copytree(small_build / "out", tmp_path / "out")
    command = ["compare", str(small_build / "out"), str(tmp_path / "out"), "--without", "accuracy", "--json"]
    done = CliRunner().invoke(main, command)
    found = json.loads(done.stdout)["findings"]
    latencies = [finding for finding in found if finding["aspect"] == "latency"]
    assert len(latencies) == 3
    assert all("timed in turns in one run" in finding["words"] for finding in latencies)


def results(ratio: float, twins: tuple[str, ...] = ("fp32",)) -> list[dict[str, Any]]:
    """A student in INT8, `ratio` times as fast as its first float twin; each further one a third faster."""
    interval = [0.98 * ratio, 1.02 * ratio]
    rows = [
        {
            "variant": f"student {precision}",
            "network": "student",
            "precision": precision,
            "role": "float twin",
            "latency": {"median_ms": 1.0 / 1.33**place},
            "speedups": [],
        }
        for place, precision in enumerate(twins)
    ]
    faster = [
        {"baseline": row["variant"], "ratio": ratio * row["latency"]["median_ms"], "interval": interval}
        for row in rows
    ]
    for each, row in zip(faster, rows, strict=True):
        each["interval"] = [end * row["latency"]["median_ms"] for end in interval]
    own = {**rows[0], "variant": "student int8", "precision": "int8", "role": "product", "speedups": faster}
    return [*rows, {**own, "latency": {"median_ms": 1.0 / ratio}}]


@pytest.mark.parametrize(("ratio", "passed"), [(1.5, True), (1.0, False), (0.8, False)])
def test_an_engine_pays_when_it_is_clearly_faster(ratio: float, passed: bool) -> None:
    rows, (requirement,) = judge("x86", results(ratio), 1.0, "report")
    assert requirement["passed"] == passed and not requirement["demanded"]
    assert [row["role"] for row in rows] == ["float twin", "product"]
    assert ("it pays." in requirement["words"]) == passed


def test_an_engine_has_to_beat_the_fastest_twin() -> None:
    _, (requirement,) = judge("x86", results(1.2, ("fp32", "bf16")), 1.0, "report")
    assert not requirement["passed"] and "as fast as student bf16" in requirement["words"]


def test_the_float_twin_ships_where_the_build_file_says_so() -> None:
    rows, (requirement,) = judge("x86", results(1.05), 1.1, "float")
    assert [row["role"] for row in rows] == ["product", "set aside"]
    assert "student fp32 ships in its place" in requirement["words"]
    rows, (requirement,) = judge("x86", results(1.05), 1.1, "stop")
    assert requirement["demanded"] and [row["role"] for row in rows] == ["float twin", "product"]


@pytest.mark.parametrize("other", [1.5, 0.9])
def test_the_float_twin_ships_only_where_nothing_else_of_its_network_pays(other: float) -> None:
    twin, slow = results(0.95)
    mixed = {**results(other)[1], "variant": "student mixed", "precision": "mixed"}
    rows, requirements = judge("x86", [twin, slow, mixed], 1.0, "float")
    assert [each["passed"] for each in requirements] == [False, other > 1]
    shipped = [row["variant"] for row in rows if row["role"] == "product"]
    assert shipped == (["student mixed"] if other > 1 else ["student fp32"])
    assert ("so it does not ship" in requirements[0]["words"]) == (other > 1)


def test_a_float_product_has_nothing_to_beat() -> None:
    only = [{**results(1.0)[0], "role": "product"}]
    assert judge("x86", only, 2.0, "stop") == (only, [])


@pytest.mark.parametrize(
    ("toolchain", "flags", "precision"),
    [
        ("openvino", "avx512f avx512_bf16", "bf16"),
        ("openvino", "avx2 amx_bf16", "bf16"),
        ("openvino", "avx2", "fp32"),
        ("openvino", "asimd asimdhp", "fp16"),
        ("onnxruntime", "avx512_bf16", "fp32"),
        ("tensorrt", "asimd asimdhp", "fp32"),
    ],
)
def test_what_a_runtime_computes_in_by_itself(toolchain: str, flags: str, precision: str) -> None:
    assert native_precision(toolchain, flags.split()) == precision


@pytest.mark.parametrize(("flags", "floats"), [("avx2", ["fp32"]), ("avx2 amx_bf16", ["fp32", "bf16"])])
def test_what_a_user_would_get_without_this_build_is_a_twin(
    flags: str, floats: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pipeline import products
    from pipeline.config import load_settings
    from pipeline.session import _check_device

    monkeypatch.setattr(products, "cpu_flags", lambda: frozenset(flags.split()))
    path = tmp_path / "build.toml"
    path.write_text(SMALL_BUILD.replace('"this-machine"', '"x86-avx2"'))
    settings = load_settings(path)
    target = products.resolve_targets(settings, tmp_path)[1]
    twins = [each.precision for each in products.variants_of(settings, target) if each.role == "float twin"]
    assert target.toolchain == "openvino" and twins == floats
    _check_device(settings, target, "2026.4.0")
    target = replace(target, section=target.section.model_copy(update={"precisions": ["fp16", "int8"]}))
    twins = [each.precision for each in products.variants_of(settings, target) if each.role == "float twin"]
    assert twins == ["fp16", *floats[1:]]


def test_every_step_says_what_it_cost_and_gained() -> None:
    whole = document(samples=80)
    rows = [result for result in whole["results"] if result["target"] == "any-onnxruntime"]
    costs = [
        {"name": "student", "seconds": 100.0},
        {"name": "quantize student any-onnxruntime", "seconds": 4.0},
    ]
    slim, quantize = gains("any-onnxruntime", rows, costs)
    assert (slim["before"], slim["after"], slim["seconds"]) == ("teacher fp32", "student fp32", 100.0)
    assert slim["accuracy_change"] == rows[1]["accuracy"]["top1"] - rows[0]["accuracy"]["top1"]
    low, high = slim["accuracy_interval"]
    assert low <= slim["accuracy_change"] <= high
    assert (quantize["before"], quantize["seconds"], quantize["step"]) == (
        "student fp32",
        4.0,
        "quantize student",
    )
    assert quantize["speedup"] < 1 < slim["speedup"] and quantize["size_change_bytes"] < 0
