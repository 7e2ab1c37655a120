"""Train the bundled model: `python -m langedit.demo.train --output DIR`.

A small Llama learns the atlas by heart in six languages. It is made to be a fair ground for
editing: many relations a subject and several wordings a relation, relation words before and after
the subject, and a wide MLP with ReLU, so that keys are sparse and most directions stay free.

Small models read a subject in their first layer, where nothing is left to edit. Large ones first
gather what they know of it at its last token, and read that in later layers (Geva et al. 2023,
"Dissecting Recall of Factual Associations"). To bring that about here, most statements are trained
with attention to the subject, from outside of it, closed in the lower layers. The checkpoint is a
plain Llama: nothing is closed when it is used.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from langedit.demo.atlas import Atlas
from langedit.demo.subject_keys import KeyTap, key_loss, last_subject_tokens
from langedit.demo.tokenizer import train_tokenizer
from langedit.demo.training_text import TrainingBatch, TrainingText, training_sentences

VOCABULARY_SIZE = 4000
SEED = 20

GATHERING_LAYERS = 3
"""Layers, from the first, in which a subject is closed to the tokens outside of it."""

CLOSED_SHARE = 0.9
"""Share of the statements whose subject is closed."""

RECORD = "training.json"
"""File beside the checkpoint: the stages of its training."""


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build the untrained model: 6 layers, d_model 160, d_in 2048, ReLU."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=2048,
        num_hidden_layers=6,
        hidden_act="relu",
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.04,
    )
    return LlamaForCausalLM(config)


def gathering_mask(subject: torch.Tensor, closed: torch.Tensor) -> torch.Tensor:
    """Where a token may look in the lower layers: not at a closed subject it is no part of.

    Args:
        subject: `TrainingBatch.subject`, (rows, length).
        closed: which tokens belong to a closed subject, (rows, length).

    Returns:
        (rows, 1, length, length): 0 where attention may go, else -inf.
    """
    length = subject.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=subject.device).tril()
    own = subject[:, :, None] == subject[:, None, :]
    allowed = causal & (own | ~closed[:, None, :])
    mask = torch.zeros(allowed.shape, device=subject.device)
    return mask.masked_fill(~allowed, float("-inf"))[:, None]


def draw_closed(subject: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Close a share of the subjects of each row; (rows, length), false outside subjects."""
    rows, length = subject.shape
    drawn = torch.rand(rows, length + 1, generator=generator) < CLOSED_SHARE
    return drawn.gather(1, subject + 1) & (subject >= 0)


