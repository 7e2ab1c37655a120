"""Several processes that edit one model together: who does what, and what they tell each other.

A launcher (`torchrun`, `accelerate launch`) starts the same command several times. Every process
holds the whole model and makes the same calls in the same order; the functions that take a
`Processes` divide the work among them. Nobody goes on alone: what fails in one process is raised in
all, and a process that dies or falls silent ends the others with a `ProcessError`.

What is told is small (targets, keys, factors of updates) or told once (sums of second moments), so
that everything goes through gloo over the processors' memory, on machines with and without GPUs.
torch is imported only where there is more than one process.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from langedit.errors import ConfigError, LangEditError, ProcessError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")
Item = TypeVar("Item")

TIMEOUT_VARIABLE = "LANGEDIT_PROCESS_TIMEOUT"
"""Environment variable: seconds for which a process waits for another one."""

TIMEOUT = 1800.0
"""Seconds if the variable is not set: longer than the longest stage of one process alone."""

START_TIMEOUT = 900.0
"""Seconds in which all processes of a run must have come."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of a run as seen by one of them. Without arguments: one process, alone.

    Every method that has the others in its description must be called by all of them, in the same
    order, and not from within one another.

    Attributes:
        rank: number of this process, from 0; process 0 solves, writes files and prints.
        count: how many there are.
        local_rank: number of this process among those of its machine.
        group: torch's process group; `None` for one process.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    group: Any = field(default=None, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    def place(self, device_map: str | None) -> str | None:
        """A device map for this process: `cuda` and `xpu` mean the card of its local number."""
        if self.count > 1 and device_map in ("cuda", "xpu"):
            return f"{device_map}:{self.local_rank}"
        return device_map

    def takes(self, number: int) -> bool:
        """Whether item `number` of a row dealt in turn is this process's own."""
        return number % self.count == self.rank

    def spread(
        self, items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[T]]
    ) -> list[T]:
        """Deal items to the processes in turn, and return all results in the order of the items.

        Args:
            items: the same in every process.
            work: makes one result for each item it is given. Tensors in results of other processes
                arrive on the CPU.
        """
        if self.count == 1:
            return list(work(items))
        shares = self._each(lambda: list(work(items[self.rank :: self.count])))
        return [shares[i % self.count][i // self.count] for i in range(len(items))]

    def first(self, work: Callable[[], T]) -> T:
        """Let process 0 work, and return its result in all; tensors arrive on the CPU."""
        if self.count == 1:
            return work()
        outcome = self._tell(_attempt(work) if self.is_first else None, source=0)
        (result,) = self._settle([outcome])
        return cast(T, result)

    def only_first(self, work: Callable[[], T]) -> T | None:
        """Let process 0 work while the others wait; they get `None`."""
        if self.count == 1:
            return work()
        kept: list[T] = []
        self.first(lambda: kept.append(work()))
        return kept[0] if kept else None

    def together(self, work: Callable[[], T]) -> T:
        """Work in every process, and go on only if it went well in all of them."""
        if self.count == 1:
            return work()
        kept: list[T] = []
        self._each(lambda: kept.append(work()))
        return kept[0]

    def all_raise(self, error: BaseException) -> bool:
        """Whether every process raises this error, so that they can still make the same calls.

        After a `ProcessError` they cannot: one of them may be gone.
        """
        if self.count == 1:
            return True
        return getattr(error, "everywhere", False) and not isinstance(error, ProcessError)

    def agree(self, what: str, value: object) -> None:
        """See that a value is the same in every process.

        Raises:
            ProcessError: it is not.
        """
        if self.count == 1:
            return
        values = self._each(lambda: value)
        others = [rank for rank, other in enumerate(values) if other != values[0]]
        if others:
            raise _shared(
                ProcessError(
                    f"expected the same {what} in all {self.count} processes, but process "
                    f"{others[0]} has others than process 0: give every process the same files, "
                    "settings and kind of machine"
                )
            )

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes in float64, on the CPU, added in the order of their ranks."""
        import torch

        total = values.detach().to("cpu", torch.float64, copy=True).contiguous()
        if self.count == 1:
            return total
        import torch.distributed as dist

        with _lost_as_error():
            if self.is_first:
                other = torch.empty_like(total)
                for rank in range(1, self.count):
                    dist.recv(other, src=rank, group=self.group)
                    total += other
            else:
                dist.send(total, dst=0, group=self.group)
            dist.broadcast(total, src=0, group=self.group)
        return total

    def _each(self, work: Callable[[], T]) -> list[T]:
        """Work in every process; the results of all, in the order of ranks."""
        own = _attempt(work)
        outcomes = [
            self._tell(own if rank == self.rank else None, source=rank)
            for rank in range(self.count)
        ]
        return self._settle(outcomes)

    def _tell(self, outcome: _Outcome | None, *, source: int) -> _Outcome:
        """Outcome of the process `source`, in all of them."""
        import torch
        import torch.distributed as dist

        payload = _packed(outcome) if outcome is not None else b""
        size = torch.tensor([len(payload)])
        with _lost_as_error():
            dist.broadcast(size, src=source, group=self.group)
            data = torch.empty(int(size), dtype=torch.uint8)
            if outcome is not None:
                data = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
            dist.broadcast(data, src=source, group=self.group)
        if outcome is not None:
            return outcome
        found: _Outcome = pickle.loads(data.numpy().tobytes())
        return found

    def _settle(self, outcomes: Sequence[_Outcome]) -> list[Any]:
        """The values of outcomes, unless one is an error: this process's own comes first."""
        failed = {rank: o.error for rank, o in enumerate(outcomes) if o.error is not None}
        if not failed:
            return [outcome.value for outcome in outcomes]
        if self.rank in failed:
            raise _shared(failed[self.rank])
        rank, error = next(iter(failed.items()))
        raise _shared(type(error)(f"process {rank}: {error}"))


ALONE = Processes()
"""One process, as without a launcher."""


@contextmanager
def join_processes(environment: Mapping[str, str] | None = None) -> Iterator[Processes]:
    """Meet the other processes that a launcher has started, if there are any.

    Args:
        environment: where the launcher's variables are; `None` is that of this process.

    Yields:
        The processes; `ALONE` where `WORLD_SIZE` is not set or 1.

    Raises:
        ConfigError: the launcher's variables are incomplete or no numbers.
        ProcessError: the others do not come in time.
    """
    found = os.environ if environment is None else environment
    count = _number(found, "WORLD_SIZE", 1)
    if count <= 1:
        yield ALONE
        return
    rank = _number(found, "RANK")
    local_rank = _number(found, "LOCAL_RANK", rank)
    seconds = _number(found, TIMEOUT_VARIABLE, int(TIMEOUT))
    import torch.distributed as dist

    own = not dist.is_initialized()
    with _lost_as_error():
        if own:
            start = timedelta(seconds=START_TIMEOUT)
            dist.init_process_group("gloo", rank=rank, world_size=count, timeout=start)
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=seconds))
    try:
        yield Processes(rank=rank, count=count, local_rank=local_rank, group=group)
    finally:
        if own:
            dist.destroy_process_group()


