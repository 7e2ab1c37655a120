"""The model card of an export: what was changed, how it scored, how to use and to undo it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path

from langedit.editing import EditedModelRecord
from langedit.evaluation import FactScore, Scores, by_language
from langedit.facts import Fact, write_facts
from langedit.linalg import LowRankUpdate, Update
from langedit.workspace.export.escape import inline
from langedit.workspace.export.outcome import ExportOutcome

CARD = "README.md"
FACTS = "facts.jsonl"
_LISTED = 500
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_SCORES = ("efficacy", "generalization", "specificity")


def write_card(folder: Path, outcome: ExportOutcome) -> None:
    """Write the card, and beside it the facts in full.

    Raises:
        OSError: the card cannot be written.
        OutputError: the facts cannot be written.
    """
    text = "\n".join(card_lines(outcome)) + "\n"
    (folder / CARD).write_text(text, encoding="utf-8")
    write_facts(folder / FACTS, outcome.record.facts)


def card_lines(outcome: ExportOutcome) -> Iterator[str]:
    """Yield the card line by line."""
    record = outcome.record
    base = inline(record.base.source)
    yield from _front_matter(outcome)
    yield f"# {base}, edited"
    yield ""
    yield (
        f"{len(record.facts)} facts in {len(record.batches)} batches were edited into {base} with "
        f"the method {inline(record.method)} of langedit {version('langedit')}. "
        f"{_KINDS[outcome.kind]}"
    )
    yield ""
    yield from _base_lines(record)
    yield from _selection_lines(record)
    yield from _loss_lines(outcome)
    yield from _score_lines(outcome)
    yield from _use_lines(outcome)
    yield from _weight_lines(record)
    yield from _fact_lines(record)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a Markdown table of finished cells, and a blank line."""
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


_KINDS = {
    "merged": "This is a whole checkpoint, which plain transformers loads.",
    "adapter": "This is a PEFT LoRA adapter: the base model is needed with it.",
    "delta": "This holds the updates alone: the base model is needed to make a checkpoint of them.",
}


def _front_matter(outcome: ExportOutcome) -> Iterator[str]:
    """Metadata for model hubs. Every value is JSON, which YAML reads as it is."""
    record = outcome.record
    languages = dict.fromkeys(code.partition("-")[0] for code in record.languages)
    yield "---"
    yield f"library_name: {'peft' if outcome.kind == 'adapter' else 'transformers'}"
    if _HUB_ID.fullmatch(record.base.source):
        yield f"base_model: {json.dumps(record.base.source)}"
    yield f"language: {json.dumps(list(languages))}"
    yield 'tags: ["knowledge-editing", "langedit"]'
    yield "---"
    yield ""


def _base_lines(record: EditedModelRecord) -> Iterator[str]:
    revision = record.base.revision
    yield f"- base model: {inline(record.base.source)}" + (
        f", revision {inline(revision)}" if revision else ""
    )
    yield f"- its weights, as langedit hashes them (SHA-256): {record.base.weights_hash}"
    yield f"- precision in which it was edited: {record.dtype}"
    yield f"- languages: {', '.join(record.languages)}"
    yield ""


def _selection_lines(record: EditedModelRecord) -> Iterator[str]:
    if record.selection is None:
        return
    yield "## A selection"
    yield ""
    yield (
        f"Not everything that was edited is in here: {inline(record.selection)}. **No solve was "
        "ever made for this selection.** Each batch was solved for all its facts together, on a "
        "model that had all earlier batches; a part of them is near what an edit of these facts "
        "alone would have given, and not the same. The scores below were measured on the selection."
    )
    yield ""


def _loss_lines(outcome: ExportOutcome) -> Iterator[str]:
    loss = outcome.loss
    if loss is None:
        if outcome.kind == "adapter":
            yield f"The adapter is exact: its rank {outcome.rank} is that of the updates."
            yield ""
        return
    pairs = list(zip(loss.exact, outcome.scores, strict=True))
    worse = sum((new.efficacy or 0.0) < (old.efficacy or 0.0) for old, new in pairs)
    yield "## What the smaller rank lost"
    yield ""
    yield (
        f"The exact adapter has rank {loss.rank}, this one {outcome.rank}. The error is the root "
        "mean square of what is missing at keys of the corpus and of the edits, relative to what "
        f"the exact updates do to them. {worse} of {len(pairs)} facts have a lower efficacy than "
        "with the exact adapter; the table of scores has both."
    )
    yield ""
    yield from table(
        ("layer", "error"), ((str(n), f"{lost:.2e}") for n, lost in loss.layers.items())
    )


