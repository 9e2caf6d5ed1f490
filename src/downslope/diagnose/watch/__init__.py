"""The gradient doctor: where a NaN is made, and which layers are dead, exploding or cut off."""

from downslope.diagnose.watch.finding import Ailment, Finding, HealthWarning, NonFiniteError

__all__ = ["Ailment", "Finding", "HealthWarning", "NonFiniteError"]
