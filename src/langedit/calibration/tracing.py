"""Causal tracing: where a model reads what it knows of a subject (Meng et al. 2022, section 2.1).

The subject's embeddings are corrupted with noise, and the answer's probability falls: the *total
effect*. Then the clean state is put back at one layer and some tokens, and the probability rises
again: the *indirect effect* of that place. What is put back is the layer's output ("hidden"), or
the output of its edited projection, which is what its MLP adds ("mlp").

Layers below the restored one are those of the corrupted pass and are not run again; all places of
all facts of a micro-batch run together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn

from langedit.editing.batching import halve_on_oom, micro_batches, with_less_memory
from langedit.editing.forwards import replace_forwards
from langedit.editing.passes import begin_after, begin_at
from langedit.errors import NumericalError
from langedit.evaluation.forced import no_numbers
from langedit.models import EditableModel, EncodedPrompt, PaddedBatch, Recorder, pad_batch
from langedit.models.hooks import replace_output

Site = Literal["mlp", "hidden"]
SITES: tuple[Site, ...] = ("mlp", "hidden")
SITE_NAMES: Mapping[Site, str] = MappingProxyType(
    {"mlp": "the MLP's output", "hidden": "the hidden state"}
)
"""What is restored, in words."""

Places = Sequence[Sequence[int]]
"""Sets of token positions of one prompt; the tokens of a set are restored together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Traces:
    """Probabilities of n answers.

    Attributes:
        clean: (n,) of the model as it is.
        corrupted: (n,) with a corrupted subject, mean over the draws of the noise.
        restored: site -> (n, layers, sets), the same with the clean state put back at a set of
            tokens; not a number where the set is empty.
    """

    clean: Tensor
    corrupted: Tensor
    restored: Mapping[Site, Tensor]


def embedding_deviation(model: EditableModel, prompts: Sequence[EncodedPrompt]) -> float:
    """Standard deviation of the embeddings of the subjects' tokens, over all their entries."""
    ids = [token for own in prompts for token in own.ids[own.subject_start : own.lookup + 1]]
    with torch.no_grad():
        rows = _embedding(model)(torch.tensor([ids], device=model.device))
    return float(rows.float().std())


