"""A search for one head's settings, by its score on training units out of fold."""

import hashlib
import json
import warnings
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import optuna
import torch
import typer
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from cache import StoreError
from configs import EngineError, UserError, first_line
from configs.profiles import changed
from configs.schema import Head, Profile, Range, shape_of
from extract.corpora.manifest import Manifest
from heads.data.batches import UnitData
from heads.data.folds import FoldModel, unit_folds
from heads.data.views import with_views
from heads.fitting.coverage import usable, wide_inputs
from heads.fitting.cross_validation import Course, FitFolds, Place, check_contents, fit_here, open_stores
from heads.fitting.kinds import KINDS, what_is_read
from heads.fitting.progress_file import training_key
from heads.fitting.saved import average
from heads.metrics.scores import evaluate
from heads.pretraining.folder import starts_of

Space = dict[str, list[Any] | Range]

_NETWORK: Space = {
    "lr": Range(low=1e-4, high=1e-2, log=True),
    "hidden": [64, 128, 256],
    "dropout": Range(low=0.0, high=0.6),
    "modality_dropout": [0.0, 0.1, 0.3],
    "weight_decay": Range(low=1e-4, high=1e-1, log=True),
    "label_smoothing": [0.0, 0.05, 0.1],
    "loss": ["cross_entropy", "weighted", "focal"],
    "batch_size": [16, 32, 64],
}
SPACES: dict[str, Space] = {  # of heads for which the profile names none
    "sequence": _NETWORK,
    "transformer": _NETWORK,
    "cross_modal": _NETWORK,
    "linear": {"c": Range(low=1e-4, high=1.0, log=True), "loss": ["cross_entropy", "weighted"]},
    "bag_of_words": {
        "c": Range(low=0.1, high=100.0, log=True),
        "letters": [False, True],
        "loss": ["cross_entropy", "weighted"],
    },
    "xgboost": {
        "depth": Range(low=2, high=8),
        "eta": Range(low=0.02, high=0.3, log=True),
        "loss": ["cross_entropy", "weighted"],
    },
}
STARTUP_TRIALS = 10  # drawn at random before the sampler learns from them
INVALID_IN_A_ROW = 50  # draws that cannot be trained, after which the space is refused
INVALID = "invalid"  # the attribute that says why a draw was not trained
CHECK = "check"  # the attribute that says what was written


