"""A report shows what is in its record, the bad with the good, to everybody, and nothing else."""

from __future__ import annotations

import copy
import errno
import html
import json
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from browser import NAMES, find, look
from example_record import complete, document, example, family, onnx_start
from hypothesis import given
from hypothesis import strategies as st

from pipeline.measured import Speedup
from pipeline.record import Record
from pipeline.report import json_schema, load, render
from pipeline.report.headline import headlines
from pipeline.report.numbers import NOTHING, against, byte_unit, measured, measured_column
from pipeline.report.page import markdown
from pipeline.report.results import compare
from pipeline.report.scores import confusion
from pipeline.report.structure import spoken
from pipeline.report.wording import wording
from targets.errors import ConfigError, StageError, StoreError

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "docs/schema/record.schema.json"
STYLE = ROOT / "pipeline/report/templates/report.css"
HOSTILE = '</text></td><script>alert("x")</script>$\\frac{a}$|`@you'
ALL_TARGETS = ("x86-avx2-openvino", "any-onnxruntime", "x86-avx2-onnxruntime")
VOID = {"meta", "link", "br", "path", "use", "img"}


class Page(HTMLParser):
    """Elements of a page with their attributes, and the text outside of style sheets."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(record: Record, folder: Path) -> Page:
    render(record, folder)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, list):
        return [replaced(item, old, new) for item in value]
    if isinstance(value, dict):
        return {replaced(key, old, new): replaced(item, old, new) for key, item in value.items()}
    return value


def hostile() -> Record:
    labelled = replaced(document(samples=80), "Ankle boot", HOSTILE)
    return Record.model_validate(replaced(labelled, "float parts run in fp32", HOSTILE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    render(example(ALL_TARGETS), folder)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(Record.model_validate(complete()), tmp_path_factory.mktemp("full"))


@pytest.mark.parametrize("labels", ["teacher", "model"])
def test_without_labels_nothing_is_called_accuracy(labels: str, tmp_path: Path) -> None:
    whole = document(samples=80)
    whole["data"]["labels"] = labels
    for each in whole["targets"]:
        each["headlines"] = headlines(each["name"], whole["results"], wording(labels))
    page = page_of(Record.model_validate(whole), tmp_path)
    shown = page.text + (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"agreement with the {labels}" in shown and "not accuracy" in shown
    assert "accura" not in shown.replace("not accuracy", "").lower()


def test_report_json_is_the_record_and_fits_the_published_schema(folder: Path) -> None:
    text = (folder / "report.json").read_text(encoding="utf-8")
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(json.loads(text))
    assert load(folder / "report.json") == example(ALL_TARGETS)
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_published_schema_is_current() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == json_schema()
    jsonschema.Draft202012Validator.check_schema(json.loads(json_schema()))


def test_published_schema_refuses_what_load_refuses() -> None:
    broken = document(samples=10)
    del broken["results"][0]["accuracy"]["top1"]
    with pytest.raises(jsonschema.ValidationError, match="top1"):
        jsonschema.validate(broken, json.loads(SCHEMA.read_text()))


def test_same_record_gives_the_same_bytes(tmp_path: Path) -> None:
    record = example(samples=80)
    for name in ("first", "second"):
        render(record, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == ["report.html", "report.json", "report.md"]
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.parametrize("whole", [False, True])
def test_page_asks_the_network_for_nothing(whole: bool, page: Page, full: Page) -> None:
    page = full if whole else page
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action"):
            allowed = ("#", "data:,", "data:image/png;base64,")
            assert attributes.get(name, "#").startswith(allowed), (tag, attributes)
        assert "url(" not in attributes.get("style", "").replace("url(#", "")
    assert not {"script", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert not re.search(r"@import|url\(", STYLE.read_text())


def test_page_shows_its_sections_in_order(page: Page) -> None:
    assert [attributes["id"] for attributes in page.all("section") if "id" in attributes] == [
        *("results", "tradeoff", "latency", "recall", "confusion", "networks", "structure", "gates"),
        *("stages", "machines", "data", "settings", "reproduce"),
    ]
    main = page.text.index("edgewright build report")
    headlines = [page.text.index(target.headlines[0]) for target in example(ALL_TARGETS).targets]
    assert main < min(headlines) and max(headlines) < page.text.index("Every variant was timed")


def test_whole_record_has_a_section_for_everything(full: Page) -> None:
    sections = [attributes["id"] for attributes in full.all("section") if "id" in attributes]
    assert {"gains", "layers", "paths", "triage"} < set(sections)
    assert sections.index("networks") < sections.index("paths") < sections.index("structure")
    for said in (
        "any-onnxruntime: student int8 is 0.88× as fast as student fp32: it does not pay.",
        "1 of 6 timings are not stable; their figures are shown as they are.",
        "contended : samples have two modes, 0.23 and 0.28 ms",
        "energy read from INA3221 VDD_IN",
        "throughput with 2 requests under way, 2 streams",
        "preprocessing 0.0120 (0.0108–0.0132) ms and postprocessing",
        "slim and train student teacher fp32 → student fp32 5 min 12 s",
        "98.95 ▼ worse: −0.19 (−0.31 to −0.06)",
        "student int8 : 7.41 bits a weight on average",
        "3 channels of 2 bits, 1 channel of 3 bits",
        "measured 0.21 ms, split 0.24 ms",
        "conv0 Convolution jit_avx2",
        "Sandal, said to be Sneaker: 22 images",
        "INFERENCE_PRECISION_HINT=f32",
    ):
        assert said in full.text, said
    assert full.text.index("it does not pay") < full.text.index("Every variant was timed")
    images = full.all("img")
    assert len(images) == 2 * 3 and all("said to be" in image["alt"] for image in images)


def test_critical_paths_and_triage_are_shown_class_by_class_and_start_by_start(full: Page) -> None:
    assert "Customising to these classes can pay" in full.text
    assert "2 of 8 channels on the path of Sneaker, counted from 0: 1, 5" in full.text
    assert "stages.0.0 and stages.1.0" in full.text and "69.0" in full.text and "76.5" in full.text
    assert full.text.count("least-squares") == 2 and "That network reached 94.3" in full.text


def test_where_nothing_is_wrong_the_top_says_so(tmp_path: Path) -> None:
    whole = complete(samples=10)
    for each in whole["requirements"]:
        each["passed"] = True
    text = page_of(Record.model_validate(whole), tmp_path).text
    assert "✓ Every quantized engine beats its float twins." in text
    assert "✓ All 6 timings are stable." in text


def test_what_was_not_measured_has_no_column(page: Page) -> None:
    for absent in ("Peak memory, MiB of it", "Inferences a second", "Energy, mJ", "Inside the engines"):
        assert absent not in page.text
    assert "Cost and gain" not in page.text


@pytest.mark.parametrize("name", ["record-2-first.json", "record-2.json"])
def test_records_written_before_stay_readable(name: str, tmp_path: Path) -> None:
    path = Path(__file__).parent / "records" / name
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(json.loads(path.read_text()))
    assert page_of(load(path), tmp_path).text
    assert load(tmp_path / "report.json") == load(path)


def test_page_is_accessible(page: Page) -> None:
    identifiers = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert max(identifiers.values()) == 1
    assert page.all("html") == [{"lang": "en"}]
    assert "#main" in [attributes["href"] for attributes in page.all("a")]
    assert all(attributes["href"][1:] in identifiers for attributes in page.all("a"))
    assert len(page.all("table")) == len(page.all("caption")) > 0
    assert {attributes.get("scope") for attributes in page.all("th")} == {"col", "row", "rowgroup"}
    for _, attributes in page.elements:
        assert set(attributes.get("aria-labelledby", "").split()) <= set(identifiers)
    plots = page.all("svg")
    strips = [plot for plot in plots if "strip" in plot.get("class", "")]
    assert len(strips) == 5 and len(plots) - len(strips) == 3 + 9 + 5
    assert all(plot["role"] == "img" for plot in plots)
    assert all(len(plot["aria-labelledby"].split()) == (1 if plot in strips else 2) for plot in plots)
    assert [level for level, _ in page.elements if level == "h1"] == ["h1"]


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours "#rrggbb": WCAG 2.2, 1.4.3."""

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def mixed(top: list[int], share: float, bottom: str) -> str:
    below = [int(bottom[start : start + 2], 16) for start in (1, 3, 5)]
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in zip(top, below, strict=True))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_colour_stands_out(scheme: int) -> None:
    block = re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", block))
    backgrounds = [colours[name] for name in ("paper", "card", "tint", "loss-tint")]
    texts = [
        name for name in colours if name in ("ink", "ink-soft", "accent", "win", "loss") or "series" in name
    ]
    assert len(texts) == 5 + 6
    for name in texts:
        for background in backgrounds:
            assert contrast(colours[name], background) >= 4.5, (name, background)
    deepest = max(cell.shade for row in confusion(example().results[0].accuracy) for cell in row.cells)
    for shade in re.findall(r"--(?:hit|miss): (\d+ \d+ \d+);", block):
        cell = mixed([int(part) for part in shade.split()], deepest, colours["card"])
        assert contrast(colours["ink"], cell) >= 4.5


