"""A search for the best trade-offs: Optuna's multi-objective TPE (Ozaki et al. 2022), kept in its storage.

What is asked and told lies in a journal file or a database. A search that was stopped, however that happened,
goes on where it was: points that were under way are asked again first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.packages import require
from pipeline.sweep.document import Outcome, PointResult
from pipeline.sweep.file import Axis, Objective, SearchSection
from pipeline.sweep.grid import put_last
from pipeline.sweep.point import Point
from targets.errors import ConfigError

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import BaseStorage

DIRECTIONS: dict[Objective, Literal["minimize", "maximize"]] = {
    "accuracy": "maximize",
    "latency_ms": "minimize",
    "size_bytes": "minimize",
}
OUTCOME = "outcome"


class Search:
    """The points of a search, asked and told.

    Args:
        name: of the sweep.
        section: how much is searched, and for what.
        axes: what may differ.
        folder: of a storage that is a file.

    Raises:
        ToolchainMissing: Optuna is not installed.
        ConfigError: the storage cannot be opened.
    """

    def __init__(self, name: str, section: SearchSection, axes: Sequence[Axis], folder: Path) -> None:
        require("optuna")
        self._axes, self._objectives = axes, section.objectives
        self.planned = section.trials
        self._study = _study(name, section, axes, folder)
        self._trials: dict[str, Trial] = {}
        self._asked = self._take_up()

    def finished(self) -> list[Outcome]:
        """Outcomes of earlier runs, in the order they were asked for."""
        return [
            Outcome.model_validate_json(trial.user_attrs[OUTCOME])
            for trial in self._study.get_trials(deepcopy=False)
            if OUTCOME in trial.user_attrs
        ]

    def ask(self) -> Point | None:
        """The next point, None when as many as wanted were asked for."""
        if self._asked >= self.planned:
            return None
        self._asked += 1
        trial = self._study.ask()
        point = _point(trial, self._axes)
        self._trials[point.name] = trial
        return point

    def tell(self, outcome: Outcome) -> None:
        """Learn from a finished point; one that failed, or was not measured, teaches only that."""
        from optuna.trial import TrialState

        trial = self._trials.pop(outcome.name)
        trial.set_user_attr(OUTCOME, outcome.model_dump_json())
        values = objective_values(outcome.results, self._objectives)
        if values is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, values)

    def place(self, name: str) -> int:
        """Where a point stands among all."""
        return int(name.rpartition("-")[2])

    def _take_up(self) -> int:
        """Ask again for what was under way when an earlier run ended; how many are finished."""
        from optuna.trial import TrialState

        finished = 0
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state is TrialState.RUNNING:
                self._study.tell(trial.number, state=TrialState.FAIL)
                self._study.enqueue_trial(trial.params)
            finished += OUTCOME in trial.user_attrs
        return finished


def objective_values(results: Sequence[PointResult], objectives: Sequence[Objective]) -> list[float] | None:
    """One number an objective: of all engines a point ships the worst; None where one is not known."""
    worst = {"accuracy": min, "latency_ms": max, "size_bytes": max}
    values = []
    for objective in objectives:
        column = [getattr(result, objective) for result in results]
        if not column or None in column:
            return None
        values.append(float(worst[objective](column)))
    return values


def _point(trial: Trial, axes: Sequence[Axis]) -> Point:
    labels: dict[str, str] = {}
    overrides: dict[str, Any] = {}
    for axis in axes:
        label, chosen = _suggest(trial, axis)
        labels[axis.name] = label
        put_last(overrides, chosen)
    return Point(f"trial-{trial.number:04}", labels, overrides)


def _suggest(trial: Trial, axis: Axis) -> tuple[str, Mapping[str, Any]]:
    """What is chosen along an axis: its label, and what it sets."""
    if not axis.ranged:
        label = trial.suggest_categorical(axis.name, list(axis.labelled))
        return str(label), axis.labelled[str(label)]
    assert axis.low is not None and axis.high is not None and axis.key is not None
    value: float | int
    if axis.integer:
        value = trial.suggest_int(axis.name, round(axis.low), round(axis.high), log=axis.log)
    else:
        value = trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log)
    return f"{value:.4g}", {axis.key: value}


def _study(name: str, section: SearchSection, axes: Sequence[Axis], folder: Path) -> Study:
    """Open the study; other axes or objectives are another one in the same storage."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    asked = json.dumps([[axis.model_dump() for axis in axes], section.objectives], sort_keys=True)
    study = optuna.create_study(
        storage=_storage(section.storage, folder),
        study_name=f"{name} {hashlib.sha256(asked.encode()).hexdigest()[:12]}",
        directions=[DIRECTIONS[objective] for objective in section.objectives],
        load_if_exists=True,
    )
    # A sampler begins anew with every run: of the same seed it would ask for the same points again.
    seed = section.seed + len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return study


def _storage(storage: str, folder: Path) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    if "://" not in storage:
        path = str(folder / storage)
        return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    try:
        return RDBStorage(storage)
    except (ImportError, ValueError, OSError) as error:
        raise ConfigError(
            f"the search's storage cannot be opened: {error}",
            where=f"search.storage = {storage!r}",
            mend="give the name of a file, or an address as in sqlite:////tmp/search.db",
        ) from error
