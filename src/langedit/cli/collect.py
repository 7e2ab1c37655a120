"""What `langedit stats` does, as a function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from langedit.cli.load import load_named
from langedit.console import progress
from langedit.editing import Moments, collect_moments
from langedit.editing.corpus import read_corpus
from langedit.folders import check_output, whole_folder
from langedit.models import EditableModel
from langedit.parallel import ALONE, Processes


@dataclass(frozen=True, kw_only=True)
class CollectOptions:
    """The options of `langedit stats`.

    Attributes:
        model: Folder or hub id.
        sources: Where the text is, as for `read_corpus`.
        layers: Layer numbers.
        output: New or empty folder.
        max_tokens: Stop after so many tokens; None takes all.
        batch_tokens: Tokens in one pass.
        max_length: Cut texts at so many tokens.
        seed: Of the sample of keys that is kept.
        dtype: Precision to load the model in.
        device_map: Where the model goes.
        revision: Of a hub model.
        structure: Names of modules that are not found, as in the settings.
    """

    model: str
    sources: tuple[str, ...]
    layers: tuple[int, ...]
    output: Path
    max_tokens: int | None = None
    batch_tokens: int = 4096
    max_length: int | None = None
    seed: int = 0
    dtype: str = "auto"
    device_map: str | None = None
    revision: str | None = None
    structure: Mapping[str, str] = field(default_factory=dict)


def collect(options: CollectOptions, processes: Processes = ALONE) -> Moments:
    """Collect second moments and write them to a folder that appears when it is complete.

    Of several processes all make this call; the first one writes.

    Raises:
        LangEditError: An option cannot be used; nothing is written.
    """
    corpus, model = processes.together(lambda: _prepare(options, processes))
    with progress("tokens", options.max_tokens, shown=processes.is_first) as done:
        moments = collect_moments(
            model,
            corpus,
            options.layers,
            max_tokens=options.max_tokens,
            batch_tokens=options.batch_tokens,
            max_length=options.max_length,
            seed=options.seed,
            progress=done,
            processes=processes,
        )
    processes.only_first(lambda: _save(moments, options.output))
    return moments


def _prepare(
    options: CollectOptions, processes: Processes
) -> tuple[Iterator[tuple[str, str]], EditableModel]:
    """Check the options, open the corpus and load the model."""
    check_output(options.output)
    corpus = read_corpus(options.sources)
    model = load_named(
        options.model,
        revision=options.revision,
        dtype=options.dtype,
        device_map=processes.place(options.device_map),
        structure=options.structure,
    )
    return corpus, model


def _save(moments: Moments, output: Path) -> None:
    with whole_folder(output) as folder:
        moments.save(folder)