def test_page_and_markdown_say_what_lost_and_what_tied(folder: Path, page: Page) -> None:
    text = page.text
    assert text.count("slower than student fp32 0.877× (0.866–0.888)") == 2
    assert text.count("no measurable difference from student fp32 1.005× (0.993–1.018)") == 2
    assert text.count("faster than student fp32") == 2
    summary = (folder / "report.md").read_text(encoding="utf-8")
    assert "▼ slower than student fp32: 0.877× (0.866–0.888)" in summary
    assert "= no measurable difference from student fp32" in summary
    assert "All 6 gates passed." in summary


def test_percentiles_without_enough_samples_are_not_shown(tmp_path: Path) -> None:
    assert page_of(example(samples=40), tmp_path / "few").text.count("too few samples") == 2 * 3 * 2
    assert page_of(example(samples=80), tmp_path / "some").text.count("too few samples") == 2 * 3


def test_settings_are_shown_key_by_key(page: Page) -> None:
    assert "targets.1.name any-onnxruntime targets.1.threads 1" in page.text
    assert 'targets.1.precisions ["fp32", "int8"]' in page.text


def test_machine_is_described_in_words_with_units_and_what_changed(page: Page) -> None:
    assert "CPU model AMD EPYC 7B13" in page.text
    assert "memory, MiB 7961" in page.text
    assert "temperature k10temp, °C 48.0 53.5 changed" in page.text
    assert "frequency, MHz 3410 3410 temperature" in page.text


