"""A device named mps that stands in for an Apple GPU: it computes on the CPU, and refuses what that device refuses.

Refused are every float64 or complex tensor on it, tensors of the host among its own in one operation, NumPy arrays
of what lies on it, and copies from and to it that are not waited for. What it cannot show: which operations Metal
lacks, how it rounds, how fast it is.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from accelerate.state import AcceleratorState, PartialState
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

MPS = torch.device("mps")
UNKNOWN = (torch.float64, torch.complex64, torch.complex128)
MAY_MIX = {  # copies between host and device, and lookups by indices that lie on the host
    *(torch.ops.aten.copy_.default, torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default),
    torch.ops.aten._foreach_copy_.default,
}


class OnDevice(torch.Tensor):
    """A tensor that says that it lies on mps; what it holds is an ordinary one."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "OnDevice":
        made = torch.Tensor._make_wrapper_subclass(
            *(cls, held.size(), held.stride(), held.storage_offset()), dtype=held.dtype, layout=held.layout
        )
        made.held = held
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return MPS

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        if args and isinstance(args[0], torch.Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        copy = kwargs.pop("copy", False)
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        same = dtype in (None, self.dtype) and memory_format is None and not copy
        options = {"memory_format": memory_format} if memory_format else {}
        if device is not None and device.type != "mps":
            _refuse_to_go_on(non_blocking)
            held = self.held.detach()
            return torch.empty_like(held, dtype=dtype, device=device, **options).copy_(held)
        return self if same else super().to(dtype or self.dtype, copy=True, **options)

    def cpu(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.to("cpu")

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert mps:0 device type tensor to numpy")

    def tolist(self) -> Any:
        return self.held.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatched(func, args, kwargs or {})


class _Device(TorchDispatchMode):
    """Sees what is made on mps from nothing, or brought there from the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatched(func, args, kwargs or {})


class _Transfers(TorchFunctionMode):
    """Brings tensors of the host to mps, for which torch would look for a library that is not there."""

    is_in_backward = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.backward and isinstance(args[0], OnDevice):
            _Transfers.is_in_backward = True
            try:
                return func(*args, **kwargs)
            finally:
                _Transfers.is_in_backward = False
        if func is torch.tensor and kwargs.get("device") is not None and torch.device(kwargs["device"]) == MPS:
            return _brought(torch.tensor(*args, **{**kwargs, "device": "cpu"}))
        if func is torch.Tensor.to and not isinstance(args[0], OnDevice):
            device, dtype, non_blocking, _ = torch._C._nn._parse_to(
                *args[1:], **{k: v for k, v in kwargs.items() if k != "copy"}
            )
            if device is not None and device.type == "mps":
                _refuse_to_go_on(non_blocking)
                return _brought(args[0].detach(), dtype)
        return func(*args, **kwargs)


def _brought(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device=MPS).copy_(tensor)


def _refuse_to_go_on(non_blocking: bool) -> None:
    """Refuse a copy that is not waited for: on mps it reads memory that may be freed by then (PyTorch issue 189690)."""
    if non_blocking:
        raise RuntimeError("a copy between the host and mps that is not waited for")


def _dispatched(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    wrappers: dict[int, OnDevice] = {}
    on_host: list[torch.Tensor] = []

    def unwrapped(value: Any) -> Any:
        if isinstance(value, OnDevice):
            wrappers[id(value.held)] = value
            return value.held
        if isinstance(value, torch.Tensor) and value.dim():
            on_host.append(value)
        return value

    if func is torch.ops.aten.copy_.default and isinstance(args[0], OnDevice) != isinstance(args[1], OnDevice):
        _refuse_to_go_on(len(args) > 2 and args[2])
    asked = kwargs.get("device")
    asked = None if asked is None else torch.device(asked)
    args, kwargs = tree_map(unwrapped, args), tree_map(unwrapped, kwargs)
    if wrappers and on_host and func not in MAY_MIX:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} met mps:0 and cpu")
    if asked is not None and asked.type == "mps":
        kwargs["device"] = torch.device("cpu")
        if kwargs.get("pin_memory"):
            raise RuntimeError("only dense CPU tensors can be pinned")
    is_on_device = bool(wrappers) if asked is None else asked.type == "mps"
    is_on_device |= _Transfers.is_in_backward  # whose own zeros lie where C++ takes `held` to be
    if func is torch.ops.aten.copy_.default:
        is_on_device = id(args[0]) in wrappers

    def wrapped(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not is_on_device:
            return value
        if value.dtype in UNKNOWN:
            raise TypeError(f"Cannot convert a MPS Tensor to {value.dtype} dtype: the framework has none ({func})")
        return wrappers[id(value)] if id(value) in wrappers else OnDevice(value)

    return tree_map(wrapped, func(*args, **kwargs))


@contextmanager
def apple_gpu() -> Iterator[None]:
    """Have torch and accelerate find an Apple GPU, in this thread, until the end of the context."""
    plain = torch.Generator

    class Generator:  # a class, since annotations name it
        def __new__(cls, device: Any = "cpu") -> Any:
            return plain("cpu")

    module_to = torch.nn.Module.to

    def moved(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        is_there = all(isinstance(parameter, OnDevice) for parameter in module.parameters())
        is_asked = torch._C._nn._parse_to(*args, **kwargs)[0] == MPS
        return (
            module if is_there and is_asked else module_to(module, *args, **kwargs)
        )  # its parameters stay what they are

    patches = {
        "torch.nn.Module.to": moved,
        "torch.backends.mps.is_available": lambda: True,
        "torch.backends.mps.is_built": lambda: True,
        "torch.mps.manual_seed": lambda seed: None,
        "torch.accelerator.is_available": lambda: True,
        "torch.accelerator.current_accelerator": lambda *_: MPS,
        "torch.accelerator.synchronize": lambda *_: None,
        "torch.Generator": Generator,
    }
    with ExitStack() as stack:
        for name, stand_in in patches.items():
            stack.enter_context(mock.patch(name, stand_in))
        stack.enter_context(mock.patch.dict("os.environ"))  # accelerate sets a variable
        for state in (AcceleratorState, PartialState):
            state._reset_state()
            stack.callback(state._reset_state)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # data of another class is not swapped in
        stack.enter_context(_Device())
        stack.enter_context(_Transfers())
        yield
