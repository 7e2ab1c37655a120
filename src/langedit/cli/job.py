"""What `langedit edit` does, as a function: load, score, edit, score again, save."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from langedit.cli.fitting import require_fitting
from langedit.cli.load import load_named
from langedit.cli.plan import EditOptions, EditPlan, make_plan
from langedit.console import progress
from langedit.editing import Editor, Prefixes, fact_name
from langedit.evaluation import (
    KINDS,
    FactScore,
    definitions,
    mean_scores,
    score_both_ways,
)
from langedit.folders import whole_folder
from langedit.models import EditableModel, require_at_hand
from langedit.parallel import ALONE, Processes
from langedit.profiler import Profiler, timed
from langedit.workspace import run_stream

REPORT = "report.json"
"""File beside the checkpoint: what was edited, and scores before and after."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EditOutcome:
    """What an edit did.

    Attributes:
        plan: What was edited, and how.
        editor: Holds the edited model and a report for each batch.
        before: Scores of `plan.facts` before the first batch.
        after: Scores of the same facts after the last batch.
        plain_before: Of a model that is asked in a chat: scores of the same facts as plain text.
        plain_after: The same after the last batch.
    """

    plan: EditPlan
    editor: Editor
    before: tuple[FactScore, ...]
    after: tuple[FactScore, ...]
    plain_before: tuple[FactScore, ...] = ()
    plain_after: tuple[FactScore, ...] = ()

    @property
    def independence_max(self) -> float | None:
        """Largest |dW k| / |W k| over all batches and earlier keys; None after one batch."""
        found = (report.independence_max for report in self.editor.reports)
        return max((value for value in found if value is not None), default=None)


def edit_model(options: EditOptions, processes: Processes = ALONE) -> EditOutcome:
    """Edit a model and write it to a folder that appears when it is complete.

    Of several processes all make this call; the first one writes.

    Raises:
        LangEditError: Something cannot be used or fails; nothing is written.
    """
    shown = processes.is_first
    plan, model = processes.together(lambda: _prepare(options, processes))
    editor = Editor(
        model,
        None,
        plan.config,
        plan.moments,
        plan.prefixes,
        profiler=Profiler(model.device) if options.profile else None,
        processes=processes,
    )
    processes.together(lambda: require_at_hand(editor.model.model))
    known = plan.prefixes or Prefixes({})
    processes.together(
        lambda: require_fitting(editor.model, plan.file, plan.facts, plan.config, known)
    )
    with progress("scoring", shown=shown):
        before, plain_before = _scores(editor, plan)
    with progress("editing batches", len(plan.batches), shown=shown) as done:
        run_stream(editor, plan.batches, retention=False, on_step=lambda step: done(step.index + 1))
    with progress("scoring", shown=shown):
        after, plain_after = _scores(editor, plan)
    outcome = EditOutcome(
        plan=plan,
        editor=editor,
        before=before,
        after=after,
        plain_before=plain_before,
        plain_after=plain_after,
    )
    processes.only_first(lambda: _save(outcome))
    return outcome


def _prepare(options: EditOptions, processes: Processes) -> tuple[EditPlan, EditableModel]:
    """Read and check the options, and load the model."""
    plan = make_plan(options, first=processes.is_first)
    model = load_named(
        options.model,
        revision=options.revision,
        dtype=options.dtype,
        device_map=processes.place(options.device_map),
        structure=plan.config.structure,
    )
    return plan, model


def _scores(editor: Editor, plan: EditPlan) -> tuple[tuple[FactScore, ...], tuple[FactScore, ...]]:
    """Scores as the facts are edited and, where that is in a chat, also as plain text."""
    with timed({}, "scores", editor.profiler):
        return score_both_ways(editor.model, plan.facts, processes=editor.processes)


def _save(outcome: EditOutcome) -> None:
    with whole_folder(outcome.plan.options.output) as folder:
        scores = [score.shares() for score in outcome.after]
        outcome.editor.save_pretrained(folder, scores=scores)
        text = json.dumps(_report(outcome), ensure_ascii=False, indent=2)
        (folder / REPORT).write_text(text + "\n", encoding="utf-8")


def _report(outcome: EditOutcome) -> dict[str, Any]:
    """Figures of a run as JSON-able values; scores are in [0, 1]."""
    plan, profiler = outcome.plan, outcome.editor.profiler
    assert plan.moments is not None  # the first process, which writes, has them
    return {
        "model": {
            "source": plan.options.model,
            "revision": plan.options.revision,
            "weights_hash": plan.moments.identity.weights_hash,
        },
        "precision": {
            "edited_weights": str(
                outcome.editor.model.stored_dtype(plan.config.layers[0])
            ).removeprefix("torch."),
            "solves_and_sums": "float32 or float64",
            "dequantised": {str(k): kind for k, kind in outcome.editor.dequantised.items()},
        },
        "corpus": plan.moments.corpus,
        "facts": {
            "file": str(plan.file.path),
            "sha256": plan.facts_sha256,
            "edited": len(plan.facts),
            "rejected": [asdict(row) for row in plan.file.rejected],
        },
        "batches": len(plan.batches),
        "independence_max": outcome.independence_max,
        **({"profile": profiler.to_dict()} if profiler is not None else {}),
        "definitions": definitions(KINDS),
        "scores": {
            "before": mean_scores(outcome.before),
            "after": mean_scores(outcome.after),
        },
        "plain_scores": {
            "before": mean_scores(outcome.plain_before),
            "after": mean_scores(outcome.plain_after),
        }
        if outcome.plain_after
        else None,
        "fact_scores": [
            {"name": fact_name(fact), "before": before.to_dict(), "after": after.to_dict()}
            for fact, before, after in zip(plan.facts, outcome.before, outcome.after, strict=True)
        ],
        "software": {name: version(name) for name in ("langedit", "torch", "transformers")},
    }
