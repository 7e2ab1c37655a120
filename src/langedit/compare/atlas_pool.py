"""The atlas as a pool: false statements about places, aligned across six languages."""

from __future__ import annotations

import random
from collections.abc import Sequence

from langedit.compare.config import CompareConfig
from langedit.compare.pools import Part, Pool, in_part
from langedit.demo.atlas import Atlas
from langedit.demo.bundled import perplexity_texts
from langedit.demo.edits import draw_edits, held_out_triples, shown_edits, to_fact
from langedit.errors import ConfigError, FactError
from langedit.facts import Fact


def atlas_pool(
    config: CompareConfig,
    atlas: Atlas,
    languages: Sequence[str],
    count: int,
    *,
    seed: int,
    part: Part,
) -> Pool:
    """Draw edits as the demo does: most differ between languages, none is of a held-out subject.

    Args:
        config: says which subjects are kept for tuning.
        atlas: the facts.
        languages: to edit, and to ask in.
        count: edits to draw for each language.
        seed: of the draw.
        part: of the subjects.

    Raises:
        ConfigError: the atlas lacks a language.
        FactError: it has fewer subjects.
    """
    unknown = [language for language in languages if language not in atlas.languages]
    if unknown:
        raise ConfigError(
            f"data set atlas: expected languages among {', '.join(atlas.languages)}, got "
            f"{', '.join(unknown)}: remove them"
        )
    held_out = held_out_triples(atlas, seed)
    reserved = set(held_out) | {edit.triple for edit in shown_edits(atlas)}
    free = [
        triple
        for triple in atlas.triples
        if triple not in reserved
        and in_part(atlas.subject_label(triple, "en"), config.tuning_share, part)
    ]
    facts: dict[str, dict[str, Fact]] = {}
    drawn: dict[str, list[str]] = {}
    for language in languages:
        try:
            edits = draw_edits(atlas, language, free, count, seed)
        except ValueError as error:
            raise FactError(f"data set atlas, {part} facts in {language}: {error}") from None
        drawn[language] = []
        for edit in edits:
            key = edit.key
            if key not in facts:  # else another language has drawn the very same edit
                drawn[language].append(key)
                facts[key] = {
                    code: to_fact(
                        atlas, edit, code, held_out, random.Random(f"{seed}-{code}-{key}")
                    )
                    for code in languages
                }
    texts = {}
    if config.perplexity_texts:
        texts = {code: perplexity_texts(code, config.perplexity_texts) for code in languages}
    return Pool(facts=facts, drawn=drawn, texts=texts)
