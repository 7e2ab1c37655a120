"""Memory of an editing run, stage by stage, from shapes alone.

Passes through the model are run on the meta device (`passes.py`). What the editor keeps and what
linear algebra needs beside it follows from widths: a second moment is (d_in, d_in), a basis of
forbidden directions (d_in, rank), both float64; an edited weight (d_model, d_in) is kept in float32
three times during a batch: unedited, before it, and after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from langedit.editing.config import EditConfig
from langedit.editing.methods import find_method
from langedit.editing.planning.passes import PassCosts, Workload, pass_costs
from langedit.errors import ConfigError
from langedit.linalg.growing import rows_with_room
from langedit.models import EditableModel

_ASSUMED_NULL_SHARE = 0.5
"""Share of open directions where the settings give a threshold, which needs a real moment."""

PLANNED = ("langedit", "alphaedit", "memit", "memit-seq")
"""Methods whose memory is known: one solve a layer, and updates that are pairs of factors."""

_TRIANGULAR = 2.0
"""What an operation of a system with a triangular factor takes, in operations of a product."""

_SAMPLE = 512  # keys of the corpus kept for each layer


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of a run at its most demanding moment.

    Attributes:
        name: what is done.
        device: part -> bytes where the model computes.
        host: part -> bytes in main memory; where the model computes on the CPU these add up.
        matmul: floating-point operations of the whole stage in the model's precision.
        double: the same in float64, of matrix products and of systems with triangular factors.
        eigen: the same of decompositions into eigenvectors, singular vectors, orthonormal bases.
    """

    name: str
    device: Mapping[str, int]
    host: Mapping[str, int] = field(default_factory=dict)
    matmul: float = 0.0
    double: float = 0.0
    eigen: float = 0.0

    def bytes(self, *, shared: bool) -> int:
        """Bytes where the model computes; `shared`: that is main memory."""
        return sum(self.device.values()) + (sum(self.host.values()) if shared else 0)


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What a run needs.

    Attributes:
        parameters: number of values in the model.
        stored: bytes of its weights.
        stages: in the order in which they come.
        embeddings: bytes of the token embeddings among them.
        cpu: whether the model computes on the CPU.
    """

    parameters: int
    stored: int
    embeddings: int
    stages: tuple[Stage, ...]
    cpu: bool

    @property
    def peak(self) -> int:
        """The most bytes that any stage needs where the model computes."""
        return max(stage.bytes(shared=self.cpu) for stage in self.stages)

    @property
    def peak_stage(self) -> Stage:
        """The stage that needs them."""
        return max(self.stages, key=lambda stage: stage.bytes(shared=self.cpu))

    @property
    def beside_weights(self) -> int:
        """The most bytes that any stage needs there beside the model's weights."""
        return max(stage.bytes(shared=self.cpu) - stage.device["weights"] for stage in self.stages)


