"""The hot operations: one file per operation, plain-torch twins in `reference`, native code in csrc/ and triton/."""

from x2sam_rt.kernels.availability import Availability, available
from x2sam_rt.kernels.dispatch import kernels_on

__all__ = ["Availability", "available", "kernels_on"]
