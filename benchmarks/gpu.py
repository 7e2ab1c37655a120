"""One batch on a GPU with models of published shapes and random weights: no download needed.

    python -m benchmarks.gpu            # Llama-3-8B, Qwen2.5-7B and GPT-J shapes, bfloat16
    python -m benchmarks.gpu --tiny     # a model of 60,000 weights on the CPU, the same code

Unattended, within `--budget` seconds: a shape for which too little time is left is named and left
out. Prints one table; goals are for a Llama-3-8B shape on an H100.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, models

from benchmarks.world import SimulatedKeys
from langedit.editing import EditConfig, EditRequest
from langedit.editing.batch import BatchJob
from langedit.editing.methods import LayerState, find_method
from langedit.linalg import Spectrum
from langedit.models import EditableModel, EncodedPrompt, find_structure
from langedit.profiler import Profiler

SHAPES: dict[str, tuple[type[tf.PretrainedConfig], dict[str, Any], tuple[int, ...]]] = {
    "Llama-3-8B": (
        tf.LlamaConfig,
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
            "max_position_embeddings": 8192,
        },
        (4, 5, 6, 7, 8),
    ),
    "Qwen2.5-7B": (
        tf.Qwen2Config,
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "max_position_embeddings": 8192,
        },
        (4, 5, 6, 7, 8),
    ),
    "GPT-J-6B": (
        tf.GPTJConfig,
        {
            "n_embd": 4096,
            "n_inner": 16384,
            "n_layer": 28,
            "n_head": 16,
            "rotary_dim": 64,
            "vocab_size": 50400,
            "n_positions": 2048,
        },
        (3, 4, 5, 6, 7, 8),
    ),
}
TINY = (
    tf.LlamaConfig,
    {
        "hidden_size": 32,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 300,
        "max_position_embeddings": 128,
    },
    (0, 1),
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A batch: facts of about `tokens`, each with prefixes of ten more, and target tokens."""

    facts: int = 100
    prefixes: int = 6
    tokens: int = 20
    prefix: int = 10
    target: int = 3
    steps: int = 25


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every shape for which there is time."""
    options = _parser().parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        print("There is no GPU that torch can use here: nothing was measured. Try --tiny.")
        return
    device = torch.device("cpu" if options.tiny else "cuda")
    sizes = Sizes(facts=4, tokens=8, steps=4) if options.tiny else Sizes()
    shapes = {"tiny": TINY} if options.tiny else SHAPES
    begun, found = perf_counter(), {}
    for name in options.only.split(",") if options.only else shapes:
        left = options.budget - (perf_counter() - begun)
        longest = max((own["total_seconds"] for own in found.values()), default=0.0)
        if left < 1.3 * longest:
            print(f"{name}: not run, {left:.0f} s of {options.budget:.0f} are left")
            continue
        found[name] = measure(shapes[name], sizes, device)
    print(_table(found))
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def measure(shape: Any, sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """One warm-up and one measured batch of a randomly initialised model."""
    begun = perf_counter()
    kind, fields, layers = shape
    model = random_model(kind(**fields), device)
    config = EditConfig(
        layers=layers, null_share=0.5, value_steps=sizes.steps, stop_loss=0.0, kl_weight=0.0625
    ).replace(micro_batch_tokens=16384)
    width = model.structure.d_in
    keys = SimulatedKeys(width)
    moment = keys.moment(1).to(device)
    start = perf_counter()
    spectrum = Spectrum.of(moment.mean)
    _settle(device)
    decomposed = perf_counter() - start
    # One decomposition serves every layer here; what is timed is that of one.
    method = find_method(config.method).from_config(config)
    state = method.start(layers[0], moment.with_spectrum(spectrum))
    del spectrum
    requests = _requests(model, sizes)
    _edit(model, config, method, state, requests[:2], Profiler(device))
    profiler = Profiler(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = perf_counter()
    seconds = _edit(model, config, method, state, requests, None)
    _settle(device)
    batch = perf_counter() - start
    # Counted in a second run: the counting goes past every operation.
    counted = _edit(model, config, method, state, requests, profiler)
    assert set(counted) == set(seconds)
    rate = profiler.peak_rate
    flops = profiler.costs["targets"].flops
    peaks = [cost.peak_bytes for cost in profiler.costs.values() if cost.peak_bytes]
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "facts": sizes.facts,
        "seconds": batch,
        "stages": seconds,
        "targets_flops": flops,
        "targets_share_of_peak": None if rate is None else flops / seconds["targets"] / rate,
        "linear_algebra_seconds": seconds["solve"] + seconds["advance"],
        "decomposition_seconds_a_layer": decomposed,
        "peak_bytes": max(peaks, default=None),
        "total_seconds": perf_counter() - begun,
    }


def random_model(config: tf.PretrainedConfig, device: torch.device) -> EditableModel:
    """A model with random weights, made on the device itself, with a tokenizer of bare ids."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    generator = torch.Generator(device).manual_seed(0)
    with torch.device(device):
        model = tf.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.02, generator=generator)
    words = {"<pad>": 0, **{f"w{i}": i for i in range(1, int(config.vocab_size))}}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>")
    return EditableModel(model.requires_grad_(False), tokenizer, find_structure(model))


