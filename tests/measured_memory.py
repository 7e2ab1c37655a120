"""Edit a random model of a given shape and measure the process's memory, stage by stage.

    python tests/measured_memory.py SHAPE [DEVICE]

prints bytes as JSON: stage -> peak above the start. Run in a process of its own: the peak of a
process is that of everything it ever did.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from quantised import SCHEMES
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from langedit.editing import (
    EditConfig,
    Editor,
    LayerMoment,
    Moments,
    Prefixes,
    collect_moments,
)
from langedit.editing import editor as editor_module
from langedit.editing.batch import BatchJob
from langedit.editing.planning import Workload
from langedit.editing.planning.workload import facts_of_mean_size
from langedit.facts import Fact
from langedit.linalg import SecondMoment
from langedit.models import EditableModel, find_structure
from langedit.models.quantised import keep_stored_form

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

_METHODS: dict[str, dict[str, Any]] = {
    "rect": {}, "prune": {}, "rome": {"layers": (2,)}, "ft": {"ft_steps": 2}
}  # fmt: skip
# Nearly square projections: dense updates and trained weights are a large part.
SHAPES |= {
    method: (
        LlamaConfig(
            hidden_size=1024, intermediate_size=1280, num_hidden_layers=5, vocab_size=4000,
            num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=256,
        ),
        EditConfig(
            **{"method": method, "layers": (0, 1, 2, 3), **settings}, value_steps=2,
            prefix_count=2, micro_batch_tokens=1024,
        ),
        Workload(
            edits=120, batch_size=30, prompt_tokens=12, target_tokens=3, stats_tokens=512
        ),
    )
    for method, settings in _METHODS.items()
}  # fmt: skip


QUANTISED: dict[str, tuple[PretrainedConfig, EditConfig, Workload]] = {
    # Many layers above the edited ones: what gradients hold of them is a large part.
    scheme: (
        LlamaConfig(
            hidden_size=1024, intermediate_size=1280, num_hidden_layers=8, vocab_size=4000,
            num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=256,
        ),
        EditConfig(
            layers=(0, 1), null_share=0.5, value_steps=2, prefix_count=2, micro_batch_tokens=1024
        ),
        Workload(
            edits=60, batch_size=30, prompt_tokens=12, target_tokens=3, stats_tokens=512
        ),
    )
    for scheme in SCHEMES
}  # fmt: skip


class Meter:
    """The most memory in use since `begin`: of a GPU's tensors, else of this process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = 0
        self._start = self.now()

    def now(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        return status("VmRSS") - self._start

    def begin(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return status("VmHWM") - self._start


def status(field: str) -> int:
    """A figure of this process in bytes: VmRSS (now) or VmHWM (the most so far)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(field)


def words_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    words = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words)


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


def random_model(shape: PretrainedConfig, device: torch.device) -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(shape, dtype=torch.float32).to(device)


def quantised(shape: PretrainedConfig, scheme: str, device: torch.device) -> PreTrainedModel:
    """A random model from a checkpoint as a library has quantised it."""
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = f"{folder}/plain", f"{folder}/packed"
        random_model(shape, torch.device("cpu")).save_pretrained(plain)
        load(plain, device, quantization_config=SCHEMES[scheme].make()).save_pretrained(packed)
        gc.collect()  # of the plain checkpoint
        return load(packed, device)


def load(folder: str, device: torch.device, **options: Any) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        folder, device_map=str(device), dtype=torch.float32, **options
    )


def measure(name: str, device: torch.device) -> dict[str, int]:
    """Peaks of the stages above what there was before there was a model.

    "whole" is that of the run, with what is between the stages.
    """
    shape, config, work = (SHAPES | QUANTISED)[name]
    torch.manual_seed(0)
    warm_up(device)
    if name in QUANTISED:
        warm_up_quantised(name, device)
    meter = Meter(device)
    inner = quantised(shape, name, device) if name in QUANTISED else random_model(shape, device)
    inner.eval().requires_grad_(False)
    keep_stored_form(inner)
    model = EditableModel(inner, words_tokenizer(), find_structure(inner))
    peaks: dict[str, int] = {}

    def note(stage: str) -> None:
        peaks[stage] = max(peaks.get(stage, 0), meter.peak())

    @contextmanager
    def measured(stage: str) -> Iterator[None]:
        note("whole")
        meter.begin()
        yield
        note(stage)

    @contextmanager
    def timed(job: BatchJob, stage: str) -> Iterator[None]:
        with measured("solve" if stage == "keys" else stage):  # one stage of the plan
            yield
        job.seconds[stage] = 0.0

    BatchJob.timed = timed
    editor_module.timed = lambda _seconds, stage, _profiler: measured(stage)
    requests = iter(facts_of_mean_size(config, work, work.edits))
    editor_module.prepare_request = lambda *_: next(requests)
    meter.begin()
    corpus = [("en", "? " * 128)] * (work.stats_tokens // 128)
    collect_moments(model, corpus, config.layers, batch_tokens=work.stats_tokens)
    peaks["stats"] = meter.peak()
    moments = random_moments(model, config)
    meter.begin()
    editor = Editor(model, None, config, moments, Prefixes({"en": []}))
    peaks["open"] = meter.peak()
    for first in range(0, work.edits, work.batch_size):
        own = range(first, min(first + work.batch_size, work.edits))
        editor.apply([Fact("en", f"{{}} is {i}", "a", "b") for i in own])
    del peaks["prepare"]
    note("whole")
    return {**peaks, "whole": max(peaks.values())}


def warm_up(device: torch.device) -> None:
    """Load the libraries' lazy parts before anything is measured."""
    square = torch.randn(256, 256, dtype=torch.float64, device=device)
    torch.linalg.eigh(square @ square.T)
    torch.linalg.svd(square)
    one, other = torch.randn(2, 256, 256, device=device)
    (one.requires_grad_() @ other).sum().backward()


def warm_up_quantised(scheme: str, device: torch.device) -> None:
    """Load the library that quantises, with all that its modules need to run."""
    shape = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=1, vocab_size=64,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    model = quantised(shape, scheme, device).eval().requires_grad_(False)
    keep_stored_form(model)
    rows = torch.randn(1, 20, 64, device=device, requires_grad=True)
    model(inputs_embeds=rows).logits.sum().backward()


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure(sys.argv[1], torch.device(sys.argv[2] if sys.argv[2:] else "cpu"))))
