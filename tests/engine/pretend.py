"""A pretended GPU: tensors on it are as on the CPU, but must not meet those of the host.

What CUDA refuses is refused: an operation on tensors of both sides, but for numbers without dimensions and indices.
Kernels run on the CPU, and take tensors of the GPU alone.
"""

import torch
from torch.overrides import TorchFunctionMode

GPU = torch.device("cuda", 0)
FETCHES = {torch.Tensor.tolist, torch.Tensor.item, torch.Tensor.cpu, torch.Tensor.__bool__, torch.Tensor.__int__,
           torch.Tensor.__float__, torch.Tensor.__iter__, torch.equal, torch.Tensor.__len__}  # fmt: skip
INDEXED = {torch.Tensor.__getitem__, torch.Tensor.__setitem__}


class Far(torch.Tensor):
    """A tensor on the pretended GPU."""

    device, is_cuda = GPU, True
    __torch_function__ = torch._C._disabled_torch_function_impl

    def numpy(self):
        raise TypeError("no numpy of a tensor on the GPU")


def far(value):
    """The same tensor on the GPU."""
    return value.detach().as_subclass(Far)


def each(value):
    """Every tensor in some arguments."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from each(part)


def changed(value, how):
    """Arguments or results with every tensor changed."""
    if isinstance(value, torch.Tensor):
        return how(value)
    if isinstance(value, dict):
        return {key: changed(part, how) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(changed(part, how) for part in value)
    if isinstance(value, tuple):  # named, as what topk and sort return
        return getattr(type(value), "_make", type(value))([changed(part, how) for part in value])
    return value


def near(value):
    """The same tensors on the CPU."""
    return changed(value, lambda x: x.as_subclass(torch.Tensor) if isinstance(x, Far) else x)


def is_gpu(value):
    return isinstance(value, torch.device | str) and str(value).startswith("cuda")


class PretendedGPU(TorchFunctionMode):
    """`with PretendedGPU():` there is a GPU. sent: tensors that were sent to it. asked: what it was called."""

    def __init__(self):
        super().__init__()
        self.sent, self.asked = 0, set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = list(each((args, kwargs)))
        there = any(isinstance(x, Far) for x in tensors)
        self.asked |= {str(value) for value in (*args, *kwargs.values()) if is_gpu(value)}
        if function is torch.Tensor.to:
            there = self.goes_to(there, args[1:], kwargs)
            self.sent += there and not isinstance(args[0], Far)
            args, kwargs = ((x for x in args if not is_gpu(x) and str(x) != "cpu"), self.plain(kwargs))
        elif "device" in kwargs and not tensors:
            there, kwargs = is_gpu(kwargs["device"]), self.plain(kwargs)
        elif function is torch.Tensor.pin_memory:
            return args[0]
        elif function is torch.Tensor.copy_:
            self.sent += isinstance(args[0], Far) and not isinstance(args[1], Far)
            kwargs = {}
        elif there:
            kwargs = self.plain(kwargs)
            met = [args[0], *each(args[2:])] if function in INDEXED else tensors
            if not all(isinstance(x, Far) or x.dim() == 0 for x in met):
                raise RuntimeError(f"{function.__name__} of tensors on both sides")
        result = function(*near(tuple(args)), **near(kwargs))
        return changed(result, far) if there and function not in FETCHES else result

    def goes_to(self, there, args, kwargs):
        """Whether the result of `to` is on the GPU."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.Tensor):
                return isinstance(value, Far)
            if isinstance(value, torch.device) or value == "cpu" or is_gpu(value):
                return is_gpu(value)
        return there

    def plain(self, kwargs):
        return {name: value for name, value in kwargs.items() if name not in ("device", "non_blocking")}


def carried(module):
    """Put a module's parameters onto the GPU."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = far(parameter)


def on_gpu(kernel):
    """A kernel that is called with tensors of the GPU."""

    def call(*args):
        assert all(isinstance(x, Far) for x in each(args)), kernel.__name__
        with torch._C.DisableTorchFunction():
            found = kernel(*near(args))
        return changed(found, far)

    return call
