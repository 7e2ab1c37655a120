"""How running out of memory is known, and what is remembered of it."""

from __future__ import annotations

import pytest
import torch
from scarce import ERRORS
from tiny import tiny_editable

from langedit.models import ChatSettings
from langedit.models.memory import MemoryLimits, ran_out_of_memory


def mps() -> RuntimeError:
    return RuntimeError("MPS backend out of memory (MPS allocated: 8.9 GB). Tried to allocate 1 MB")


def cublas() -> RuntimeError:
    return RuntimeError(
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    )


@pytest.mark.parametrize("error", [*ERRORS, mps, cublas])
def test_how_devices_say_it(error):
    assert ran_out_of_memory(error())
    assert not ran_out_of_memory(ValueError(str(error())))


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), KeyError("memory")])
def test_other_errors_say_something_else(error):
    assert not ran_out_of_memory(error)


def test_a_real_allocation_that_fails_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.int8)
    assert ran_out_of_memory(caught.value)


def test_limits_fall_and_are_of_one_kind():
    limits = MemoryLimits()
    assert limits.within("keys", 100) == 100
    limits.lower("keys", 40)
    limits.lower("keys", 60)
    assert limits.within("keys", 100) == 40
    assert limits.within("keys", 30) == 30
    assert limits.within("targets", 100) == 100


def test_a_model_asked_in_a_chat_has_the_same_memory():
    model = tiny_editable("llama")
    assert model.with_chat(ChatSettings()).limits is model.limits
    assert tiny_editable("llama").limits is not model.limits


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", [3, 4])  # of a mask over tokens; of what attention keeps
def test_a_full_memory_is_not_taken_for_a_way_of_the_model(error, call, monkeypatch):
    """What the layers do is found out by running tokens: some errors there mean "no"."""

    def behaviour_where(raised):
        model = tiny_editable("llama")
        inner, calls = model.model.model, []
        forward = inner.forward

        def fail(*args, **kwargs):
            calls.append(1)
            if len(calls) == call + 1:
                raise raised
            return forward(*args, **kwargs)

        monkeypatch.setattr(inner, "forward", fail)
        return model.behaviour

    with pytest.raises(RuntimeError, match="memory"):
        behaviour_where(error())
    other = behaviour_where(RuntimeError("no such mask"))
    assert (other.packs, other.attention) == ((False, None) if call == 3 else (True, None))
