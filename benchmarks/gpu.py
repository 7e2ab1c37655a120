"""One batch on a GPU with models of published shapes and random weights: no download needed.

    python -m benchmarks.gpu            # Llama-3-8B, Qwen2.5-7B and GPT-J shapes, bfloat16
    python -m benchmarks.gpu --tiny     # a model of 60,000 weights on the CPU, the same code

Unattended, within `--budget` seconds: between its stages a shape that has no time left ends, and
shapes for which too little is left are not begun; both are named. Prints one table; goals are for
a Llama-3-8B shape on an H100. Says so where the plan of `langedit plan` is above the goal.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from langedit.editing.planning import Workload, plan_memory, shaped_model
from langedit.errors import LangEditError
from langedit.linalg import NullSpaceProjector, Spectrum
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


GOAL_BYTES = 40e9
"""Goal of the peak of memory."""


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
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        print("There is no GPU that torch can use here: nothing was measured. Try --tiny.")
        return
    device = torch.device("cpu" if options.tiny else "cuda")
    sizes = Sizes(facts=4, tokens=8, steps=4) if options.tiny else Sizes()
    shapes = {"tiny": TINY} if options.tiny else SHAPES
    wanted = options.only.split(",") if options.only else list(shapes)
    unknown = [name for name in wanted if name not in shapes]
    if unknown:
        parser.error(f"--only: expected some of {', '.join(shapes)}, got {', '.join(unknown)}")
    end, found = perf_counter() + options.budget, {}
    failed: list[str] = []
    for name in wanted:
        left = end - perf_counter()
        longest = max((own["total_seconds"] for own in found.values()), default=0.0)
        if left < 1.3 * longest:
            print(f"{name}: not run, {left:.0f} s of {options.budget:.0f} are left")
            continue
        try:
            found[name] = measure(shapes[name], sizes, device, end)
        except TimeoutError as late:
            print(f"{name}: ended after {late}, the {options.budget:.0f} s are over")
            continue
        except (RuntimeError, LangEditError) as error:  # what was measured before must not be lost
            print(f"{name}: failed, {type(error).__name__}: {error}")
            failed.append(name)
            continue
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()
        plan = found[name]["planned_peak_bytes"]
        if plan > GOAL_BYTES:
            print(f"{name}: planned peak {plan / 1e9:.1f} GB, above {GOAL_BYTES / 1e9:.0f} GB")
    print(_table(found))
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def measure(shape: Any, sizes: Sizes, device: torch.device, end: float) -> dict[str, Any]:
    """One warm-up and one measured batch of a randomly initialised model.

    Args:
        shape: class of the configuration, its fields, and the edited layers.
        sizes: of the batch.
        device: where all of it is.
        end: reading of `perf_counter` at which to stop before the next stage.

    Raises:
        TimeoutError: the time was over before a batch was measured; names the last stage.
    """
    begun = perf_counter()
    kind, fields, layers = shape
    config = EditConfig(
        layers=layers, null_share=0.5, value_steps=sizes.steps, stop_loss=0.0, kl_weight=0.0625
    )
    planned = _planned(kind(**fields), config, sizes, device)
    model = random_model(kind(**fields), device)
    _in_time("making the model", end, device)
    method = find_method(config.method).from_config(config)
    states, decomposed = _states(method, model, layers, device)
    _in_time("the decomposition", end, device)
    requests = _requests(model, sizes)
    _edit(model, config, method, states, requests[:2], Profiler(device))
    _in_time("the warm-up", end, device)
    profiler = Profiler(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = perf_counter()
    seconds = _edit(model, config, method, states, requests, None)
    _settle(device)
    batch = perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    flops = None
    if perf_counter() + 2 * batch < end:
        # Counted in a second run: the counting goes past every operation.
        counted = _edit(model, config, method, states, requests, profiler)
        assert set(counted) == set(seconds)
        flops = profiler.costs["targets"].flops
    rate = profiler.peak_rate
    known = rate is not None and flops is not None
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "facts": sizes.facts,
        "seconds": batch,
        "stages": seconds,
        "targets_flops": flops,
        "targets_share_of_peak": flops / seconds["targets"] / rate if known else None,
        "linear_algebra_seconds": seconds["solve"] + seconds["advance"],
        "decomposition_seconds_a_layer": decomposed,
        "peak_bytes": peak,
        "planned_peak_bytes": planned,
        "total_seconds": perf_counter() - begun,
    }


def _planned(
    config: tf.PretrainedConfig, settings: EditConfig, sizes: Sizes, device: torch.device
) -> int:
    """Bytes at the peak, as `langedit plan` says before anything is loaded."""
    work = Workload(
        edits=sizes.facts,
        batch_size=sizes.facts,
        prompt_tokens=sizes.tokens,
        target_tokens=sizes.target,
    )
    shaped = shaped_model(config, _dtype(device))
    return plan_memory(shaped, settings, work, cpu=device.type == "cpu").peak


def _states(
    method: Any, model: EditableModel, layers: Sequence[int], device: torch.device
) -> tuple[dict[int, LayerState], float]:
    """A state for each layer with a basis of its own, and the seconds of one decomposition.

    One moment is decomposed; the other layers' forbidden spaces are reflections of that one's.
    """
    keys = SimulatedKeys(model.structure.d_in)
    moment = keys.moment(1).to(device)
    _settle(device)
    start = perf_counter()
    spectrum = Spectrum.of(moment.mean)
    _settle(device)
    decomposed = perf_counter() - start
    first = method.start(layers[0], moment.with_spectrum(spectrum))
    states = {layers[0]: first}
    for layer in layers[1:]:
        other = SimulatedKeys(model.structure.d_in, seed=layer)
        basis = other.turn(first.projector.basis.T).T
        states[layer] = replace(first, projector=NullSpaceProjector(basis=basis))
    return states, decomposed


def _in_time(stage: str, end: float, device: torch.device) -> None:
    _settle(device)
    if perf_counter() > end:
        raise TimeoutError(stage)


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def random_model(config: tf.PretrainedConfig, device: torch.device) -> EditableModel:
    """A model with random weights, made on the device itself, with a tokenizer of bare ids."""
    dtype = _dtype(device)
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
    states: Mapping[int, LayerState],
    requests: Sequence[EditRequest],
    profiler: Profiler | None,
) -> dict[str, float]:
    """Edit a batch and take it back; stage -> seconds."""
    weights = {layer: model.read_weight(layer) for layer in config.layers}
    job = BatchJob(
        model=model,
        config=config,
        requests=tuple(requests),
        states=states,
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
        "s a batch, without its report",
        "targets, s",
        "targets, % of bf16 peak",
        "linear algebra, s",
        "decomposition, s a layer, once",
        "peak GB",
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
                "–" if peak is None else f"{peak / 1e9:.1f}",
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