class Search:
    """One head's study, and what its trials are scored on: training units, and val units to stop early by.

    The study lies in ``runs/PROFILE/search/HEAD/study.db`` under a name made of all that decides its scores: with
    another manifest, store, setting or space, a new study is begun beside the old one. What the test split holds is not
    read. Trial n is drawn by a sampler seeded with n, from the trials that ended before it: a search that was killed
    and taken up again draws what it would have drawn. Trials run one after another, their folds wherever ``fit_folds``
    fits them; these are scored in their order, so that a trial is cut short as if they had been fitted in it.

    Raises:
        UserError: no training units, too few groups for the folds, a store that is missing or empty, a metadata field
            that the manifest lacks, a space with settings that such a head does not have.
    """

    def __init__(self, profile: Profile, manifest: Manifest, name: str, fit_folds: FitFolds = fit_here) -> None:
        self.profile, self.manifest, self.name = profile, manifest, name
        self._fit_folds = fit_folds
        head = profile.heads[name]
        self.space = search_space(profile, name)
        self.units = [unit for unit in manifest.units() if unit.split != "test"]
        self.folds = unit_folds(self.units, profile.folds, profile.seed, profile.manifest_path)
        inputs = [head.stores, *self.space["inputs"]] if "inputs" in self.space else [head.stores]
        every = list(dict.fromkeys(name for names in inputs for name in names))
        self.stores = open_stores(profile, head.model_copy(update={"inputs": every}))
        reduced, notes = usable(profile, manifest, name, self.stores)
        if reduced.inputs != profile.heads[name].inputs:
            raise UserError(f"head {name}: {' '.join(notes)} Take that out of heads.{name}.inputs to search")
        for note in [*notes, *wide_inputs(reduced, {name: self.stores[name] for name in reduced.stores})]:
            typer.echo(f"warning: {note}", err=True)
        self._read_for, self._data = "", None
        self._read(head)  # what is wrong with the stores or the metadata is found before any trial

        space = {key: value.model_dump() if isinstance(value, Range) else value for key, value in self.space.items()}
        decides = json.dumps([training_key(profile, head, self.stores), space], default=str)
        self.study_name = f"{name}-{hashlib.sha256(decides.encode()).hexdigest()[:12]}"
        self.path = profile.search_path(name) / "study.db"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study, others = self._open()
        if self.ended:
            typer.echo(f"{self.path}: study {self.study_name} goes on after {len(self.ended)} trials")
        elif others:
            typer.echo(
                f"{self.path}: new study {self.study_name}: the manifest, a store, a setting or the space is not that "
                f"of the other {len(others)} in it, which stay"
            )

    @property
    def ended(self) -> list[FrozenTrial]:
        """Trials that were scored, whether to the last fold or not."""
        return [trial for trial in self._drawn() if INVALID not in trial.user_attrs]

    def _open(self) -> tuple[optuna.Study, list[str]]:
        """The study, and the names of others in the same file. Raises UserError where the file is damaged."""
        try:
            storage = optuna.storages.RDBStorage(f"sqlite:///{self.path.resolve()}")
            others = [name for name in optuna.get_all_study_names(storage) if name != self.study_name]
            opened = optuna.create_study(
                storage=storage,
                study_name=self.study_name,
                direction="maximize",
                load_if_exists=True,
                # the score of one fold is too noisy to end a trial by
                pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
            )
            damaged = [trial.number for trial in opened.get_trials(deepcopy=False) if not _is_as_told(trial)]
        except (SQLAlchemyError, optuna.exceptions.OptunaError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{self.path}: {first_line(error)}: move it away, and search anew") from error
        if damaged:
            raise UserError(f"{self.path}: trial {damaged[0]} is not what was written: move it away, and search anew")
        return opened, others

    def run(self, n_trials: int) -> None:
        """Go on until ``n_trials`` trials have ended, those of earlier calls included.

        Two processes must not do so at once: see :func:`cache.claimed`.

        Raises:
            UserError: draw after draw cannot be trained.
        """
        with tqdm(total=n_trials, desc=f"search {self.name}", disable=None) as bar:
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                self.study.tell(trial.number, state=TrialState.FAIL)  # killed: it will be drawn again
            bar.update(min(len(self.ended), n_trials))
            invalid = 0
            while len(self.ended) < n_trials:
                reason = self._run_trial(lambda fold: bar.set_postfix(fold=fold, best=self._best_score()))
                invalid = 0 if reason is None else invalid + 1
                if invalid == INVALID_IN_A_ROW:
                    raise UserError(f"search.{self.name}: {invalid} draws in a row cannot be trained: {reason}")
                bar.update(reason is None)

    def settings_of(self, trial: Trial | FrozenTrial) -> dict[str, Any]:
        """What a trial drew, as settings of the head."""
        drawn = {
            name: json.loads(value) if isinstance(self.space[name], list) else value
            for name, value in trial.params.items()
        }
        checked = changed(self.profile, {"heads": {self.name: drawn}}).heads[self.name].model_dump(mode="json")
        return {name: value if isinstance(value, dict) else checked[name] for name, value in drawn.items()}

    def best(self, n: int = 1) -> list[FrozenTrial]:
        """The best trials that were scored on all folds."""
        complete = [trial for trial in self.ended if trial.state == TrialState.COMPLETE]
        return sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number))[:n]

    def importances(self) -> dict[str, float]:
        """The share of each setting in what tells good trials from others (Watanabe et al. 2023); {} of few trials."""
        if len(self.best(STARTUP_TRIALS)) < STARTUP_TRIALS:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # all scores alike: nothing to tell apart
            try:
                return get_param_importances(self.study, evaluator=PedAnovaImportanceEvaluator())
            except UserWarning:
                return {}

    def _drawn(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    def _best_score(self) -> str:
        return f"{best[0].value:.4f}" if (best := self.best()) else "none"

    def _run_trial(self, show: Callable[[int], None]) -> str | None:
        """One trial; why it could not be trained, if so."""
        self.study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=STARTUP_TRIALS,
            seed=(self.profile.seed * 1_000_003 + len(self._drawn())) % 2**32,  # the sampler takes no larger one
            constant_liar=False,  # what a killed trial drew must not matter
        )
        trial = self.study.ask()
        try:
            for setting, choices in self.space.items():
                _draw(trial, setting, choices)
            drawn = self.settings_of(trial)
            head = changed(self.profile, {"heads": {self.name: drawn}}).heads[self.name]
            score = self._score(head, trial, show)
        except (StoreError, EngineError):  # of what is read, or of a cluster, not of what was drawn
            raise
        except (UserError, torch.OutOfMemoryError) as error:
            reason = first_line(error)
            trial.set_user_attr(INVALID, reason)
            self._tell(trial, None)
            return reason
        except optuna.TrialPruned:
            self._tell(trial, None)
        else:
            self._tell(trial, score)
        return None

    def _tell(self, trial: Trial, score: float | None) -> None:
        """End a trial; without a score it was cut short."""
        trial.set_user_attr(CHECK, _check(self.study.get_trials(deepcopy=False)[trial.number]))
        self.study.tell(trial, score, state=TrialState.PRUNED if score is None else None)

    def _score(self, head: Head, trial: Trial, show: Callable[[int], None]) -> float:
        """Macro-F1 of the training units, each predicted by the models that did not train on it."""
        data, profile, classes = self._read(head), self.profile, self.manifest.classes
        starts = starts_of(profile, head, self.manifest, self.units, self.folds, self.stores)
        course = Course(profile, self.manifest, head, self.units, self.folds, data, self.stores, starts)
        log_p = np.empty((len(self.units), len(classes)))
        score = 0.0
        models: dict[Place, FoldModel] = {}
        with closing(self._fit_folds(course, course.places())) as fitted:
            for fold in range(course.n_folds):
                show(fold)
                own = [(fold, k) for k in range(head.seeds)]
                while not models.keys() >= set(own):  # others may be done before their turn
                    place, model, _ = next(fitted)
                    models[place] = model
                part = np.flatnonzero(self.folds == fold)
                log_p[part] = average([models.pop(place).log_probabilities(data, part) for place in own])
                done = np.flatnonzero((self.folds >= 0) & (self.folds <= fold))
                labels = [self.units[i].label for i in done]
                score = evaluate(labels, np.exp(log_p[done]), classes, bootstrap=0)["macro_f1"]["value"]
                trial.report(score, fold)
                if fold + 1 < course.n_folds and trial.should_prune():
                    raise optuna.TrialPruned
        return score

    def _read(self, head: Head) -> Any:
        """What the head reads of the units; that of the last trial, where the settings that decide it are the same."""
        wanted = what_is_read(head)
        if wanted != self._read_for:
            self._data = None  # two at once may not fit into memory
            sources = with_views(self.profile, self.manifest, head, {name: self.stores[name] for name in head.stores})
            self._data = KINDS[head.kind].read(head, self.manifest, self.units, sources)
            if isinstance(self._data, UnitData):
                check_contents(self._data, self.profile)
            self._read_for = wanted
        return self._data