def trace(
    model: EditableModel,
    prompts: Sequence[EncodedPrompt],
    answers: Sequence[int],
    places: Sequence[Places],
    *,
    noise: float,
    draws: int,
    seed: int = 0,
    max_tokens: int = 8192,
) -> Traces:
    """Trace n answers.

    Args:
        model: the model; nothing stays changed.
        prompts: n prompts; all tokens of their subjects are corrupted.
        answers: for each prompt the token whose probability is asked for after it.
        places: for each prompt equally many sets of tokens.
        noise: standard deviation of what is added to the embeddings.
        draws: of the noise, for each prompt; they follow from the prompt, whatever others there
            are.
        seed: of the draws.
        max_tokens: padded tokens in one forward pass, unless one prompt with all its draws takes
            more; where memory runs out, prompts are halved, and then the sets of one prompt.

    Raises:
        LangEditError: memory does not hold a prompt with all its draws.
        NumericalError: a pass, corrupted or not, gives no probabilities; the message names the
            prompt, and what was restored at which layer.
    """
    count, layers = len(places[0]), model.structure.n_layers
    lengths = [len(prompt.ids) for prompt in prompts]
    clean, corrupted = torch.zeros(len(prompts)), torch.zeros(len(prompts))
    restored = {site: torch.zeros(len(prompts), layers, count) for site in SITES}

    def tokens(group: list[int]) -> int:
        return draws * count * len(group) * max(lengths[i] for i in group)

    def run(group: list[int], sets: int) -> None:
        """Trace some prompts, with so many sets in one pass."""
        begun = _Run.begin(
            model, [prompts[i] for i in group], [answers[i] for i in group], noise, draws, seed
        )
        clean[group], corrupted[group] = begun.clean, begun.corrupted
        for layer in range(layers):
            for site in SITES:
                with _naming(f"layer {layer}, with {SITE_NAMES[site]} of the unchanged subject"):
                    parts = [
                        begun.restored(layer, site, [places[i][at : at + sets] for i in group])
                        for at in range(0, count, sets)
                    ]
                restored[site][group, layer] = torch.cat(parts, dim=1)

    def divided(group: list[int]) -> None:
        one = tokens(group) // count
        if len(group) > 1:
            run(group, count)
        else:
            with_less_memory(
                lambda limit: run(group, min(count, max(1, limit // one))),
                max(one, max_tokens),
                most=tokens(group),
                least=2 * one - 1,
                limits=model.limits,
                kind="traces",
                what=f"one prompt with {draws} draws of the noise",
            )

    for group in micro_batches(lengths, max_tokens, rows=draws * count):
        halve_on_oom(group, divided, limits=model.limits, kind="traces", size=tokens)
    return Traces(clean=clean, corrupted=corrupted, restored=restored)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """A clean and a corrupted pass over a micro-batch; rows are facts, and within them draws."""

    model: EditableModel
    prompts: Sequence[EncodedPrompt]
    answers: Sequence[int]
    draws: int
    clean: Tensor
    corrupted: Tensor
    recorded: Recorder
    """Of the clean pass, a row a fact."""
    below: Recorder
    """Of the corrupted pass, a row a draw."""

    @classmethod
    def begin(
        cls,
        model: EditableModel,
        prompts: Sequence[EncodedPrompt],
        answers: Sequence[int],
        noise: float,
        draws: int,
        seed: int,
    ) -> _Run:
        layers = range(model.structure.n_layers)
        outputs = [model.layer_name(layer) for layer in layers]
        inner = [model.projection_name(layer) for layer in layers]
        recorded = Recorder(model.model, outputs=[*outputs, *inner])
        with recorded, _naming("with the subject as it is"):
            clean = _probabilities(model, prompts, answers)
        many = [prompt for prompt in prompts for _ in range(draws)]
        below = Recorder(model.model, inputs=outputs, outputs=outputs)
        noisy = _corrupted(model, prompts, noise, draws, seed)
        with below, noisy, _naming("with a corrupted subject"):
            corrupted = _probabilities(model, many, [a for a in answers for _ in range(draws)])
        return cls(
            model=model,
            prompts=prompts,
            answers=answers,
            draws=draws,
            clean=clean,
            corrupted=corrupted.view(-1, draws).mean(dim=1),
            recorded=recorded,
            below=below,
        )

    def restored(self, layer: int, site: Site, places: Sequence[Places]) -> Tensor:
        """(facts, sets) probabilities with the clean state of a layer put back."""
        model, count = self.model, len(places[0])
        name = model.layer_name(layer)
        mask = self._mask(places, self.below.outputs[name].shape[1])
        with ExitStack() as stack:
            if site == "hidden":
                clean = self._repeated(self.recorded.outputs[name], count)
                state = self.below.outputs[name].repeat(count, 1, 1)
                state = torch.where(mask.to(state.device), clean, state)
                stack.enter_context(replace_forwards(begin_after(model, layer, state)))
            else:
                inner = self.recorded.outputs[model.projection_name(layer)]
                clean = self._repeated(inner.view(len(self.prompts), mask.shape[1], -1), count)

                def put_back(hidden: Tensor) -> Tensor:
                    rows = hidden.reshape(clean.shape)
                    return torch.where(mask.to(rows.device), clean, rows).view(hidden.shape)

                state = self.below.inputs[name].repeat(count, 1, 1)
                stack.enter_context(replace_forwards(begin_at(model, layer, state)))
                stack.enter_context(replace_output(model.projection(layer), put_back))
            again = [p for _ in range(count) for p in self.prompts for _ in range(self.draws)]
            asked = [a for _ in range(count) for a in self.answers for _ in range(self.draws)]
            found = _probabilities(model, again, asked)
        means = found.view(count, len(self.prompts), self.draws).mean(dim=2).T
        empty = torch.tensor([[not len(own) for own in sets] for sets in places])
        return means.masked_fill(empty, torch.nan)

    def _mask(self, places: Sequence[Places], width: int) -> Tensor:
        """(sets x facts x draws, width, 1) bool: which tokens are restored in which row."""
        mask = torch.zeros(len(places[0]), len(places), self.draws, width, 1, dtype=torch.bool)
        for fact, sets in enumerate(places):
            for number, own in enumerate(sets):
                mask[number, fact, :, list(own)] = True
        return mask.flatten(0, 2)

    def _repeated(self, states: Tensor, count: int) -> Tensor:
        """Clean states of the facts, for every set and draw."""
        return states.repeat_interleave(self.draws, dim=0).repeat(count, 1, 1)


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Put in front of what is not finite where that is."""
    try:
        yield
    except NumericalError as error:
        raise NumericalError(f"tracing, {place}: {error}") from error


def _probabilities(
    model: EditableModel, prompts: Sequence[EncodedPrompt], answers: Sequence[int]
) -> Tensor:
    """(n,) float32 on the CPU: probability of each answer after its prompt."""
    batch = pad_batch([prompt.ids for prompt in prompts], model.pad_id)
    scores = last_logits(model, batch)
    return scores.softmax(dim=1)[torch.arange(len(answers)), torch.tensor(answers)]


def last_logits(model: EditableModel, batch: PaddedBatch) -> Tensor:
    """(n, vocabulary) float32 on the CPU, after the last token of each row; padded on the right.

    Raises:
        NumericalError: they give no probabilities; the message says after which text. An average
            would hide that.
    """
    rows = torch.arange(len(batch.ids))
    with torch.no_grad():
        logits = model.logits_at(batch, rows, batch.mask.sum(dim=1) - 1).float().cpu()
    bad = (~logits.logsumexp(dim=1).isfinite()).nonzero().flatten().tolist()
    if bad:
        ids = batch.ids[bad[0]][batch.mask[bad[0]].bool()]
        raise no_numbers(model, "the next token", ids.tolist())
    return logits


@contextmanager
def _corrupted(
    model: EditableModel, prompts: Sequence[EncodedPrompt], noise: float, draws: int, seed: int
) -> Iterator[None]:
    """While inside, noise is added to the embeddings of the subjects, a row a draw."""

    def add(hidden: Tensor) -> Tensor:
        added = torch.zeros(hidden.shape)
        for fact, prompt in enumerate(prompts):
            places = slice(prompt.subject_start, prompt.lookup + 1)
            size = (prompt.lookup + 1 - prompt.subject_start, hidden.shape[-1])
            for draw in range(draws):
                stream = _stream(prompt, draw, seed)
                added[fact * draws + draw, places] = torch.randn(size, generator=stream)
        return hidden + (noise * added).to(hidden)

    with replace_output(_embedding(model), add):
        yield


def _stream(prompt: EncodedPrompt, draw: int, seed: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {draw} {prompt.ids}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _embedding(model: EditableModel) -> nn.Module:
    module: nn.Module = model.model.get_input_embeddings()
    return module
