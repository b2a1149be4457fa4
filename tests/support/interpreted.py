"""Triton kernels on a CPU, by Triton's own interpreter.

`make test` installs Triton; by hand it is `pip install --no-deps -c constraints.txt triton` (190 MB).
"""

import importlib
import os
from types import ModuleType
from typing import Any

import pytest

REASON = "Triton is not installed; `make test` installs it, to run GPU kernels on a CPU"


def kernel_module(name: str) -> ModuleType:
    """Import kernels to be interpreted. Without Triton the calling test module is skipped, with a reason."""
    pytest.importorskip("triton", reason=REASON)
    os.environ["TRITON_INTERPRET"] = "1"  # read where a kernel is defined
    from triton.runtime import interpreter

    if not hasattr(interpreter, "_repaired"):
        _repair(interpreter)
        interpreter._repaired = True
    return importlib.import_module(name)


def _repair(interpreter: Any) -> None:
    """Three gaps of Triton 3.6's interpreter that no compiled kernel has.

    transformers may have imported Triton before the variable was set; then Triton's own functions, such as
    `tl.sum`, ask to be compiled. NumPy 2.4 has no int() of an array of one element, as `range` over a Triton
    scalar wants. And bfloat16, kept in 16-bit integers, is multiplied as if it were integers.
    """
    import numpy as np
    import triton.language as tl
    from triton.runtime.jit import JITFunction

    for module in (tl, tl.standard):
        for name, function in list(vars(module).items()):
            if isinstance(function, JITFunction):
                setattr(module, name, interpreter.InterpretedFunction(function.fn))

    patch = interpreter._patch_lang_tensor
    dot = interpreter.InterpreterBuilder.create_dot

    def patch_with_index(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def single(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def dot_of_singles(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, single(a), single(b), *rest)

    interpreter._patch_lang_tensor = patch_with_index
    interpreter.InterpreterBuilder.create_dot = dot_of_singles