def is_first_process() -> bool:
    """Whether this is process 0, or the only one, by the launcher's variables."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class _Outcome:
    """What came of some work."""

    value: Any = None
    error: Exception | None = None


def _attempt(work: Callable[[], Any]) -> _Outcome:
    try:
        return _Outcome(value=work())
    except Exception as error:
        return _Outcome(error=error)


def _shared(error: Exception) -> Exception:
    """Mark an error as one that every process raises, so that one of them prints it."""
    if isinstance(error, LangEditError):
        error.everywhere = True
    return error


def _packed(outcome: _Outcome) -> bytes:
    """Bytes of an outcome; an error that cannot be copied is told by its text."""
    if outcome.error is not None:
        outcome = _Outcome(error=_plain(outcome.error))
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(outcome)
    return buffer.getvalue()


def _plain(error: Exception) -> LangEditError:
    if isinstance(error, LangEditError):
        return type(error)(str(error))
    return ProcessError(f"{type(error).__name__}: {error}")


class _Pickler(pickle.Pickler):
    """Copies tensors by value, whatever device they are on and whatever they are views of."""

    def reducer_override(self, value: Any) -> Any:
        import torch

        if type(value) is not torch.Tensor:
            return NotImplemented
        flat = value.detach().cpu().contiguous().reshape(-1)
        return _unpacked, (flat.view(torch.uint8).numpy().tobytes(), value.dtype, value.shape)


def _unpacked(data: bytes, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    import torch

    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)


@contextmanager
def _lost_as_error() -> Iterator[None]:
    """Say plainly that another process is gone; torch says how it noticed."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        cause = " ".join(str(error).split())[:300]
        raise ProcessError(
            f"another process of this run ended or fell silent ({cause}); look for its own "
            f"message, and start again. If it only needed longer, set {TIMEOUT_VARIABLE} "
            f"(seconds, {TIMEOUT:.0f} if not set)"
        ) from error


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if text.isascii() and text.isdigit():
        return int(text)
    raise ConfigError(
        f"expected the launcher's variable {name} to be a whole number, got {text!r}: start with "
        "torchrun or accelerate launch, or unset WORLD_SIZE to run one process"
    )