def test_late_samples_are_counted_and_marked(page: Page) -> None:
    assert re.search(r"▲ \d+ of 700 samples lie above, up to [\d.]+ ms", page.text)


def test_smallest_build_has_a_report(tmp_path: Path) -> None:
    text = page_of(Record.model_validate(onnx_start()), tmp_path).text
    assert "model fp32" in text
    assert "No gates were checked." in text
    assert "Structure" not in text
    assert "student" not in text


def test_structure_says_what_each_student_keeps_and_whether_its_budget_holds(tmp_path: Path) -> None:
    page = page_of(Record.model_validate(family()), tmp_path)
    for said in (
        "student-0.3ms keeps 220 of 448 channels",
        "at most 0.3 ms (1.87 before), predicted 0.291, measured 0.282 (0.279–0.285) ms",
        "✓ holds",
        "= too close to call",
        "✗ exceeded",
        "Warning: Ankle boot has 40 training images",
        "mixer.conv grouped in 4: channels are tied together",
        "student-0.3ms: 16 of 32 removed, 14.2 % lost; student-0.2ms: 24 of 32 removed, 44.4 % lost",
    ):
        assert said in page.text
    short = page.text[: page.text.index("Every variant was timed")]
    assert "✗ Budgets exceeded by student-0.1ms." in short
    summary = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (
        "**Structure.** Channels in the order of joint. Budgets exceeded by student-0.1ms.\n\n- " in summary
    )
    assert "8 of 32 channels stay, counted from 0: 0, 3, 7, 10, 14, 17, 21, 28" in page.text


@given(st.sets(st.integers(0, 40), min_size=1))
def test_spoken_channels_can_be_read_back(channels: set[int]) -> None:
    read: set[int] = set()
    for part in spoken(sorted(channels)).split(", "):
        first, _, last = part.partition("–")
        read |= set(range(int(first), int(last or first) + 1))
    assert read == channels


def test_a_family_is_compared_with_its_teacher_and_itself_while_the_record_has_every_pair(
    tmp_path: Path,
) -> None:
    record = Record.model_validate(family())
    text = page_of(record, tmp_path).text
    assert {len(result.speedups) for result in record.results} == {7}
    table = text[text.index("Speed, × baseline") : text.index("Accuracy and latency Up")]
    assert "student-0.1ms int8 product" in table
    assert "than teacher int8" in table and "than student-0.1ms fp32" in table
    assert not re.search(r"(?:faster|slower) than student-[\d.]+ms int8", table)
    assert load(tmp_path / "report.json") == record


