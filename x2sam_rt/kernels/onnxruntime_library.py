"""The native CPU kernels as ONNX Runtime's own operators. Light: imports nothing of the exporter."""

from __future__ import annotations

import onnxruntime

from x2sam_rt.errors import KernelUnavailable
from x2sam_rt.kernels import libraries, native


def register(options: onnxruntime.SessionOptions) -> None:
    """Lets sessions made from `options` run the native CPU kernels. For sessions on the CPU provider only.

    An operator with a registered kernel is not replaced by its body in the model. Raises KernelUnavailable when the
    library was not built; without it the model runs through its bodies.
    """
    path = libraries.find("x2sam_cpu")
    if path is None:
        raise KernelUnavailable(f"ONNX Runtime's native operators were not built; {native.INSTALL_HINT}")
    options.register_custom_ops_library(str(path))