def _score_lines(outcome: ExportOutcome) -> Iterator[str]:
    exact = outcome.loss.exact if outcome.loss is not None else None
    yield "## How it scored"
    yield ""
    change = "" if exact is None else ", exact adapter → this one"
    yield (
        f"In percent{change}: teacher-forced token accuracy on the prompts that were edited "
        "(efficacy), on paraphrases of them (generalization), and of the unchanged answers to "
        "questions about other subjects (specificity)."
    )
    yield ""
    old = None if exact is None else by_language(exact)
    rows = [
        _score_row(inline(code), own, None if old is None else old[code])
        for code, own in by_language(outcome.scores).items()
    ]
    total = Scores.of(outcome.scores)
    rows.append(_score_row("all", total, None if exact is None else Scores.of(exact)))
    yield from table(("language", "facts", *_SCORES), rows)


def _score_row(name: str, new: Scores, old: Scores | None) -> list[str]:
    return [name, str(new.facts), *(_change(new, old, kind) for kind in _SCORES)]


def _change(new: Scores | FactScore, old: Scores | FactScore | None, kind: str) -> str:
    after = _percent(getattr(new, kind))
    return after if old is None else f"{_percent(getattr(old, kind))} → {after}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _use_lines(outcome: ExportOutcome) -> Iterator[str]:
    yield "## How to use it, and how to undo it"
    yield ""
    if outcome.kind == "merged":
        yield "Load this folder with `AutoModelForCausalLM.from_pretrained`."
        if outcome.rewritten:
            yield (
                "The files were written anew by transformers, in the precision above: those of "
                "the base model could not be kept byte for byte."
            )
        yield (
            "To undo it, load the base model instead. To keep some of the edits, export again from "
            "the folder that langedit edit wrote, with `--batches` or `--languages`."
        )
    elif outcome.kind == "adapter":
        yield (
            "Load the base model and give it with this folder to `peft.PeftModel.from_pretrained`; "
            "`merge_and_unload()` makes a plain model of both. To undo it, call `unload()`, or "
            "`disable_adapter()` for a while, or load the base model alone."
        )
    else:
        yield (
            "`langedit apply-delta BASE DELTA OUT` makes a checkpoint of the base model and this "
            "folder; it refuses a base with other weights. To undo it, go back to the base model, "
            "which is not changed."
        )
    yield ""


def _weight_lines(record: EditedModelRecord) -> Iterator[str]:
    yield "## What was changed"
    yield ""
    yield "In the model, these weights and no others:"
    yield ""
    rows = (
        (str(layer), f"`{where.weight_name}`", _rank(record.updates(layer)))
        for layer, where in record.layers.items()
    )
    yield from table(("layer", "weight", "rows of the factors"), rows)


def _rank(updates: Sequence[Update]) -> str:
    ranks = [update.rank for update in updates if isinstance(update, LowRankUpdate)]
    return str(sum(ranks)) if len(ranks) == len(updates) else "not kept as factors"


def _fact_lines(record: EditedModelRecord) -> Iterator[str]:
    yield f"Of what the model says, these facts (in full, with their probes, in {FACTS}):"
    yield ""
    scores = iter(record.scores or ())
    rows = (
        _fact_row(batch.number, fact, next(scores, None))
        for batch in record.batches
        for fact in batch.facts
    )
    headings = ("batch", "language", "prompt", "subject", "target", "efficacy in %")
    yield from table(headings, islice(rows, _LISTED))
    rest = len(record.facts) - _LISTED
    if rest > 0:
        yield f"... and {rest} more, see {FACTS}."
        yield ""


def _fact_row(batch: int, fact: Fact, score: object) -> list[str]:
    efficacy = score.get("efficacy") if isinstance(score, dict) else None
    texts = (fact.language, fact.text, fact.subject, fact.target)
    return [str(batch), *map(inline, texts), _percent(efficacy)]
