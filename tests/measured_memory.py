"""Edit a random model of a given shape and measure the process's memory, stage by stage.

    python tests/measured_memory.py SHAPE      prints bytes as JSON: stage -> peak above the start

Run in a process of its own: the peak of a process is that of everything it ever did.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
)

from langedit.editing import EditConfig, Editor, LayerMoment, Moments, Prefixes
from langedit.editing import editor as editor_module
from langedit.editing.batch import BatchJob
from langedit.editing.planning import Workload
from langedit.editing.requests import EditRequest
from langedit.facts import Fact
from langedit.linalg import SecondMoment
from langedit.models import EditableModel, find_structure

SHAPES: dict[str, tuple[PretrainedConfig, EditConfig, Workload]] = {
    # Most of it: bases of forbidden directions and moments.
    "wide llama": (
        LlamaConfig(
            hidden_size=384, intermediate_size=1536, num_hidden_layers=6, vocab_size=8000,
            num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=256,
        ),
        EditConfig(
            layers=(1, 2, 3), null_share=0.5, value_steps=2, prefix_count=2, micro_batch_tokens=1024
        ),
        Workload(edits=120, batch_size=40, prompt_tokens=12, target_tokens=3),
    ),
    # Most of it: activations.
    "long gpt2": (
        GPT2Config(
            n_embd=256, n_inner=1024, n_layer=8, n_head=4, vocab_size=4000, n_positions=512
        ),
        EditConfig(
            layers=(1,), null_share=0.5, value_steps=2, prefix_count=3, micro_batch_tokens=8192,
            loss_layer=7,
        ),
        Workload(edits=24, batch_size=24, prompt_tokens=60, target_tokens=8),
    ),
    # Most of it: weights and logits.
    "many words": (
        Qwen2Config(
            hidden_size=256, intermediate_size=768, num_hidden_layers=4, vocab_size=64000,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
            tie_word_embeddings=False,
        ),
        EditConfig(
            layers=(0, 1), null_share=0.7, value_steps=2, prefix_count=2, corpus_weight=1.0,
            relative_ridge=0.1, micro_batch_tokens=1024,
        ),
        Workload(edits=60, batch_size=30, prompt_tokens=12, target_tokens=3),
    ),
}  # fmt: skip


def memory(field: str) -> int:
    """A figure of this process in bytes: VmRSS (now) or VmHWM (the most so far)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(field)


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def random_moments(model: EditableModel, config: EditConfig) -> Moments:
    d_in = model.structure.d_in
    layers = {}
    for layer in config.layers:
        rows = torch.randn(2 * d_in, d_in, dtype=torch.float64)
        mean = rows.T @ rows / len(rows)
        layers[layer] = LayerMoment(
            moment=SecondMoment(count=len(rows), mean=(mean + mean.T) / 2),
            sample=rows[:512].float(),
            counts={"en": len(rows)},
        )
    return Moments(layers=layers, identity=model.identity(), corpus="random")


def measure(name: str) -> dict[str, int]:
    """Peaks of the stages above what the process had before there was a model."""
    from langedit.editing.planning.passes import fact_of_mean_size, stub_tokenizer

    shape, config, work = SHAPES[name]
    torch.manual_seed(0)
    warm_up()
    start = memory("VmRSS")
    inner = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    inner.eval().requires_grad_(False)
    model = EditableModel(inner, stub_tokenizer(), find_structure(inner))
    moments = random_moments(model, config)
    peaks: dict[str, int] = {}

    @contextmanager
    def timed(job: BatchJob, stage: str) -> Iterator[None]:
        stage = "solve" if stage == "keys" else stage  # one stage of the plan
        forget_peak()
        yield
        job.seconds[stage] = 0.0
        peaks[stage] = max(peaks.get(stage, 0), memory("VmHWM") - start)

    BatchJob.timed = timed
    editor_module.prepare_request = lambda *_: distinct(fact_of_mean_size(config, work))
    forget_peak()
    editor = Editor(model, None, config, moments, Prefixes({"en": []}))
    peaks["open"] = memory("VmHWM") - start
    for first in range(0, work.edits, work.batch_size):
        own = range(first, min(first + work.batch_size, work.edits))
        # Every fact has the same tokens, so their targets are told apart by noise in the weights.
        editor.apply([Fact("en", f"{{}} is {i}", "a", "b") for i in own])
    return peaks


def distinct(request: EditRequest) -> EditRequest:
    """The same with other tokens in every prompt: prompts that begin alike are run once."""
    prompts = tuple(
        replace(prompt, ids=tuple(torch.randint(4000, (len(prompt.ids),)).tolist()))
        for prompt in request.prompts
    )
    return replace(request, prompts=prompts)


def warm_up() -> None:
    """Load the libraries' lazy parts before anything is measured."""
    square = torch.randn(256, 256, dtype=torch.float64)
    torch.linalg.eigh(square @ square.T)
    torch.linalg.svd(square)
    (torch.randn(256, 256, requires_grad=True) @ torch.randn(256, 256)).sum().backward()


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure(sys.argv[1])))