def plan_memory(
    model: EditableModel,
    config: EditConfig,
    work: Workload,
    *,
    cpu: bool,
    offloaded: bool = False,
    cards: int = 1,
    costs: PassCosts | None = None,
) -> MemoryPlan:
    """Work out the stages of `langedit stats` and `langedit edit`.

    Args:
        model: of `shaped_model`, in the precision in which it will be loaded.
        config: settings of the run.
        work: number and size of the facts.
        cpu: whether the model computes on the CPU.
        offloaded: weights wait in main memory, and a layer is on the device when it runs
            (`device_map` with parts on the CPU). Gradients of the targets hold the layers that
            they come through on the device until they are there.
        cards: devices that the weights are spread over. The plan is of one of them, on which all
            that editing needs beside the weights is counted, wherever the edited layers are.
        costs: of the passes, if they are known already.

    Raises:
        ConfigError: a layer is out of range, the memory of the method or of its projection is not
            known, or weights are to be offloaded and spread.
        ModelError: the model decides by values, which are not there.
    """
    if config.method not in PLANNED:
        raise ConfigError(
            f"method: expected one of {', '.join(PLANNED)}, got {config.method}: what others "
            "keep and train is not known here; plan with one of these for a first estimate"
        )
    if config.method == "langedit" and config.projection != "orthogonal":
        raise ConfigError(
            f"projection: expected orthogonal, got {config.projection}: what the other projections "
            "keep of moments that they refresh is not known here; plan with orthogonal for a first "
            "estimate, and expect a decomposition of every layer after each batch on top"
        )
    if offloaded and cards > 1:
        raise ConfigError("expected weights offloaded, or spread over cards, got both: plan one")
    costs = costs or pass_costs(model, config, work)
    parameters = {id(p): p for p in model.model.parameters()}.values()
    sizes = _Sizes.of(model, config, work)
    weights = _Weights.of(model, config, offloaded=offloaded, cards=cards)
    return MemoryPlan(
        parameters=sum(p.numel() for p in parameters),
        stored=weights.stored,
        embeddings=weights.embeddings,
        stages=_Builder(sizes, costs, config, work, weights, model, cpu).stages(),
        cpu=cpu,
    )


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """Bytes of the model's weights.

    Attributes:
        stored: all of them.
        embeddings: the token embeddings.
        resident: on the device in passes without gradients.
        held: on the device in passes with gradients of the targets.
        waiting: in main memory.
    """

    stored: int
    embeddings: int
    resident: int
    held: int
    waiting: int

    @classmethod
    def of(
        cls, model: EditableModel, config: EditConfig, *, offloaded: bool, cards: int
    ) -> _Weights:
        parameters = {id(p): p for p in model.model.parameters()}.values()
        stored = sum(p.numel() * p.itemsize for p in parameters)
        layer = sum(p.numel() * p.itemsize for p in model.layer(0).parameters())
        table = model.model.get_input_embeddings().weight
        assert isinstance(table, Tensor)
        embeddings = table.numel() * table.itemsize
        last = model.structure.n_layers - 1
        resident = held = stored
        if cards > 1:  # no module is on two
            resident = held = min(stored, -(-stored // cards) + max(layer, embeddings))
        elif offloaded:  # all but the layers, one that runs, and one that comes or goes
            resident = min(stored, stored - layer * (last - 1))
            end = last if config.loss_layer is None else config.loss_layer
            held = min(stored, resident + layer * (end - config.layers[-1]))
        return cls(
            stored=stored,
            embeddings=embeddings,
            resident=resident,
            held=held,
            waiting=stored - resident if offloaded else 0,
        )


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """Bytes of what comes in pieces of one layer.

    Attributes:
        layers: number of edited layers.
        d_in: width of the keys.
        moment: a second moment.
        weight: an edited weight in float32.
        rounded: the same as the model stores it.
        rank: forbidden directions before the first batch.
        rank_after: the same after the last one.
        batch_rows: keys of a batch in float64.
        bases: bases of forbidden directions that are kept between batches.
        bases_growing: the same while a batch's directions are added.
        keys: keys of past edits that are kept between batches.
        keys_growing: the same while those of a batch are added.
        closed: what the solves of a weighed corpus have closed, after the last batch.
        factored: what is kept of a second moment that solves weigh.
    """

    layers: int
    d_in: int
    moment: int
    weight: int
    rounded: int
    rank: int
    rank_after: int
    batch_rows: int
    bases: int
    bases_growing: int
    keys: int
    keys_growing: int
    closed: int
    factored: int

    @classmethod
    def of(cls, model: EditableModel, config: EditConfig, work: Workload) -> _Sizes:
        d_in, d_model = model.structure.d_in, model.structure.d_model
        share = config.null_share or _ASSUMED_NULL_SHARE
        rank = round((1 - share) * d_in) if find_method(config.method).needs_null_space else 0
        grows = config.method == "langedit"
        kept, growing = _most_directions(rank, work, d_in) if grows else (rank, rank)
        bases, bases_growing = 8 * d_in * kept, 8 * d_in * growing
        if grows and config.corpus_weight:  # what the solves of a weighed corpus close
            kept, growing = _most_directions(0, work, d_in - rank)
            bases += 8 * (d_in - rank) * kept
            bases_growing += 8 * (d_in - rank) * growing
        closed = 8 * (d_in - rank) * min(d_in - rank, work.edits)
        keys, keys_growing = _most_directions(0, work, None)
        # With a null space its eigenvectors, else a triangular factor.
        factored = 8 * d_in * (d_in - rank) if not rank or config.corpus_weight else 0
        return cls(
            layers=len(config.edited_layers),
            d_in=d_in,
            moment=8 * d_in * d_in,
            weight=4 * d_in * d_model,
            rounded=d_in * d_model * next(model.projection(0).parameters()).itemsize,
            rank=rank,
            rank_after=min(d_in, rank + work.edits) if grows else rank,
            batch_rows=8 * d_in * work.batch,
            bases=bases,
            bases_growing=bases_growing,
            keys=4 * d_in * keys,
            keys_growing=4 * d_in * keys_growing,
            closed=closed if grows and config.corpus_weight else 0,
            factored=factored,
        )

    @property
    def null(self) -> int:
        """Open directions before the first batch."""
        return self.d_in - self.rank

    @property
    def mean_rank(self) -> float:
        """Forbidden directions in the middle of the run."""
        return (self.rank + self.rank_after) / 2

    def basis(self, rank: int) -> int:
        return 8 * self.d_in * rank


def _most_directions(rank: int, work: Workload, most: int | None) -> tuple[int, int]:
    """The most rows that are stored between batches, and while those of a batch are added.

    All states share one storage, which is made with room for more rows. When it is full, a larger
    one is filled from it.
    """
    held = kept = growing = rank
    for batch in range(work.batches):
        known, more = rank + batch * work.batch_size, work.batch
        if most is not None:
            known = min(most, known)
            more = min(most - known, more)
        kept = max(kept, held)
        if known + more > held:
            larger = rows_with_room(known, more, most)
            growing, held = max(growing, held + larger), larger
    return kept, max(growing, held)


@dataclass(frozen=True)
class _Builder:
    """The stages; amounts of the last batch, when most is kept."""

    sizes: _Sizes
    costs: PassCosts
    config: EditConfig
    work: Workload
    weights: _Weights
    model: EditableModel
    cpu: bool

    def stages(self) -> tuple[Stage, ...]:
        return (self._stats(), self._open(), self._targets(), self._solve(), self._advance())

    @property
    def _states_wait(self) -> bool:
        """Whether what methods remember is in main memory, apart from the device."""
        return self.config.states_on == "cpu" and not self.cpu

    def _host(self, *, growing: bool = False) -> dict[str, int]:
        """What is in main memory; moments read from the folder stay there."""
        host = {"second moments": self.sizes.layers * self.sizes.moment}
        if self.weights.waiting:
            host["offloaded weights"] = self.weights.waiting
        return host | (self._remembered(growing=growing) if self._states_wait else {})

    def _remembered(self, *, growing: bool) -> dict[str, int]:
        """What methods remember of all layers, between batches or while a batch is added."""
        s = self.sizes
        parts = {
            "bases of forbidden directions": s.layers * (s.bases_growing if growing else s.bases),
            "factored moments": s.layers * s.factored,
            "keys of past edits": s.layers * (s.keys_growing if growing else s.keys),
        }
        return {name: size for name, size in parts.items() if size}

    def _device(self, *, growing: bool = False, copies: int = 0) -> dict[str, int]:
        """What methods and editor keep where the model computes.

        Args:
            growing: while a batch is added.
            copies: of what grows of the one layer that is there in turn, where states wait.
        """
        s, edits = self.sizes, self.work.edits
        width = s.d_in + self.model.structure.d_model
        parts = {"weights": self.weights.resident}
        if not self._states_wait:
            parts |= self._remembered(growing=growing)
        elif copies:
            grows = s.basis(s.rank_after) + s.closed + 4 * edits * s.d_in
            parts["state of one layer"] = copies * grows + s.factored
        parts["edited weights in float32"] = (
            s.layers * s.weight * (2 if self.work.batches > 1 else 1)
        )
        parts["updates and samples"] = s.layers * 4 * (edits * width + _SAMPLE * s.d_in)
        return parts

    def _stats(self) -> Stage:
        s, tokens = self.sizes, self.work.moment_tokens
        passes = tokens / self.work.stats_tokens
        return Stage(
            name="stats",
            device={
                "weights": self.weights.resident,
                "second moments": s.layers * s.moment,
                "activations": self.costs.stats.bytes,
            },
            host={
                "offloaded weights": self.weights.waiting,
                "means": max(0, (s.layers + 3) * s.moment - self.costs.stats.bytes),
            },
            matmul=passes * self.costs.stats.flops,
            double=1.0 * s.layers * tokens * s.d_in**2,  # of the lower triangle alone
        )

    def _open(self) -> Stage:
        """Decompose one moment while what was made of the others is kept."""
        s = self.sizes
        # Eigenvectors, and twice as much work space; checks of a moment take two more at a time.
        work = 3 if s.rank else 2
        kept = 0 if self._states_wait else (s.layers - 1) * (s.basis(s.rank) + s.factored)
        begin = {
            "weights": self.weights.resident,
            "kept of other layers": kept,
            "work": work * s.moment,
        }
        eigen = 9.0 * s.layers * s.d_in**3 if s.rank else 0.0
        double = 0.0 if s.rank else s.layers * s.d_in**3 / 3
        if s.rank and self.config.relative_ridge is not None:
            double += s.layers * 2.0 * s.d_in**2 * s.rank
        host = self._host()
        return Stage(name="open", device=begin, host=host, eigen=eigen, double=double)

    def _targets(self) -> Stage:
        """Optimise the last batch."""
        c, batches = self.costs, self.work.batches
        moments = [
            {"weights": self.weights.resident, "activations": c.prepare.bytes},
            {"weights": self.weights.held, "activations": c.step.bytes},
        ]
        most = max(moments, key=lambda moment: sum(moment.values()))
        steps = self.config.value_steps
        return Stage(
            name="targets",
            device=self._device() | most,
            host=self._host(),
            matmul=batches * c.groups * (c.prepare.flops + steps * c.step.flops),
        )

    def _solve(self) -> Stage:
        s, c, batches = self.sizes, self.costs, self.work.batches
        # At the last layer: the dense update, its rounded sum, and the rows of the solve.
        last = s.weight + s.rounded + s.weight // 4 + 8 * s.batch_rows
        device = self._device(copies=1)
        device["weights after the batch"] = s.layers * s.weight
        device["work"] = max(last, c.walk.bytes)
        n, d, rank = self.work.batch, s.d_in, s.mean_rank
        rows = 8.0 * d * n**2 + 2.0 * n * s.weight / 4  # of the batch among themselves, and dense
        if not s.rank:
            rows += 2 * _TRIANGULAR * n * d * d
        elif s.factored:  # into the coordinates and back, what is closed, and the basis once
            rows += 4.0 * n * s.null * (d + 2 * (rank - s.rank)) + 4.0 * n * d * rank
        else:
            rows += 8.0 * n * d * rank
        return Stage(
            name="solve",
            device=device,
            host=self._host(),
            matmul=batches * c.walk.flops,
            double=batches * s.layers * rows,
        )

    def _advance(self) -> Stage:
        """Bases with the batch's keys are made while older ones are kept, for undo."""
        s, batches = self.sizes, self.work.batches
        grown = s.rank_after > s.rank
        device = self._device(growing=True, copies=2)
        device["weights after the batch"] = s.layers * s.weight
        device["work"] = 8 * s.batch_rows
        n, d = self.work.batch, s.d_in
        # Singular vectors of what is left of the keys are made orthonormal. Where a corpus is
        # weighed, the solve has not projected the keys, and the same follows in its coordinates.
        double, eigen = 0.0, 10.0 * d * n**2 + 20.0 * n**3
        if s.factored:
            eigen += 10.0 * s.null * n**2 + 20.0 * n**3
            double += 4.0 * n * d * s.mean_rank
            double += 2.0 * n * s.null * (d + 4.0 * (s.mean_rank - s.rank))
        times = batches * s.layers if grown else 0
        return Stage(
            name="advance",
            device=device,
            host=self._host(growing=True),
            double=times * double,
            eigen=times * eigen,
        )
