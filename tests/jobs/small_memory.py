"""Targets of two batches; the second process has little memory: `python small_memory.py OUTPUT`."""

from __future__ import annotations

import sys

import torch
from edits import FACTS, PREFIXES, settings
from scarce import failures, scarce
from tiny import tiny_editable

from langedit.editing import optimise_targets, prepare_request
from langedit.editing.target_rows import loss_rows
from langedit.parallel import join_processes

if __name__ == "__main__":
    with join_processes() as everyone:
        model, config = tiny_editable("llama"), settings(micro_batch_tokens=40)
        requests = [prepare_request(model, f, PREFIXES.of(f.language), config) for f in FACTS]
        rows = [own.row for request in requests for own in loss_rows(request)]
        longest = max(len(row.ids) - row.lookup for row in rows)
        limit = longest if everyone.rank == 1 else 10**6
        targets, failed = [], []
        with scarce(model.model.lm_head, limit) as seen:
            for _ in range(2):
                found = optimise_targets(model, requests, config, processes=everyone)
                targets.append(found.target_hidden)
                failed.append(failures(seen, limit))
                seen.clear()
        own = {"targets": targets, "failed": failed}
        both = everyone.spread(range(everyone.count), lambda _: [own])
        if everyone.is_first:
            torch.save(both, sys.argv[1])