def test_failed_gate_is_named_first_and_in_words(tmp_path: Path) -> None:
    failed = document(samples=40)
    failed["gates"][2]["checks"][1] |= {"value": 0.99899996, "passed": False}
    failed["gates"][2] |= {"passed": False, "first_diverging": "/layer3/Conv_output_0"}
    text = page_of(Record.model_validate(failed), tmp_path).text
    assert "1 of 5 gates failed: quantize student." in text[: text.index("Variants Every")]
    assert "✗ failed: 0.99899996 (≥ 0.999)" in text
    assert text.index("first at /layer3/Conv_output_0") < text.index("✓ passed")
    summary = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "- ✗ quantize student: 0.99899996 (≥ 0.999), first at /layer3/Conv\\_output\\_0" in summary


def test_hostile_names_are_shown_not_obeyed(tmp_path: Path) -> None:
    page = page_of(hostile(), tmp_path)
    assert "script" not in {tag for tag, _ in page.elements}
    assert page.text.count(HOSTILE) > 4
    assert html.escape("<script>") in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_hostile_variant_reaches_plots_and_tables_as_text(tmp_path: Path) -> None:
    record = Record.model_validate(replaced(document(samples=40), "student int8", HOSTILE))
    page = page_of(record, tmp_path)
    assert "script" not in {tag for tag, _ in page.elements}
    rows = [line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}
    assert not any("<script" in row or "@you" in row for row in rows)


@given(st.text())
def test_markdown_keeps_text_in_its_cell(text: str) -> None:
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_\[]|[<>@\n\r]", markdown(text))


def test_files_that_are_there_survive_a_failure(tmp_path: Path) -> None:
    render(example(samples=10), tmp_path)
    before = (tmp_path / "report.json").read_bytes()
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.html").mkdir()
    with pytest.raises(StoreError, match="cannot write the report"):
        render(example(samples=20), tmp_path)
    assert (tmp_path / "report.json").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_a_disk_that_is_full_is_named_as_it_is_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StoreError, match="the disk is full"):
        render(example(samples=10), tmp_path)


def test_folder_that_is_a_file_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(StoreError) as caught:
        render(example(samples=10), place)
    assert caught.value.where and caught.value.mend


def test_figures_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    broken = document(samples=10)
    broken["gates"][0]["checks"][0]["value"] = float("nan")
    with pytest.raises(StageError, match="not a number"):
        render(Record.model_validate(broken), tmp_path)
    assert not list(tmp_path.iterdir())


def broken_records() -> dict[str, tuple[str, str]]:
    whole = document(samples=10)
    other = {**whole, "schema": "edgewright.record/99"}
    missing = copy.deepcopy(whole)
    del missing["results"][1]["latency"]["median_ms"]
    unknown = {**whole, "extra": 1}
    product = copy.deepcopy(whole)
    product["targets"][0]["products"] = ["student int4"]
    matrix = copy.deepcopy(whole)
    matrix["results"][0]["accuracy"]["confusion"].pop()
    stranger = copy.deepcopy(whole)
    stranger["structure"]["students"][0]["network"] = "student-50"
    channels = copy.deepcopy(whole)
    channels["structure"]["students"][0]["groups"][0]["channels"] = [5, 32]
    groups = copy.deepcopy(whole)
    groups["structure"]["students"][0]["groups"].pop()
    return {
        "not JSON": ("{", "not JSON"),
        "nested too deeply": ("[" * 100_000, "not JSON"),
        "NaN": ('{"schema": NaN}', "not JSON"),
        "a list": ("[]", "it names no schema"),
        "no schema": ("{}", "it names no schema"),
        "another version": (json.dumps(other), "edgewright.record/99"),
        "a field missing": (json.dumps(missing), "results.1.latency.median_ms"),
        "a field too many": (json.dumps(unknown), "extra"),
        "an unknown product": (json.dumps(product), "no result of 'student int4'"),
        "a matrix cut short": (json.dumps(matrix), "not 4 × 4"),
        "a student that is no network": (json.dumps(stranger), "no network 'student-50'"),
        "a channel too many": (json.dumps(channels), "channels of 'stem' kept by 'student'"),
        "a group missing": (json.dumps(groups), "not those that were scored"),
    }


