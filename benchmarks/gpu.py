"""One batch on a GPU with models of published shapes and random weights: no download needed.

    python -m benchmarks.gpu            # Llama-3-8B, Qwen2.5-7B and GPT-J shapes, bfloat16
    python -m benchmarks.gpu --tiny     # a model of 60,000 weights on the CPU, the same code

A batch is a whole `Editor.apply`, from texts to the report. Unattended, within `--budget` seconds:
between its stages a shape that has no time left ends, and shapes for which too little is left are
not begun; both are named. A shape that fails says so in its row; the others are measured, and the
script ends with 1. Goals are for a Llama-3-8B shape on an H100. Says so where the plan of
`langedit plan` is above the goal.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.world import SimulatedKeys
from langedit.editing import EditConfig, Editor, LayerMoment, Moments, Prefixes
from langedit.editing.planning import Workload, plan_memory, shaped_model
from langedit.facts import Fact
from langedit.linalg import Spectrum
from langedit.models import EditableModel, ModelIdentity, find_structure
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
TINY_SHAPES = {"tiny": TINY}


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
    shapes = TINY_SHAPES if options.tiny else SHAPES
    wanted = options.only.split(",") if options.only else list(shapes)
    unknown = [name for name in wanted if name not in shapes]
    if unknown:
        parser.error(f"--only: expected some of {', '.join(shapes)}, got {', '.join(unknown)}")
    end, found = perf_counter() + options.budget, {}
    failed: dict[str, str] = {}
    for name in wanted:
        left = end - perf_counter()
        longest = max((own["total_seconds"] for own in found.values()), default=0.0)
        if left < 1.3 * longest:
            print(f"{name}: not run, {left:.0f} s of {options.budget:.0f} are left")
            continue
        try:
            _clear(device)
            found[name] = measure(shapes[name], sizes, device, end)
        except TimeoutError as late:
            print(f"{name}: ended after {late}, the {options.budget:.0f} s are over")
            continue
        except Exception as error:  # what was measured before must not be lost
            traceback.print_exc()
            failed[name] = f"failed, {type(error).__name__}: {error}".splitlines()[0]
            continue
        plan = found[name]["planned_peak_bytes"]
        if plan > GOAL_BYTES:
            print(f"{name}: planned peak {plan / 1e9:.1f} GB, above {GOAL_BYTES / 1e9:.0f} GB")
    print(_table(found, failed))
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
        layers=layers,
        null_share=0.5,
        value_steps=sizes.steps,
        stop_loss=0.0,
        kl_weight=0.0625,
        kl_template="{}",  # the tokenizer knows no words
    )
    planned = _planned(kind(**fields), config, sizes, device)
    model = random_model(kind(**fields), device)
    _in_time("making the model", end, device)
    moments, decomposed = _moments(model, layers, device)
    _in_time("the decomposition", end, device)
    prefixes, facts = random_facts(model, sizes)
    start = perf_counter()
    editor = Editor(model, None, config, moments, prefixes)
    _in_time("opening the editor", end, device)
    opened = perf_counter() - start
    editor.apply(facts[sizes.facts :])
    editor.undo()
    _in_time("the warm-up", end, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = perf_counter()
    seconds = editor.apply(facts[: sizes.facts]).seconds
    _settle(device)
    batch = perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    profiler, flops = Profiler(device), None
    if perf_counter() + opened + 2 * batch < end:
        # Counted in a second run, by an editor that remembers nothing of the first: the counting
        # goes past every operation.
        editor.undo()
        del editor
        again = Editor(model, None, config, moments, prefixes, profiler=profiler)
        again.apply(facts[: sizes.facts])
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


def _moments(
    model: EditableModel, layers: Sequence[int], device: torch.device
) -> tuple[Moments, float]:
    """One moment for all layers, and the seconds of its decomposition.

    It waits in main memory, as one that was read from files: an editor makes a state of its own
    for each layer from it, and the peak of a batch does not count it.
    """
    keys = SimulatedKeys(model.structure.d_in)
    moment = keys.moment(1).to(device)
    _settle(device)
    start = perf_counter()
    spectrum = Spectrum.of(moment.mean)
    _settle(device)
    decomposed = perf_counter() - start
    own = LayerMoment(
        moment=moment.with_spectrum(spectrum).to("cpu"),
        sample=keys.draw(512),
        counts={"en": moment.count},
    )
    layered = dict.fromkeys(layers, own)
    return Moments(layers=layered, identity=model.identity(), corpus="simulated"), decomposed


def _in_time(stage: str, end: float, device: torch.device) -> None:
    _settle(device)
    if perf_counter() > end:
        raise TimeoutError(stage)


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "cpu" else torch.bfloat16


class RandomModel(EditableModel):
    """A model of no checkpoint: hashing its weights to know it again would take a minute."""

    def identity(self) -> ModelIdentity:
        """The same for all: its moments are made for it."""
        return ModelIdentity(weights_hash="random", revision=None, source="random weights")


def random_model(config: tf.PretrainedConfig, device: torch.device) -> EditableModel:
    """A model with random weights, made on the device itself; its tokenizer knows w1, w2, …"""
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
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>")
    return RandomModel(model.requires_grad_(False), tokenizer, find_structure(model))


def random_facts(model: EditableModel, sizes: Sizes) -> tuple[Prefixes, list[Fact]]:
    """Prefixes, and facts of random words: a batch, and two more to warm up with.

    Contexts differ from each other, and share what prefixes they have.
    """
    generator = torch.Generator().manual_seed(0)
    top = int(model.model.config.get_text_config().vocab_size)

    def draw(count: int) -> list[str]:
        return [f"w{int(i)}" for i in torch.randint(1, top, (count,), generator=generator)]

    texts = [" ".join(draw(sizes.prefix)) + " " for _ in range(sizes.prefixes - 1)]
    facts = []
    for number in range(sizes.facts + 2):
        body = draw(sizes.tokens)
        facts.append(
            Fact(
                id=f"fact {number}",
                language="en",
                prompt=" ".join(["{}", *body[-3:]]),
                subject=" ".join(body[:-3]),
                target=" ".join(draw(sizes.target)),
            )
        )
    return Prefixes({"en": texts}), facts


def _table(found: dict[str, Any], failed: dict[str, str]) -> str:
    goals = ("goal", "", "15", "", "40", "1", "", "40")
    heads = (
        "shape",
        "device",
        "s a batch, with its report",
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
    widths[0] = max(widths[0], *map(len, failed), 0)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines[-1:-1] = [f"{name.ljust(widths[0])}  {why}" for name, why in failed.items()]
    return "\n".join(lines)


def _clear(device: torch.device) -> None:
    """Make room after the shape before, also where its model is part of a cycle.

    Raises:
        RuntimeError: the card gives errors only, as it does after some failures.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


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
