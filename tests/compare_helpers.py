"""A comparison on a tiny checkpoint, with aligned facts in two languages: seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cli_helpers import save_tiny
from tiny import SENTENCES

from langedit.compare.config import CompareConfig

PLACES = (
    ("France", "Frankreich"), ("Spain", "Spanien"), ("Italy", "Italien"), ("Peru", "Peru"),
    ("Austria", "Österreich"), ("Germany", "Deutschland"), ("China", "China"), ("Japan", "Japan"),
    ("Chile", "Chile"), ("Ghana", "Ghana"), ("Kenya", "Kenia"), ("Nepal", "Nepal"),
)  # fmt: skip
TARGETS = (("Rome", "Rom"), ("Paris", "Paris"), ("Vienna", "Wien"), ("Berlin", "Berlin"))

SETTINGS: dict[str, Any] = {
    "layers": [0, 1],
    "null_share": 0.7,
    "ridge": 0.01,
    "moment_weight": 1.0,
    "value_steps": 4,
    "value_lr": 0.5,
    "norm_clamp": 4.0,
    "prefix_count": 1,
    "prefix_length": 2,
}


def write_ground(folder: Path) -> None:
    """A checkpoint, text for second moments, and twelve facts in English and German."""
    save_tiny(folder / "tiny")
    (folder / "text").mkdir()
    (folder / "text" / "en.txt").write_text("\n".join(SENTENCES[:2]), encoding="utf-8")
    (folder / "text" / "de.txt").write_text(SENTENCES[2], encoding="utf-8")
    rows = []
    for number, (english, german) in enumerate(PLACES):
        for language, subject, prompt, other, probe in (
            ("en", english, "The capital of {} is", "{} has as capital", "Rome is in"),
            ("de", german, "Die Hauptstadt von {} heißt", "{} hat als Hauptstadt", "Rom ist in"),
        ):
            target = TARGETS[number % 4][language == "de"]
            rows.append(
                {
                    "language": language,
                    "prompt": prompt,
                    "subject": subject,
                    "target": target,
                    "paraphrases": [other],
                    "neighbourhood": [{"prompt": probe, "answer": "Peru"}],
                    "id": f"{number}",
                }
            )
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "facts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def values(folder: Path, **changes: Any) -> dict[str, Any]:
    """Values of a comparison of two methods over two batches of two facts."""
    return {
        "name": "tiny",
        "languages": ("en", "de"),
        "batches": 2,
        "edits_per_batch": 2,
        "retention": 2,
        "interference_sample": 1,
        "transfer_sample": 2,
        "perplexity_texts": 2,
        "resamples": 50,
        "common": SETTINGS,
        "models": {
            "tiny": {"source": "tiny", "dtype": "float32", "text": ["text"], "moment_tokens": 300}
        },
        "methods": {"langedit": {}, "memit-seq": {}},
        "datasets": {"own": {"files": ["facts.jsonl"], "text": ["text"]}},
        "folder": folder,
        **changes,
    }


def comparison(folder: Path, **changes: Any) -> CompareConfig:
    """The same, validated."""
    return CompareConfig(**values(folder, **changes))