@pytest.mark.parametrize("name", broken_records())
def test_load_refuses_with_reason_place_and_way_out(name: str, tmp_path: Path) -> None:
    text, reason = broken_records()[name]
    path = tmp_path / "report.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(reason)) as caught:
        load(path)
    assert caught.value.where == str(path)
    assert caught.value.mend


def test_load_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path / "none.json")


def test_reading_a_record_needs_no_plotting() -> None:
    script = (
        "import sys, pipeline.report; sys.exit(bool({'matplotlib', 'jinja2', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


MAGNITUDES = st.floats(1e-6, 1e6)


@given(MAGNITUDES, st.floats(0, 0.5), st.floats(0, 0.5))
def test_written_interval_holds_the_written_figure(value: float, below: float, above: float) -> None:
    figure = measured(value, value * (1 - below), value * (1 + above))
    low, middle, high = (float(text.replace(",", "")) for text in (figure.low, figure.value, figure.high))
    assert low <= middle <= high
    half = value * (above + below) / 2
    assert abs(middle - value) <= max(half, value / 100)


@given(st.floats(0.2, 5), st.floats(0, 0.2), st.floats(0, 0.2))
def test_a_difference_is_claimed_only_when_the_interval_leaves_out_one(
    ratio: float, below: float, above: float
) -> None:
    low, high = ratio * (1 - below), ratio * (1 + above)
    kind = compare(Speedup(baseline="b", ratio=ratio, interval=(low, high))).kind
    assert (kind == "tie") == (low <= 1 <= high)
    assert (kind == "win") == (low > 1)


@given(st.floats(1 + 1e-6, 2), st.floats(0, 0.5))
def test_interval_that_leaves_out_one_reads_so(low: float, width: float) -> None:
    ratio = compare(Speedup(baseline="b", ratio=low + width / 2, interval=(low, low + width))).ratio
    assert float(ratio.low) > 1


@given(st.floats(1e-3, 1.5), st.sampled_from([0.05, 0.98, 0.999, 1.0]))
def test_figure_never_reads_as_a_limit_it_misses(value: float, limit: float) -> None:
    if abs(value - limit) > 1e-8:
        assert float(against(value, limit)) != limit


@given(st.lists(st.tuples(MAGNITUDES, st.floats(0, 0.1)), min_size=1))
def test_a_column_has_one_number_of_decimals(figures: list[tuple[float, float]]) -> None:
    column = measured_column([(value, value - reach, value + reach) for value, reach in figures])
    decimals = {text.partition(".")[2].__len__() for figure in column for text in (figure.value, figure.low)}
    assert len(decimals) == 1


@given(st.lists(st.integers(1, 1 << 40), min_size=1))
def test_sizes_never_fall_below_one_of_their_unit(sizes: list[int]) -> None:
    assert all(size >= byte_unit(sizes).size for size in sizes)


def test_class_without_images_has_no_recall(tmp_path: Path) -> None:
    empty = document(samples=10)
    for result in empty["results"]:
        result["accuracy"]["classes"][0] |= {"count": 0, "recall": None, "precision": None}
        result["accuracy"]["confusion"][0] = [0, 0, 0, 0]
    page = page_of(Record.model_validate(empty), tmp_path)
    assert f"Sandal 0 images student int8 {NOTHING} {NOTHING}" in page.text


def test_page_fits_phone_and_desktop_and_logs_nothing(folder: Path, tmp_path: Path) -> None:
    browser = find()
    if browser is None:
        pytest.skip(f"needs one of {', '.join(NAMES)} on the path")
    too_wide = '<!doctype html><div style="width: 3000px">wide</div><script>console.error("heard")</script>'
    render(hostile(), tmp_path / "hostile")
    render(Record.model_validate(onnx_start()), tmp_path / "small")
    render(Record.model_validate(family()), tmp_path / "family")
    render(Record.model_validate(complete()), tmp_path / "full")
    places = (folder, *(tmp_path / name for name in ("hostile", "small", "family", "full")))
    sources = [(place / "report.html").read_text(encoding="utf-8") for place in places]
    pages = [(source, width) for source in sources for width in (390, 1280)]
    widths, console = look(browser, [*pages, (too_wide, 390)], tmp_path)
    *reports, control = widths
    assert control[1] > 390, "the probe does not see a page that is too wide"
    assert reports == [(width, width) for _, width in pages]
    assert len(console) == 1, console
    assert "heard" in console[0]