def _edit(
    model: EditableModel,
    config: EditConfig,
    method: Any,
    state: LayerState,
    requests: Sequence[EditRequest],
    profiler: Profiler | None,
) -> dict[str, float]:
    """Edit a batch and take it back; stage -> seconds."""
    weights = {layer: model.read_weight(layer) for layer in config.layers}
    job = BatchJob(
        model=model,
        config=config,
        requests=tuple(requests),
        states=dict.fromkeys(config.layers, state),
        base=weights,
        weights=weights,
        profiler=profiler,
    )
    method.edit(job)
    for layer, weight in weights.items():
        model.write_weight(layer, weight)
    return job.seconds


def _requests(model: EditableModel, sizes: Sizes) -> list[EditRequest]:
    """Facts of random ids; contexts differ from each other, and share what prefixes they have."""
    generator = torch.Generator().manual_seed(0)
    top = int(model.model.config.get_text_config().vocab_size)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(map(int, torch.randint(1, top, (count,), generator=generator)))

    prefixes = [(), *(draw(sizes.prefix) for _ in range(sizes.prefixes - 1))]
    requests = []
    for number in range(sizes.facts):
        body = draw(sizes.tokens)
        lookup = sizes.tokens - 4
        prompts = tuple(
            EncodedPrompt(
                ids=(*prefix, *body), lookup=len(prefix) + lookup, subject_start=len(prefix)
            )
            for prefix in prefixes
        )
        requests.append(
            EditRequest(
                name=f"fact {number}",
                language="und",
                prompts=prompts,
                target_ids=draw(sizes.target),
                kl_prompt=EncodedPrompt(ids=body[: lookup + 1], lookup=lookup, subject_start=0),
            )
        )
    return requests


def _table(found: dict[str, Any]) -> str:
    goals = ("goal", "", "15", "", "40", "1", "", "40")
    heads = (
        "shape",
        "device",
        "s a batch",
        "targets, s",
        "targets, % of bf16 peak",
        "linear algebra, s",
        "decomposition, s a layer, once",
        "peak GiB",
    )
    rows: list[Sequence[str]] = [heads]
    for name, own in found.items():
        share, peak = own["targets_share_of_peak"], own["peak_bytes"]
        rows.append(
            (
                name,
                own["device"],
                f"{own['seconds']:.1f}",
                f"{own['stages']['targets']:.1f}",
                "–" if share is None else f"{100 * share:.0f}",
                f"{own['linear_algebra_seconds']:.2f}",
                f"{own['decomposition_seconds_a_layer']:.1f}",
                "–" if peak is None else f"{peak / 2**30:.1f}",
            )
        )
    rows.append(goals)
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--only", help=f"shapes, separated by commas: {', '.join(SHAPES)}")
    parser.add_argument("--budget", type=float, default=450.0, help="seconds in all")
    parser.add_argument("--output", type=Path, help="JSON file of the figures")
    return parser


if __name__ == "__main__":
    main()
