"""The CI workflows that are examples: they parse, so does their shell, and the verbs take every option."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from targets.datafile import tomllib

REPOSITORY = Path(__file__).parents[2]
yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")
WORKFLOWS = ("github-actions.yml", "gitlab-ci.yml")
EDGEWRIGHT = "venv/bin/edgewright"


def scripts(workflow: str) -> list[str]:
    """Every piece of shell in a workflow."""
    document = yaml.safe_load((REPOSITORY / "examples/ci" / workflow).read_text())
    return list(_scripts(document))


def _scripts(part: Any) -> Iterator[str]:
    if isinstance(part, list):
        for each in part:
            yield from _scripts(each)
    elif isinstance(part, dict):
        for key, value in part.items():
            if key == "run":
                yield value
            elif str(key).endswith("script"):
                yield "\n".join(value)
            else:
                yield from _scripts(value)


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_every_command_of_a_workflow_is_one_that_runs(workflow):
    found = scripts(workflow)
    verbs = []
    for script in found:
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)
        for call in re.findall(rf"{EDGEWRIGHT} ([^;|&\n]+)", script):
            verb, *arguments = shlex.split(call)
            # Raises where an option, a choice or an argument is not the verb's.
            main.commands[verb].make_context(verb, arguments)
            verbs.append(verb)
    assert verbs == ["build", "release", "selftest"]
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"edgewright\[(\w+)\]", "\n".join(found))) <= set(extras)


def test_what_a_workflow_publishes_is_what_release_writes():
    script = "\n".join(scripts("github-actions.yml"))
    published = re.search(r"gh release create \S+ (.*)", script)
    assert published is not None
    forms = set(re.findall(r"--form (\S+)", script))
    kinds = {f"releases/*.{form}" for form in forms}
    assert set(published[1].split()) == kinds | {"releases/SHA256SUMS", "releases/releases.json"}
