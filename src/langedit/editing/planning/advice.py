"""What to change when a run does not fit: options that are tried on the plan itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PretrainedConfig

from langedit.editing.config import EditConfig
from langedit.editing.planning.memory import plan_memory
from langedit.editing.planning.passes import PassCosts, pass_costs
from langedit.editing.planning.quantisation import quantisation_of
from langedit.editing.planning.shaped import shaped_model
from langedit.editing.planning.stage import MemoryPlan
from langedit.editing.planning.stages import STAGES
from langedit.editing.planning.workload import Workload
from langedit.models import EditableModel

_SMALLEST_PASS = 512  # tokens
_SMALLEST_BATCH = 10  # facts
_OPEN = 0.8  # share of open directions
_CARDS = (2, 4, 8)
_GRANTED = 0.9  # of the memory allowed, what transformers gives to quantised weights
_OF_PASSES = {
    "method", "layers", "spread", "prefix_count", "prefix_length", "micro_batch_tokens",
    "loss_layer", "kl_weight",
}  # fmt: skip
MAP_FILE = "map.json"
"""Name of the file that the advice has a device map written to."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a plan is made of, and what of it differs from what was asked.

    Attributes:
        dtype: precision of the weights.
        config: settings.
        work: sizes.
        offloaded: whether layers wait in main memory.
        cards: devices that the weights are spread over.
        changes: how to ask for it, one option each; empty for what was asked.
    """

    dtype: torch.dtype
    config: EditConfig
    work: Workload
    offloaded: bool = False
    cards: int = 1
    changes: tuple[str, ...] = ()


_Change = Callable[[Choice], Choice]


class Planner:
    """Makes plans for one model; passes are run once for each precision and size of pass."""

    def __init__(self, shape: PretrainedConfig, *, cpu: bool) -> None:
        self._shape = shape
        self._quantised = quantisation_of(shape.model_type, shape) is not None
        self._cpu = cpu
        self._models: dict[torch.dtype, EditableModel] = {}
        self._costs: dict[tuple[object, ...], PassCosts] = {}

    def plan(self, choice: Choice) -> MemoryPlan:
        """The plan of a choice.

        Raises:
            LangEditError: as `plan_memory`.
        """
        if choice.dtype not in self._models:
            self._models[choice.dtype] = shaped_model(self._shape, choice.dtype)
        model = self._models[choice.dtype]
        settings = choice.config.model_dump(include=_OF_PASSES)
        key = (choice.dtype, tuple(settings.values()), choice.work.batch, choice.work.stats_tokens)
        if key not in self._costs:
            self._costs[key] = pass_costs(model, choice.config, choice.work)
        return plan_memory(
            model,
            choice.config,
            choice.work,
            cpu=self._cpu,
            offloaded=choice.offloaded,
            cards=choice.cards,
            costs=self._costs[key],
        )

    def advise(self, asked: Choice, limit: int) -> tuple[Choice, MemoryPlan] | None:
        """The first change, or heap of changes, that makes a run fit; None where none does.

        Single changes come first, then heaps of them, without those that a heap does not need.

        Args:
            asked: what does not fit.
            limit: bytes there are.
        """
        options = list(self._options(asked))
        for change in options:
            choice = change(asked)
            plan = self.plan(choice)
            if plan.peak <= limit:
                return choice, plan
        for count in range(2, len(options) + 1):
            if self._heaped(asked, options[:count])[1].peak <= limit:
                return self._heaped(asked, self._needed(asked, options[:count], limit))
        return None

    def _heaped(self, asked: Choice, changes: Sequence[_Change]) -> tuple[Choice, MemoryPlan]:
        choice = asked
        for change in changes:
            choice = change(choice)
        return choice, self.plan(choice)

    def _needed(self, asked: Choice, changes: Sequence[_Change], limit: int) -> list[_Change]:
        """Of changes that fit together, those without which they would not."""
        needed = list(changes)
        for change in changes:
            rest = [other for other in needed if other is not change]
            if self._heaped(asked, rest)[1].peak <= limit:
                needed = rest
        return needed

    def _may_offload(self, asked: Choice) -> bool:
        trained = not STAGES[asked.config.method].offloads
        return not (self._cpu or trained or self._quantised)

    def _options(self, asked: Choice) -> Iterator[_Change]:
        """Changes of one thing each.

        First those that take time, then those that edit otherwise, last those that take cards.
        """
        tokens = asked.config.micro_batch_tokens
        while tokens // 4 >= _SMALLEST_PASS:
            tokens //= 4
            yield _setting("micro_batch_tokens", tokens)
        if asked.work.stats_tokens > _SMALLEST_PASS:
            yield _size("stats_tokens", _SMALLEST_PASS, "langedit stats --batch-tokens")
        if not self._cpu and asked.config.states_on == "device":
            yield _setting("states_on", "cpu")
        if asked.work.batch > _SMALLEST_BATCH:
            size = max(_SMALLEST_BATCH, asked.work.batch // 4)
            yield _size("batch_size", size, "--batch-size")
        if asked.dtype == torch.float32:
            yield lambda choice: _noted(
                replace(choice, dtype=torch.bfloat16), "--dtype", "bfloat16"
            )
        if self._may_offload(asked):
            yield _placed(offloaded=True, cards=1)
        share = asked.config.null_share
        if share is not None and share < _OPEN:
            yield _setting("null_share", _OPEN)
        if not self._cpu:
            yield from (_placed(offloaded=False, cards=cards) for cards in _CARDS)


def device_map(choice: Choice, plan: MemoryPlan, limit: int) -> dict[str, object] | None:
    """The content of a device map file for a choice that fits; None where it needs none.

    `auto` fills each device with weights, in the order of the model, up to what it is allowed. Of
    several cards that is what editing leaves. Where weights are offloaded the plan has room for
    all that is not a layer and for layers while they are needed: what may stay on the card is the
    embeddings, which come first, and what the plan leaves free.

    Args:
        choice: what was planned.
        plan: its plan.
        limit: bytes of each device.
    """
    if choice.cards > 1:
        room = limit - plan.beside_weights
        room = int(room / _GRANTED) if plan.quantised else room
        memory = {str(card): f"{room // 10**6}MB" for card in range(choice.cards)}
    elif choice.offloaded:
        room = plan.embeddings + limit - plan.peak
        memory = {"0": f"{room // 10**6}MB", "cpu": f"{-(-plan.stored // 10**6)}MB"}
    else:
        return None
    return {"device_map": "auto", "max_memory": memory}


def _setting(name: str, value: float | str) -> _Change:
    def change(choice: Choice) -> Choice:
        config = choice.config.replace(**{name: value})
        return _noted(replace(choice, config=config), f"{name} =", value)

    return change


def _placed(*, offloaded: bool, cards: int) -> _Change:
    file = MAP_FILE if cards == 1 else f"{MAP_FILE} over {cards} such devices"

    def change(choice: Choice) -> Choice:
        return _noted(replace(choice, offloaded=offloaded, cards=cards), "--device-map", file)

    return change


def _size(field: str, value: int, option: str) -> _Change:
    def change(choice: Choice) -> Choice:
        work = replace(choice.work, **{field: value})
        return _noted(replace(choice, work=work), option, value)

    return change


def _noted(choice: Choice, name: str, value: object) -> Choice:
    """The choice with a line that says how to ask for it, in place of an earlier one."""
    kept = tuple(line for line in choice.changes if not line.startswith(f"{name} "))
    return replace(choice, changes=(*kept, f"{name} {value}"))
