"""Look into, and change, what flows through named modules; nothing stays behind afterwards.

Both tools are context managers that remove their hooks on every way out, exceptions included, and
both work whether a decoder layer returns a tensor or a tuple that begins with one (the families of
transformers differ in this, and so do its versions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from langedit.errors import StructureError
from langedit.models.offload import modules_around, unload


def hidden_of(output: object) -> Tensor:
    """The hidden state in a module's output.

    Args:
        output: what the module returned: a tensor, or a tuple or list whose first item is one.

    Raises:
        StructureError: the output is neither.
    """
    first = output[0] if isinstance(output, (tuple, list)) and output else output
    if isinstance(first, Tensor):
        return first
    raise StructureError(
        f"expected a module's output to be a tensor or a tuple that begins with one, got "
        f"{type(output).__name__}; name a decoder layer or one of its linear modules instead"
    )


class _Stop(Exception):  # noqa: N818 (a signal, not an error)
    """Ends a forward pass early; caught by the recorder that raised it."""

    def __init__(self, owner: Recorder) -> None:
        super().__init__("forward pass stopped by a Recorder; it never leaves its context manager")
        self.owner = owner


class Recorder:
    """Records what goes into and comes out of named modules during forward passes.

        with Recorder(model, inputs=["layers.3.mlp.down_proj"], stop_after="layers.3") as record:
            model(input_ids=ids)
        keys = record.inputs["layers.3.mlp.down_proj"]

    With `stop_after` the pass ends when that module has run, with `stop_before` when it is called,
    its input recorded and itself not run. Either also ends the body of the `with` statement: put
    one forward pass in it, last. Of several passes the latest is kept. Recorders nest; each stops
    only at its own signal. Hooks run in the order in which contexts were entered, so a recorder
    entered before `replace_output` sees the output before the replacement.

    Attributes:
        inputs: module name -> first tensor argument of the module, positional or by keyword.
        outputs: module name -> hidden state that the module returned.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Iterable[str] = (),
        outputs: Iterable[str] = (),
        *,
        stop_after: str | None = None,
        stop_before: str | None = None,
        gradients: bool = False,
    ) -> None:
        """Choose what to record.

        Args:
            model: the module in which the names are looked up.
            inputs: names of the modules whose input is recorded.
            outputs: names of the modules whose output is recorded.
            stop_after: name of the module after which the pass ends; None runs to the end.
            stop_before: name of the module before which it ends.
            gradients: keep the tensors of the graph themselves. Otherwise detached copies are kept,
                which later in-place additions in the model (Falcon has some) cannot change.

        Raises:
            StructureError: the model has no module of one of the names.
        """
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self._gradients = gradients
        self._input_modules = {name: _submodule(model, name) for name in inputs}
        self._output_modules = {name: _submodule(model, name) for name in outputs}
        self._last = None if stop_after is None else _submodule(model, stop_after)
        self._next = None if stop_before is None else _submodule(model, stop_before)
        self._around = [] if stop_after is None else modules_around(model, stop_after)
        if stop_before is not None:  # what does not run loads nothing
            self._around += modules_around(model, stop_before)[1:]
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        if self._handles:
            raise RuntimeError("this Recorder is in use already; make a second one to nest")
        for name, module in self._input_modules.items():
            hook = self._record_input(name)
            self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        for name, module in self._output_modules.items():
            self._handles.append(module.register_forward_hook(self._record_output(name)))
        if self._last is not None:
            self._handles.append(self._last.register_forward_hook(self._stop))
        if self._next is not None:
            self._handles.append(self._next.register_forward_pre_hook(self._stop))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        while self._handles:
            self._handles.pop().remove()
        stopped = isinstance(error, _Stop) and error.owner is self
        if stopped:
            for module in self._around:
                unload(module)
        return stopped

    def _record_input(self, name: str) -> Callable[[nn.Module, Any, dict[str, Any]], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            for value in (*args, *kwargs.values()):
                if isinstance(value, Tensor):
                    self.inputs[name] = self._keep(value)
                    return
            raise StructureError(f"module {name!r} was called without a tensor argument")

        return hook

    def _record_output(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            self.outputs[name] = self._keep(hidden_of(output))

        return hook

    def _stop(self, _module: nn.Module, *_: Any) -> None:
        raise _Stop(self)

    def _keep(self, tensor: Tensor) -> Tensor:
        return tensor if self._gradients else tensor.detach().clone()


@contextmanager
def replace_output(module: nn.Module, fn: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While inside, the module's hidden state `h` becomes `fn(h)`; other parts of a tuple stay.

    Args:
        module: usually a decoder layer.
        fn: hidden state -> hidden state of the same shape. It must not write into its argument.

    Raises:
        ValueError: in the forward pass, when `fn` returns another shape.
    """

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = hidden_of(output)
        replaced = fn(hidden)
        if replaced.shape != hidden.shape:
            expected, came = tuple(hidden.shape), tuple(replaced.shape)
            raise ValueError(f"expected a hidden state of shape {expected}, fn returned {came}")
        return replaced if isinstance(output, Tensor) else type(output)((replaced, *output[1:]))

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def order_of_calls(model: PreTrainedModel, modules: Mapping[str, nn.Module]) -> list[str]:
    """Names of `modules` in the order in which a forward pass of one token leaves them.

    Works on the meta device too, where the pass computes nothing; empty when the model cannot run
    there because it must read a value.
    """
    called: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _args, _output: called.append(name)

    token = torch.zeros((1, 1), dtype=torch.int64, device=model.device)
    handles = [module.register_forward_hook(watch(name)) for name, module in modules.items()]
    try:
        with torch.no_grad():
            model(input_ids=token, use_cache=False)
    except (RuntimeError, NotImplementedError):
        if model.device.type != "meta":
            raise
        return []
    finally:
        for handle in handles:
            handle.remove()
    return called


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise StructureError(
            f"{type(model).__name__} has no module {name!r}; its parts are "
            f"{', '.join(child for child, _ in model.named_children())}"
        ) from error
