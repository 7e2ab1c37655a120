"""How well an edited model does: what is asked of it, scores, and their intervals."""

from langedit.evaluation.asking import Answers, ask
from langedit.evaluation.bootstrap import (
    Columns,
    Interval,
    Resampled,
    bootstrap,
    bootstrap_difference,
    bootstrap_seeds,
    paired,
    resample,
)
from langedit.evaluation.compat import CompatCase, compat_cases
from langedit.evaluation.crossing import (
    CrossScore,
    LanguageMatrix,
    aligned_pairs,
    cell_values,
    gains,
    interference_scores,
    language_matrix,
    transfer_scores,
)
from langedit.evaluation.definitions import (
    FORCED,
    GENERATED,
    METRICS,
    PERPLEXITY,
    Metric,
    definitions,
)
from langedit.evaluation.forced import ForcedAnswer, encode_answer, forced_answers
from langedit.evaluation.history import RetentionProbe, ScoreHistory, retention_grid
from langedit.evaluation.metrics import (
    begins_with_answer,
    mean_or_none,
    ngram_entropy,
    token_accuracy,
)
from langedit.evaluation.questions import Question, Questions
from langedit.evaluation.scoring import (
    KINDS,
    FactScore,
    Scores,
    ScoreValues,
    by_language,
    fact_scores,
    mean_scores,
    score_both_ways,
    score_facts,
)
from langedit.evaluation.texts import Continuation, continue_greedily, greedy_text, perplexity

__all__ = [
    "FORCED",
    "GENERATED",
    "KINDS",
    "METRICS",
    "PERPLEXITY",
    "Answers",
    "Columns",
    "CompatCase",
    "Continuation",
    "CrossScore",
    "FactScore",
    "ForcedAnswer",
    "Interval",
    "LanguageMatrix",
    "Metric",
    "Question",
    "Questions",
    "Resampled",
    "RetentionProbe",
    "ScoreHistory",
    "ScoreValues",
    "Scores",
    "aligned_pairs",
    "ask",
    "begins_with_answer",
    "bootstrap",
    "bootstrap_difference",
    "bootstrap_seeds",
    "by_language",
    "cell_values",
    "compat_cases",
    "continue_greedily",
    "definitions",
    "encode_answer",
    "fact_scores",
    "forced_answers",
    "gains",
    "greedy_text",
    "interference_scores",
    "language_matrix",
    "mean_or_none",
    "mean_scores",
    "ngram_entropy",
    "paired",
    "perplexity",
    "resample",
    "retention_grid",
    "score_both_ways",
    "score_facts",
    "token_accuracy",
    "transfer_scores",
]
