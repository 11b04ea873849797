"""A search for one head's settings, by its score on training units out of fold."""

import hashlib
import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import torch
import typer
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, Trial, TrialState
from tqdm import tqdm

from cache import Store, StoreError
from configs import Profile, UserError, changed, first_line
from configs.schema import Head, Range
from extract.corpora.manifest import Manifest
from heads.data.batches import UnitData
from heads.data.folds import unit_folds
from heads.fitting.cross_validation import check_contents, fold_tasks, open_stores
from heads.fitting.kinds import KINDS
from heads.fitting.progress_file import training_key
from heads.fitting.saved import average
from heads.metrics import evaluate

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
    "cross_modal": _NETWORK,
    "linear": {"c": Range(low=1e-4, high=1.0, log=True), "loss": ["cross_entropy", "weighted"]},
    "bag_of_words": {"c": Range(low=0.1, high=100.0, log=True), "loss": ["cross_entropy", "weighted"]},
    "xgboost": {
        "depth": Range(low=2, high=8),
        "eta": Range(low=0.02, high=0.3, log=True),
        "loss": ["cross_entropy", "weighted"],
    },
}
# Settings that change training but not what is read: trials that differ in nothing else share what was read.
NOT_READ = {"loss", "lr", "hidden", "lstm_layers", "attention_heads", "dropout", "modality_dropout", "time_masking"}
NOT_READ |= {"noise", "mixup", "label_smoothing", "logit_adjustment", "sampling", "weight_decay", "warmup", "schedule"}
NOT_READ |= {"epochs", "patience", "batch_size", "accumulate", "largest_gradient", "ema", "seeds", "c", "trees"}
NOT_READ |= {"depth", "eta", "auxiliary_share"}
STARTUP_TRIALS = 10  # drawn at random before the sampler learns from them
INVALID_IN_A_ROW = 50  # draws that cannot be trained, after which the space is refused
INVALID = "invalid"  # the attribute that says why a draw was not trained


class Search:
    """One head's study, and what its trials are scored on: training units, and val units to stop early by.

    The study lies in ``runs/PROFILE/search/HEAD/study.db`` under a name made of all that decides its scores: with
    another manifest, store, setting or space, a new study is begun beside the old one. What the test split holds is not
    read. Trial n is drawn by a sampler seeded with n, from the trials that ended before it: a search that was killed
    and taken up again draws what it would have drawn.

    Raises:
        UserError: no training units, too few groups for the folds, a store that is missing or empty, a metadata field
            that the manifest lacks, a space with settings that such a head does not have.
    """

    def __init__(self, profile: Profile, manifest: Manifest, name: str) -> None:
        self.profile, self.manifest, self.name = profile, manifest, name
        head = profile.heads[name]
        self.space = search_space(profile, name)
        self.units = [unit for unit in manifest.units() if unit.split != "test"]
        self.folds = unit_folds(self.units, profile.folds, profile.seed, profile.manifest_path)
        inputs = [head.stores, *self.space["inputs"]] if "inputs" in self.space else [head.stores]
        every = list(dict.fromkeys(name for names in inputs for name in names))
        self.stores = open_stores(profile, head.model_copy(update={"inputs": every}))
        self._read_for, self._data = "", None
        self._read(head)  # what is wrong with the stores or the metadata is found before any trial

        space = {key: value.model_dump() if isinstance(value, Range) else value for key, value in self.space.items()}
        decides = json.dumps([training_key(profile, head, self.stores), space], default=str)
        self.study_name = f"{name}-{hashlib.sha256(decides.encode()).hexdigest()[:12]}"
        self.path = profile.search_path(name) / "study.db"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.storage = optuna.storages.RDBStorage(f"sqlite:///{self.path.resolve()}")
        others = [name for name in optuna.get_all_study_names(self.storage) if name != self.study_name]
        self.study = optuna.create_study(
            storage=self.storage,
            study_name=self.study_name,
            direction="maximize",
            load_if_exists=True,
            # the score of one fold is too noisy to end a trial by
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
        )
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

    def run(self, n_trials: int) -> None:
        """Go on until ``n_trials`` trials have ended, those of earlier calls included.

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
            seed=self.profile.seed * 1_000_003 + len(self._drawn()),
            constant_liar=False,  # what a killed trial drew must not matter
        )
        trial = self.study.ask()
        try:
            for setting, choices in self.space.items():
                _draw(trial, setting, choices)
            drawn = self.settings_of(trial)
            head = changed(self.profile, {"heads": {self.name: drawn}}).heads[self.name]
            score = self._score(head, trial, show)
        except StoreError:  # of what is read, not of what was drawn
            raise
        except (UserError, torch.OutOfMemoryError) as error:
            reason = first_line(error)
            trial.set_user_attr(INVALID, reason)
            self.study.tell(trial, state=TrialState.PRUNED)
            return reason
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, score)
        return None

    def _score(self, head: Head, trial: Trial, show: Callable[[int], None]) -> float:
        """Macro-F1 of the training units, each predicted by the models that did not train on it."""
        data, profile, classes = self._read(head), self.profile, self.manifest.classes
        log_p = np.empty((len(self.units), len(classes)))
        score = 0.0
        for fold in range(profile.folds):
            show(fold)
            part = np.flatnonzero(self.folds == fold)
            tasks = fold_tasks(profile, self.manifest, head, self.units, self.folds, fold, data, self.stores)
            models = [KINDS[head.kind].fit(task)[0] for task in tasks]
            log_p[part] = average([model.log_probabilities(data, part) for model in models])
            done = np.flatnonzero((self.folds >= 0) & (self.folds <= fold))
            labels = [self.units[i].label for i in done]
            score = evaluate(labels, np.exp(log_p[done]), classes, bootstrap=0)["macro_f1"]["value"]
            trial.report(score, fold)
            if fold + 1 < profile.folds and trial.should_prune():
                raise optuna.TrialPruned
        return score

    def _read(self, head: Head) -> Any:
        """What the head reads of the units; that of the last trial, where the settings that decide it are the same."""
        wanted = head.model_dump_json(exclude=NOT_READ)
        if wanted != self._read_for:
            self._data = None  # two at once may not fit into memory
            sources: dict[str, Store] = {name: self.stores[name] for name in head.stores}
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
    return profile.search.get(name) or SPACES[head.kind]


def _draw(trial: Trial, setting: str, choices: list[Any] | Range) -> None:
    if isinstance(choices, list):  # as JSON: a study holds no lists
        trial.suggest_categorical(setting, [json.dumps(choice, default=str) for choice in choices])
    elif isinstance(choices.low, int) and isinstance(choices.high, int):
        trial.suggest_int(setting, choices.low, choices.high, log=choices.log)
    else:
        trial.suggest_float(setting, choices.low, choices.high, log=choices.log)
