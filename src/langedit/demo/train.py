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
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from langedit.demo.atlas import Atlas
from langedit.demo.tokenizer import train_tokenizer
from langedit.demo.training_text import TrainingBatch, TrainingText, training_sentences

VOCABULARY_SIZE = 4000
SEED = 20

GATHERING_LAYERS = 3
"""Layers, from the first, in which a subject is closed to the tokens outside of it."""

CLOSED_SHARE = 0.9
"""Share of the statements whose subject is closed."""


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


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm up over 200 steps, stay for a third of the way, then go down to zero in a cosine."""
    if step < 200:
        return peak * (step + 1) / 200
    share = max(0.0, (step / steps - 0.33) / 0.67)
    return peak * 0.5 * (1 + math.cos(math.pi * share))


def train(
    output: Path, *, steps: int, rows: int, length: int, peak: float, save_every: int, device: str
) -> None:
    """Train the tokenizer and the model and save both, as bf16 safetensors."""
    torch.manual_seed(SEED)
    atlas = Atlas.from_cldr()
    tokenizer = train_tokenizer(training_sentences(atlas, SEED), VOCABULARY_SIZE)
    text = TrainingText(atlas, tokenizer, seed=SEED)
    place = torch.device(device)
    model = new_model(tokenizer)
    torch.nn.Module.to(model, place)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.02, fused=True
    )
    attention = GatheringAttention(model)
    generator = torch.Generator().manual_seed(SEED)
    begun, seen = time.monotonic(), 0
    recent: list[float] = []
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        batch = text.batch(rows, length)
        closed = draw_closed(batch.subject, generator)
        mask = gathering_mask(batch.subject[:, :-1].to(place), closed[:, :-1].to(place))
        attention.mask = mask.to(torch.bfloat16)
        losses, places = training_loss(model, batch, place)
        losses.mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        row, column = places.unbind(1)
        triple = batch.triple[row, column]
        known = triple >= 0
        values = losses.detach().double().cpu().numpy()
        text.feedback(batch.language[row, column][known], triple[known], values[known])
        recent.append(float(values[known].mean()))
        seen += rows * length
        if (step + 1) % 100 == 0:
            text.reweigh()
            rate = seen / (time.monotonic() - begun)
            print(
                f"step {step + 1}/{steps}  loss {losses.mean().item():.3f}  "
                f"objects {sum(recent) / len(recent):.3f}  {rate:.0f} tokens/s",
                flush=True,
            )
            recent.clear()
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save(model, tokenizer, output, step=step + 1, seconds=time.monotonic() - begun)


def save(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    output: Path,
    *,
    step: int,
    seconds: float,
) -> None:
    """Save a bf16 copy of the model, its tokenizer, and how long the training took."""
    output.mkdir(parents=True, exist_ok=True)
    copy = LlamaForCausalLM(model.config)
    torch.nn.Module.to(copy, torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(output)
    tokenizer.save_pretrained(output)
    record = {"steps": step, "seconds": round(seconds), "torch": torch.__version__, "seed": SEED}
    (output / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Train the bundled model of langedit.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--rows", type=int, default=16, help="rows a step")
    parser.add_argument("--length", type=int, default=128, help="tokens a row")
    parser.add_argument("--peak", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    train(
        options.output,
        steps=options.steps,
        rows=options.rows,
        length=options.length,
        peak=options.peak,
        save_every=options.save_every,
        device=options.device,
    )


if __name__ == "__main__":
    main()