def search_space(profile: Profile, name: str) -> Space:
    """The profile's space for a head, or that of its kind.

    Raises:
        UserError: it names the kind itself, or a setting that heads of this kind do not have.
    """
    head = profile.heads[name]
    for setting in profile.search.get(name, {}):
        if setting == "kind":
            raise UserError(f"search.{name}.kind: a search is within one kind; make a head of each kind instead")
        if setting not in head.used:
            raise UserError(f"search.{name}.{setting}: a {head.kind} head has no such setting")
    fixed = shape_of(head) if head.start_from else {}  # other shapes would not fit what it starts from
    own = {setting: choices for setting, choices in SPACES[head.kind].items() if setting not in fixed}
    return profile.search.get(name) or own


def _draw(trial: Trial, setting: str, choices: list[Any] | Range) -> None:
    if isinstance(choices, list):  # as JSON: a study holds no lists
        trial.suggest_categorical(setting, [json.dumps(choice, default=str) for choice in choices])
    elif isinstance(choices.low, int) and isinstance(choices.high, int):
        trial.suggest_int(setting, choices.low, choices.high, log=choices.log)
    else:
        trial.suggest_float(setting, choices.low, choices.high, log=choices.log)


def _check(trial: FrozenTrial) -> str:
    """A hash of what was drawn and how it scored, by fold."""
    told = [trial.params, trial.intermediate_values, trial.user_attrs.get(INVALID)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _is_as_told(trial: FrozenTrial) -> bool:
    """Whether a trial that ended is what was written of it, as far as that is known."""
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) or CHECK not in trial.user_attrs:
        return True
    folds = trial.intermediate_values
    score_is_last = trial.state != TrialState.COMPLETE or trial.value == folds.get(max(folds, default=0))
    return score_is_last and trial.user_attrs[CHECK] == _check(trial)
