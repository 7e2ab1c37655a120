"""Every setting of a run, in one validated, immutable object."""

from __future__ import annotations

import datetime
import difflib
import json
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from langedit.editing.hparams import settings_from_hparams
from langedit.editing.methods.registry import find_method
from langedit.editing.toml import to_toml
from langedit.errors import ConfigError, FactError
from langedit.facts import Language
from langedit.method_points import method_names
from langedit.models.chat import PINNED_DATE, ChatSettings

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class EditConfig(BaseModel):
    """Settings of an `Editor`; the defaults are those published for Llama-3-8B where one exists.

    Attributes:
        method: registered name: langedit, alphaedit, memit, memit-seq, rome, rect, prune, ft, ft-l,
            or one of a plug-in.
        projection: how `langedit` refreshes its projector after a batch. `orthogonal`: every key
            edited so far is forbidden exactly. `pooled`: from the mean over corpus and edited
            keys. `released`: the recursion of the original code.
        layers: indices of the edited layers, rising.
        spread: which of the layers take a share of an edit: `all`, as published with MEMIT, or the
            first and the last (`ends`), after BLUE (Li et al. 2025).
        null_threshold: eigenvalue of the second moment below which a direction is null (tau).
            It scales with the keys of a model.
        null_share: instead of a threshold, the share of the directions that shall be null.
        ridge: weight of the identity in the projected solves (L2 of AlphaEdit).
        relative_ridge: instead of `ridge`, the ridge as a multiple of `tr(P C0)`, the mean squared
            length of what the projector leaves of a key of the corpus. It fits itself to each
            layer, whose keys may be many times longer or shorter than those of the next.
        corpus_weight: weight of the corpus's second moment kept inside the projected solves, so
            that directions which the projector leaves are still weighed by how much the corpus
            uses them. 0, as published, leaves it out; towards a projector that forbids nothing it
            becomes MEMIT with history.
        solve_history: whether the keys of earlier batches are in the projected solves that the
            published methods have them in: AlphaEdit's, and LangEdit's with a projector that is
            refreshed. Off, the projector alone protects them.
        moment_weight: weight of the corpus in MEMIT's solve (lambda, `mom2_update_weight`).
        moment_count: number of documents the corpus counts for against edits when a projector is
            refreshed (N).
        refresh_edits: edits a batch counts for when a projector is refreshed (n). `None`: its real
            size. The original code has 100, whatever the batch.
        rect_share: share of the entries of an update that `rect` keeps.
        norm_clamp: largest norm of the change of a hidden state, relative to the state.
        value_steps: evaluations of the target loss; one update less.
        value_lr: learning rate of Adam.
        kl_weight: weight of the divergence at the subject of `kl_template`.
        value_weight_decay: weight of `|delta| / |h|^2`.
        stop_loss: a fact whose loss is below is finished; 0 to use all steps.
        stop_margin: a fact is finished as well when, in every context, each token of its target is
            more probable than every other token, by at least this difference of log-probabilities
            (nats). With 0 this is the early stopping of Gupta et al. (2025). `None`: never.
        merge_shared: facts of a batch with the same contexts up to the lookup token, and so with
            the same keys, are edited as one row with a common target. Otherwise a solve gives such
            keys the mean of what the facts want.
        loss_layer: layer whose output is read through the final norm and the head; `None`: the
            last, that is the model's own logits.
        kl_template: prompt with one `{}` for the subject, in which the model's next-token
            distribution at the subject should stay. One for all languages, as in the original.
            What follows the subject cannot be seen by a causal model, but may share a token with
            it.
        target_joint: `language`: the target follows the prompt as its language wants it, with or
            without a space. `space`: always with a space, as in the original code.
        prefix_count: context prefixes of a language.
        prefix_length: tokens the model adds to a seed word.
        seed_words: by language, the words that prefixes begin with, instead of the built-in ones.
        basis_tolerance: part of a key, relative to it, that is too small to be a new direction
            (orthogonal projection).
        ft_steps: steps of `ft` and `ft-l` at most.
        ft_lr: learning rate of Adam in `ft` and `ft-l`.
        ft_stop_loss: `ft` and `ft-l` end when a batch's mean loss is below.
        ft_change_limit: largest change of an entry of a weight by a batch of `ft-l`.
        seed: of the prefixes' sampling.
        structure: names of modules, for models whose structure is not found (`layers`,
            `projection`, `final_norm`, `head`).
        states_on: where bases, keys of past edits and factored moments wait between two solves:
            `device`, with the weight of their layer, or `cpu`, in main memory, from where one layer
            at a time goes to that device. Results are the same.
        micro_batch_tokens: padded tokens in one forward pass; of tokens before the lookup tokens,
            whose keys and values are kept, eight times as many. A fact with more is run in parts of
            its contexts, of which one alone may exceed it. Passes that run out of memory are halved
            by themselves.
        chat: put every prompt to the model as the user turn of its chat template, with the target
            as the beginning of the assistant's turn. Context prefixes stand in the user turn.
        system_prompt: text of the system turn of such a chat.
        chat_date: YYYY-MM-DD, the day that a template is given which writes today's date.

    Raises:
        ConfigError: a name is unknown or a value is out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    method: str = "langedit"
    projection: Literal["orthogonal", "pooled", "released"] = "orthogonal"
    layers: tuple[Annotated[int, Field(ge=0)], ...]
    spread: Literal["all", "ends"] = "all"
    null_threshold: Positive | None = None
    null_share: Share | None = None
    ridge: Positive = 10.0
    relative_ridge: Positive | None = None
    corpus_weight: NotNegative = 0.0
    solve_history: bool = True
    moment_weight: Positive = 15000.0
    moment_count: Count = 100_000
    refresh_edits: Count | None = None
    rect_share: Share = 0.4
    norm_clamp: Positive = 0.75
    value_steps: Count = 25
    value_lr: Positive = 0.1
    kl_weight: NotNegative = 0.0625
    value_weight_decay: NotNegative = 0.5
    stop_loss: NotNegative = 0.05
    stop_margin: NotNegative | None = None
    merge_shared: bool = False
    loss_layer: Annotated[int, Field(ge=0)] | None = None
    kl_template: str = "{} is a"
    target_joint: Literal["language", "space"] = "language"
    prefix_count: Annotated[int, Field(ge=0)] = 5
    prefix_length: Count = 10
    seed_words: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    basis_tolerance: Annotated[float, Field(ge=1e-13, lt=1)] = 1e-6
    ft_steps: Count = 25
    ft_lr: Positive = 5e-4
    ft_stop_loss: NotNegative = 0.01
    ft_change_limit: Positive = 5e-4
    seed: Annotated[int, Field(ge=0)] = 0
    structure: Mapping[str, str] = Field(default_factory=dict)
    states_on: Literal["device", "cpu"] = "device"
    micro_batch_tokens: Count = 8192
    chat: bool = False
    system_prompt: str | None = None
    chat_date: str = PINNED_DATE

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise ConfigError(_explain(error, tuple(type(self).model_fields))) from None

    @field_validator("layers", mode="after")
    @classmethod
    def _rising(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if not layers or list(layers) != sorted(set(layers)):
            raise ValueError("expected one or more layer indices, rising and without repeats")
        return layers

    @field_validator("method", mode="after")
    @classmethod
    def _registered(cls, method: str) -> str:
        names = method_names()
        if method not in names:
            raise ValueError(f"expected one of {', '.join(names)}{_nearest(method, names)}")
        return method

    @field_validator("kl_template", mode="after")
    @classmethod
    def _one_slot(cls, template: str) -> str:
        if template.count("{}") != 1:
            raise ValueError("expected exactly one {}, where the subject goes")
        return template

    @field_validator("chat_date", mode="after")
    @classmethod
    def _a_day(cls, date: str) -> str:
        try:
            return datetime.date.fromisoformat(date).isoformat()
        except ValueError:
            raise ValueError("expected a day as YYYY-MM-DD") from None

    @field_validator("seed_words", mode="after")
    @classmethod
    def _some_words(cls, words: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
        empty = [language for language, own in words.items() if not own or not all(own)]
        if empty:
            raise ValueError(f"expected one or more words for {', '.join(empty)}, got none")
        try:
            return {Language.parse(language).code: own for language, own in words.items()}
        except FactError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [self.null_threshold, self.null_share].count(None)
        if given == 0:
            raise ValueError("expected one of null_threshold and null_share, got both: remove one")
        if given == 2 and find_method(self.method).needs_null_space:
            raise ValueError(
                f"method {self.method} needs null_threshold or null_share, got neither: give one, "
                "for example null_share = 0.5"
            )
        if self.system_prompt is not None and not self.chat:
            raise ValueError("system_prompt: expected chat = true with it, got chat = false")
        if self.loss_layer is not None and self.loss_layer < self.layers[-1]:
            raise ValueError(
                f"expected loss_layer at or after the last edited layer {self.layers[-1]}, got "
                f"{self.loss_layer}"
            )
        find_method(self.method).from_config(self)  # a method has conditions of its own
        return self

    @property
    def edited_layers(self) -> tuple[int, ...]:
        """The layers whose weights change: `layers`, or the first and last of them."""
        ends = dict.fromkeys((self.layers[0], self.layers[-1]))
        return self.layers if self.spread == "all" else tuple(ends)

    @property
    def chat_settings(self) -> ChatSettings | None:
        """How prompts are put to the model; `None`: as plain text."""
        if not self.chat:
            return None
        return ChatSettings(system_prompt=self.system_prompt, date=self.chat_date)

    @classmethod
    def from_toml(
        cls, path: str | Path, *, apart: Collection[str] = (), **changes: Any
    ) -> EditConfig:
        """Read a TOML file whose keys are the names of the settings.

        Args:
            path: the file.
            apart: names in the file that belong to something else and are passed over.
            **changes: settings to use instead of what the file says, such as `method`.

        Raises:
            ConfigError: the file cannot be read, is no TOML, or a setting is wrong.
        """
        try:
            settings = tomllib.loads(_read(path))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: expected TOML, got an error: {error}") from None
        own = {name: value for name, value in settings.items() if name not in apart}
        return _naming(path, cls, {**own, **changes})

    @classmethod
    def from_hparams(cls, source: str | Path | Mapping[str, Any], **settings: Any) -> EditConfig:
        """Read hyperparameters with the names of ROME, MEMIT and AlphaEdit.

        Args:
            source: a JSON file, or the mapping read from one.
            **settings: settings of ours to add or to use instead, such as `method`, which such
                files do not name.

        Raises:
            ConfigError: a name is unknown, or a value asks for what is not offered.
        """
        if isinstance(source, Mapping):
            return cls(**{**settings_from_hparams(source), **settings})
        try:
            hparams = json.loads(_read(source))
        except json.JSONDecodeError as error:
            raise ConfigError(f"{source}: expected JSON, got an error: {error}") from None
        if not isinstance(hparams, dict):
            raise ConfigError(f"{source}: expected a JSON object, got {type(hparams).__name__}")
        return _naming(source, cls.from_hparams, {"source": hparams, **settings})

    def to_toml(self) -> str:
        """The settings as a TOML document that `from_toml` reads back to an equal object."""
        return to_toml(self.model_dump(mode="json", exclude_none=True))

    def replace(self, **changes: Any) -> EditConfig:
        """A validated copy with some settings changed."""
        return EditConfig(**{**self.model_dump(), **changes})

    def check_depth(self, n_layers: int) -> None:
        """Raise a `ConfigError` if a layer index is out of range for a model of `n_layers`."""
        asked = [*self.layers, *([] if self.loss_layer is None else [self.loss_layer])]
        wrong = [layer for layer in asked if layer >= n_layers]
        if wrong:
            raise ConfigError(
                f"layers: expected indices from 0 to {n_layers - 1} (the model has {n_layers} "
                f"layers), got {', '.join(map(str, wrong))}: change layers or loss_layer"
            )


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: expected a readable UTF-8 file, got an error: {error}"
        ) from None


def _naming(path: str | Path, make: Any, arguments: Mapping[str, Any]) -> EditConfig:
    """Call `make` and put the file's name in front of what is wrong."""
    try:
        config: EditConfig = make(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return config


def _nearest(name: str, names: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _explain(error: ValidationError, names: tuple[str, ...]) -> str:
    """One line for each wrong setting: what was expected, what came."""
    lines = []
    for item in error.errors():
        name = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            hint = _nearest(name, names) or f"; the settings are {', '.join(names)}"
            lines.append(f"{name}: unknown setting{hint}")
        elif item["type"] == "missing":
            lines.append(f"{name}: expected a value, got none: add it")
        elif name:
            message = item["msg"].removeprefix("Value error, ")
            lines.append(f"{name}: {message}, got {item['input']!r}")
        else:
            lines.append(item["msg"].removeprefix("Value error, "))
    return "\n".join(lines)
