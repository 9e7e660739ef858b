"""A series of builds on one page: in order of time, shaky ones marked, strangers refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import NAMES, find, look
from click.testing import CliRunner
from example_record import complete
from test_report import Page

from pipeline.cli import main
from pipeline.report import render_trend
from pipeline.report.trend import collect
from targets.errors import ConfigError


def series(folder: Path, *changes: Callable[[dict[str, Any]], None]) -> Path:
    """Builds of a month apart, written in the wrong order; each change makes one of them."""
    for month, change in enumerate(changes, 1):
        whole = complete(samples=80)
        whole["project"] |= {"finished_at": f"2026-{month:02}-14T10:32:07+00:00", "version": f"1.{month}.0"}
        change(whole)
        place = folder / f"{9 - month}.json" if month % 2 else folder / f"build-{9 - month}" / "report.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(whole))
    return folder


def as_it_is(whole: dict[str, Any]) -> None:
    return


def on_another_machine(whole: dict[str, Any]) -> None:
    for name, environment in whole["environments"].items():
        whole["environments"][name] = {**environment, "facts": {"cpu_model": "Arm Cortex-A76"}}


def page_of(folder: Path, out: Path) -> Page:
    render_trend(folder, out, "0.1.0")
    return Page((out / "trend.html").read_text(encoding="utf-8"))


def test_builds_stand_in_order_of_time(tmp_path: Path) -> None:
    folder = series(tmp_path / "series", as_it_is, as_it_is, as_it_is)
    builds, left_out = collect(folder)
    assert [build.record.project.version for build in builds] == ["1.1.0", "1.2.0", "1.3.0"]
    assert not left_out
    page = page_of(folder, tmp_path)
    assert page.text.index("1.1.0, 2026-01-14") < page.text.index("3 1.3.0, 2026-03-14")
    assert len(page.all("svg")) == 6 and all(plot["role"] == "img" for plot in page.all("svg"))
    assert "contended" in page.text and "different machines" not in page.text
    assert not {"script", "img"} & {tag for tag, _ in page.elements}


def test_other_machines_are_named(tmp_path: Path) -> None:
    page = page_of(series(tmp_path / "series", as_it_is, on_another_machine), tmp_path)
    assert "Timed on different machines (AMD EPYC 7B13, Arm Cortex-A76)" in page.text


def test_what_is_no_record_is_left_out_and_named(tmp_path: Path) -> None:
    folder = series(tmp_path / "series", as_it_is, as_it_is)
    (folder / "old.json").write_text('{"schema": "edgewright.record/1"}')
    (folder / "notes.json").write_text("[]")
    text = page_of(folder, tmp_path).text
    assert "old.json is left out: not a build record of schema 'edgewright.record/2'" in text
    assert "notes.json is left out" in text


def test_one_record_is_no_series(tmp_path: Path) -> None:
    folder = series(tmp_path / "series", as_it_is)
    (folder / "old.json").write_text('{"schema": "edgewright.record/1"}')
    with pytest.raises(ConfigError, match="1 build records make no series") as caught:
        collect(folder)
    assert "old.json" in caught.value.what and caught.value.mend


def test_two_projects_are_no_series(tmp_path: Path) -> None:
    folder = series(tmp_path / "series", as_it_is, lambda whole: whole["project"].update(name="other"))
    with pytest.raises(ConfigError, match="different projects make no series: footwear-sorter, other"):
        collect(folder)


def test_the_verb_writes_the_page_and_it_fits(tmp_path: Path) -> None:
    folder = series(tmp_path / "series", as_it_is, on_another_machine)
    done = CliRunner().invoke(main, ["report", "--trend", str(folder)])
    assert done.exit_code == 0 and (folder / "trend.html").is_file()
    assert collect(folder)[1] == []
    browser = find()
    if browser is None:
        pytest.skip(f"needs one of {', '.join(NAMES)} on the path")
    source = (folder / "trend.html").read_text(encoding="utf-8")
    widths, console = look(browser, [(source, 390), (source, 1280)], tmp_path)
    assert widths == [(390, 390), (1280, 1280)] and console == []
