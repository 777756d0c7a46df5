"""A second device that is not there: tensors of the device `twin` hold their values in memory, and behave as a GPU's.

They do not mix with tensors of the CPU, as those of CUDA do not, and nothing reads them but an explicit copy. Copies
with `non_blocking` are done as late as CUDA may do them: what was copied to the device is noise until the stream that
reads it waits for the copying one, and what was copied back is noise until an event recorded after it is waited for.
So code that runs here with the CPU's values places its tensors rightly, and waits where it must.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "twin"
INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")  # CUDA takes CPU indices


class Stream:
    """Work in order; copies that were not waited for are `pending`."""

    def __init__(self, device: Any = None) -> None:
        self.pending: list[Callable[[], object]] = []

    def wait_stream(self, other: Stream) -> None:
        other.synchronize()

    def wait_event(self, event: Event) -> None:
        event.synchronize()

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        pending, self.pending = self.pending, []
        for do in pending:
            do()


class Event:
    """A place in a stream's work."""

    def __init__(self, **_: Any) -> None:
        self._before: list[Callable[[], object]] = []

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or CURRENT[-1]
        self._before, stream.pending = stream.pending, []
        stream.pending.append(self.synchronize)

    def synchronize(self) -> None:
        before, self._before = self._before, []
        for do in before:
            do()


CURRENT = [Stream()]
COPIES = {"late": 0}


def late_copies() -> int:
    """Return how many copies were late since the start."""
    return COPIES["late"]


class OnTwin(torch.Tensor):
    """A tensor of the device `twin`; `held` has its values."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnTwin:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
            requires_grad=held.requires_grad,
            dispatch_sizes_strides_policy="sizes",  # in-place operations may change the shape, as squeeze_ does
        )
        made.held = held
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"OnTwin({self.held!r})"

    def tolist(self) -> Any:  # which subclasses do not have
        return self.held.tolist()

    def record_stream(self, stream: Stream) -> None:  # type: ignore[override]
        """Keep the memory until the stream is done with it: here it is kept anyway."""

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operation: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(operation, args, dict(kwargs or {}))


def _run(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = operation._schema.name
    if name == "aten::copy_":
        _copy(*args, **kwargs)
        return args[0]
    if name == "aten::_to_copy":
        return _to_copy(*args, **kwargs)
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = any(isinstance(tensor, OnTwin) for tensor in tensors)
    device = torch.device(kwargs.pop("device")) if kwargs.get("device") is not None else None
    here = [tensor for tensor in tensors if not isinstance(tensor, OnTwin) and tensor.dim()]
    if there and here and not (name in INDEXED and all(tensor.dtype in (torch.long, torch.bool) for tensor in here)):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {NAME} and cpu")
    if device is not None:
        kwargs["device"] = torch.device("cpu")
    kwargs.pop("pin_memory", None)
    found = operation(*_held(args), **_held(kwargs))
    if name.endswith("_") and operation._schema.is_mutable:
        return args[0]
    return _placed(found) if (device.type == NAME if device else there) else found


def _copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> None:
    into, value = _held(target), _held(source)
    if not non_blocking or isinstance(target, OnTwin) == isinstance(source, OnTwin):
        into.copy_(value)
        return
    # What comes from the device is computed by now; what goes to it is read when the copy is done.
    value = value.clone() if isinstance(source, OnTwin) else value
    into.fill_(torch.nan if into.dtype.is_floating_point else 77)
    CURRENT[-1].pending.append(partial(into.copy_, value))
    COPIES["late"] += 1


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    _copy(target, source, non_blocking)
    return target


def _to_copy(source: torch.Tensor, *, non_blocking: bool = False, **kwargs: Any) -> torch.Tensor:
    device = torch.device(kwargs.pop("device", None) or source.device)
    kwargs.pop("pin_memory", None)
    held = _held(source)
    there = device.type == NAME
    if not non_blocking or there == isinstance(source, OnTwin):
        copied = torch.ops.aten._to_copy(held, **kwargs)
        return OnTwin(copied) if there else copied
    kwargs.pop("memory_format", None)
    empty = torch.empty_like(held, **kwargs)
    target = OnTwin(empty) if there else empty
    _copy(target, source, non_blocking=True)
    return target


def _held(value: Any) -> Any:
    return tree_map(lambda leaf: leaf.held if isinstance(leaf, OnTwin) else leaf, value)


def _placed(value: Any) -> Any:
    return tree_map(lambda leaf: OnTwin(leaf) if isinstance(leaf, torch.Tensor) else leaf, value)


@contextmanager
def stream(chosen: Stream) -> Iterator[None]:
    CURRENT.append(chosen)
    try:
        yield
    finally:
        CURRENT.pop()


def _register() -> Any:
    module = ModuleType(NAME)
    names = {
        "Stream": Stream,
        "Event": Event,
        "stream": stream,
        "current_stream": lambda device=None: CURRENT[-1],
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "_is_in_bad_fork": lambda: False,
        "manual_seed_all": lambda seed: None,
        "get_amp_supported_dtype": lambda: [torch.bfloat16],
    }
    for name, value in names.items():
        setattr(module, name, value)
    _setup_privateuseone_for_python_backend(NAME, module)
    kernels = torch.library.Library("aten", "IMPL")
    for operation in _makers():
        kernels.impl(operation, partial(_run_new, operation), "PrivateUse1")
    kernels.impl("_copy_from", _copy_from, "PrivateUse1")
    return kernels


def _makers() -> Iterator[Any]:
    """Yield the operations that make tensors from sizes and numbers, and do not only fill an empty one."""
    yield from (torch.ops.aten.empty.memory_format, torch.ops.aten.empty_strided.default)
    for packet in (torch.ops.aten.arange, torch.ops.aten.eye, torch.ops.aten.linspace, torch.ops.aten.randperm):
        for name in packet.overloads():
            if "out" not in name and "Tensor" not in name:
                yield getattr(packet, name)


def _run_new(operation: Any, *args: Any, **kwargs: Any) -> Any:
    return _run(operation, args, kwargs)


class _Unpinned(TorchDispatchMode):
    """Allocates memory that is asked to be pinned, for which there is no driver, as any other."""

    def __torch_dispatch__(
        self, operation: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return operation(*args, **{name: value for name, value in (kwargs or {}).items() if name != "pin_memory"})


KERNELS = _register()  # when it is imported: autograd starts its threads, one a device, with the first gradient


@contextmanager
def twin() -> Iterator[torch.device]:
    """The device, for as long as the block; modules moved to it get new parameters, as its tensors are of a class."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Unpinned():
            yield torch.device(NAME, 0)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
