"""Guard rails: what a batch must not do to the model, as settings. Needs no torch.

In the file of settings, beside those of the edit:

    [guards]
    max_perplexity_ratio = 1.05
    texts = ["text/en.txt", "text/zh.txt"]
    min_rank_left = 200

    [[guards.canaries]]
    language = "en"
    prompt = "The capital of France is"
    answer = "Paris"
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from langedit.errors import ConfigError

Limit = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1, max_length=10_000)]


class Canary(BaseModel):
    """A question that the model must go on answering as before any edit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    language: Text
    prompt: Text
    answer: Text


class GuardSettings(BaseModel):
    """Limits for each batch; one that is `None` is not looked at.

    Attributes:
        canaries: questions whose answers, all of their tokens, must stay the model's first choice.
        texts: files of running text, for the perplexity. They are read once, when the workspace is
            made.
        max_perplexity_ratio: perplexity of the texts, divided by that of the unedited model.
        max_specificity_loss: how much the mean specificity of the batch's own neighbourhood probes
            may fall by the batch, in [0, 1].
        max_update_norm: largest |dW| / |W| of a layer.
        min_rank_left: directions that every layer must have left after the batch.
        min_retention: mean efficacy of earlier facts, divided by what it was right after their own
            batches.
        retention_facts: how many earlier facts are asked, spread over all batches.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    canaries: tuple[Canary, ...] = ()
    texts: tuple[str, ...] = ()
    max_perplexity_ratio: Limit | None = None
    max_specificity_loss: Share | None = None
    max_update_norm: Limit | None = None
    min_rank_left: Annotated[int, Field(ge=0)] | None = None
    min_retention: Share | None = None
    retention_facts: Annotated[int, Field(ge=1)] = 200

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> GuardSettings:
        """Check the values of the table `[guards]`.

        Raises:
            ConfigError: a name is unknown, a value is out of range, or the perplexity's limit and
                its texts are not given together.
        """
        try:
            guards = cls.model_validate(dict(settings))
        except ValidationError as error:
            said = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ConfigError("guards: " + "\nguards: ".join(said)) from None
        if bool(guards.texts) != (guards.max_perplexity_ratio is not None):
            raise ConfigError(
                "guards: expected texts and max_perplexity_ratio together, got one of them"
            )
        return guards


def read_guard_texts(paths: tuple[str, ...], folder: Path, *, lines: int = 500) -> list[str]:
    """The first lines of files of text, blank ones left out.

    Args:
        paths: relative ones are relative to `folder`.
        folder: where the file of settings is.
        lines: how many of each file.

    Raises:
        ConfigError: a file cannot be read or holds no text.
    """
    found = []
    for name in paths:
        path = folder / name
        try:
            with path.open(encoding="utf-8") as file:
                own = [line.strip() for line, _ in zip(file, range(lines), strict=False)]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"guards: texts: expected UTF-8 text in {path}, got: {error}"
            ) from None
        if not any(own):
            raise ConfigError(f"guards: texts: expected text in {path}, got none")
        found += [line for line in own if line]
    return found
