"""Where a solver's lines run: on the host, in a jitted loop, or on many problems in lock step."""

from downslope.solvers.spaces.protocol import Space

__all__ = ["Space"]