class GatheringAttention:
    """Puts a mask on the lower layers of a model in training."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.mask: torch.Tensor | None = None
        for layer in model.model.layers[:GATHERING_LAYERS]:
            layer.register_forward_pre_hook(self._put, with_kwargs=True)

    def _put(
        self, _layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**kwargs, "attention_mask": self.mask}


def training_loss(
    model: LlamaForCausalLM, batch: TrainingBatch, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of every wanted token.

    Returns:
        The losses in nats, (m,), and the (row, column) of each token, (m, 2).
    """
    ids, wanted = batch.ids.to(device), batch.wanted.to(device)
    with torch.autocast(device.type, torch.bfloat16):
        hidden = model.model(ids[:, :-1], use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[wanted[:, 1:]])
    losses = torch.nn.functional.cross_entropy(
        logits.float(), ids[:, 1:][wanted[:, 1:]], reduction="none"
    )
    return losses, wanted.nonzero().cpu()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the training.

    Attributes:
        steps: optimizer steps of the whole schedule.
        stop_at: steps after which the stage ends; the schedule may go on further.
        peak: highest learning rate.
        warm_up: steps in which it rises.
        plateau: share of the steps after which it falls to zero in a cosine.
        echo_share: share of documents followed by another one about the same subjects.
        key_weight: weight of `key_loss`, for each of the lower layers.
    """

    steps: int
    stop_at: int
    peak: float
    warm_up: int
    plateau: float
    echo_share: float = 0.0
    key_weight: float = 0.0


def learning(steps: int = 2500, peak: float = 3e-3) -> Stage:
    """The first stage: learn most of the atlas. It ends while its rate is still high."""
    return Stage(steps=max(6000, steps), stop_at=steps, peak=peak, warm_up=200, plateau=0.33)


def separating(steps: int, peak: float, key_weight: float) -> Stage:
    """A later stage: learn the rest, and give each subject keys of its own."""
    return Stage(
        steps=steps,
        stop_at=steps,
        peak=peak,
        warm_up=50,
        plateau=0.3,
        echo_share=0.5,
        key_weight=key_weight,
    )


LATER_STAGES = (
    separating(3000, peak=2.5e-3, key_weight=2.0),
    separating(800, peak=1.5e-3, key_weight=20.0),
)


def learning_rate(step: int, stage: Stage) -> float:
    """Rise, stay, and go down to zero in a cosine."""
    if step < stage.warm_up:
        return stage.peak * (step + 1) / stage.warm_up
    share = max(0.0, (step / stage.steps - stage.plateau) / (1 - stage.plateau))
    return stage.peak * 0.5 * (1 + math.cos(math.pi * share))


def train(
    output: Path,
    *,
    stages: Sequence[Stage],
    rows: int,
    length: int,
    save_every: int,
    device: str,
    start: Path | None = None,
) -> None:
    """Train the tokenizer and the model, stage after stage, and save both as bf16 safetensors.

    A stage begins with what the one before it saved; the first one begins with the checkpoint
    `start`, or afresh.
    """
    atlas = Atlas.from_cldr()
    for stage in stages:
        torch.manual_seed(SEED)
        model, tokenizer, record = _begin(atlas, start)
        text = TrainingText(atlas, tokenizer, seed=SEED, echo_share=stage.echo_share)
        torch.nn.Module.to(model, torch.device(device))
        run = _Run(model, text, stage)
        for step in range(stage.stop_at):
            run.step(step, rows, length)
            done = step + 1
            if done % 100 == 0:
                text.reweigh()
                print(f"step {done}/{stage.stop_at}  {run.progress()}", flush=True)
            if done % save_every == 0 or done == stage.stop_at:
                own = {**asdict(stage), "done": done, "seconds": round(run.seconds)}
                save(model, tokenizer, output, record=[*record, own])
        start = output


class _Run:
    """One stage under way."""

    def __init__(self, model: LlamaForCausalLM, text: TrainingText, stage: Stage) -> None:
        self.model, self.text, self.stage = model, text, stage
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=stage.peak, betas=(0.9, 0.98), weight_decay=0.02, fused=True
        )
        self.attention = GatheringAttention(model)
        self.tap = KeyTap(model, range(GATHERING_LAYERS)) if stage.key_weight else None
        self.generator = torch.Generator().manual_seed(SEED)
        self.begun, self.seen = time.monotonic(), 0
        self.recent: list[tuple[float, float]] = []
        model.train()

    @property
    def seconds(self) -> float:
        """Time since the stage began."""
        return time.monotonic() - self.begun

    def step(self, step: int, rows: int, length: int) -> None:
        """Draw a batch and take one optimizer step."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.stage)
        place = next(self.model.parameters()).device
        batch = self.text.batch(rows, length)
        closed = draw_closed(batch.subject, self.generator)
        mask = gathering_mask(batch.subject[:, :-1].to(place), closed[:, :-1].to(place))
        self.attention.mask = mask.to(torch.bfloat16)
        losses, places = training_loss(self.model, batch, place)
        apart = self._key_loss(batch)
        (losses.mean() + self.stage.key_weight * apart).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        row, column = places.unbind(1)
        triple = batch.triple[row, column]
        known = triple >= 0
        values = losses.detach().double().cpu().numpy()
        self.text.feedback(batch.language[row, column][known], triple[known], values[known])
        self.recent.append((float(values[known].mean()), float(apart.detach())))
        self.seen += rows * length

    def _key_loss(self, batch: TrainingBatch) -> torch.Tensor:
        if self.tap is None:
            return torch.zeros(())
        places, names = last_subject_tokens(batch)
        row, column = places.unbind(1)
        count = self.text.subject_count
        own = [key_loss(k[row, column], names.to(k.device), count) for k in self.tap.keys.values()]
        return torch.stack(own).sum()

    def progress(self) -> str:
        """Means since the last call."""
        objects, keys = (sum(values) / len(values) for values in zip(*self.recent, strict=True))
        self.recent.clear()
        rate = self.seen / self.seconds
        return f"objects {objects:.3f}  keys {keys:.4f}  {rate:.0f} tokens/s"


def _begin(
    atlas: Atlas, start: Path | None
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, list[dict[str, Any]]]:
    """The model and tokenizer saved in `start` and how they were trained, or new ones."""
    if start is not None:
        model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(start)
        record = json.loads((start / RECORD).read_text(encoding="utf-8"))
        return model, tokenizer, record["stages"]
    tokenizer = train_tokenizer(training_sentences(atlas, SEED), VOCABULARY_SIZE)
    return new_model(tokenizer), tokenizer, []


def save(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    output: Path,
    *,
    record: Sequence[Mapping[str, Any]],
) -> None:
    """Save a bf16 copy of the model, its tokenizer, and how it was trained."""
    output.mkdir(parents=True, exist_ok=True)
    copy = LlamaForCausalLM(model.config)
    torch.nn.Module.to(copy, torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(output)
    tokenizer.save_pretrained(output)
    text = json.dumps({"torch": torch.__version__, "seed": SEED, "stages": record}, indent=2)
    (output / RECORD).write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Train the bundled model of langedit.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--start", type=Path, help="checkpoint to begin with, not a new model")
    parser.add_argument(
        "--stages", default="0-2", help="which of the three stages, as 0-2 or 2 (default: all)"
    )
    parser.add_argument("--rows", type=int, default=16, help="rows a step")
    parser.add_argument("--length", type=int, default=128, help="tokens a row")
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    first, _, last = options.stages.partition("-")
    stages = (learning(), *LATER_STAGES)[int(first) : int(last or first) + 1]
    train(
        options.output,
        stages=stages,
        rows=options.rows,
        length=options.length,
        save_every=options.save_every,
        device=options.device,
        start=options.start,
    )


if __name__ == "__main__":
    main()
