"""Test problems for solvers: smooth functions with starts, known minima and sources.

    problem("rosenbrock")        a classic of two unknowns
    problem("mgh:watson", n=12)  Moré, Garbow and Hillstrom's 35
    problem("nist:misra1a:2")    NIST's regression sets, from the first or the second start
    problem("large:quartic")     up to a million unknowns

A `Problem` is a function of a vector, or of a batch of them, of NumPy, PyTorch or JAX.
"""

from downslope.tasks.problems.find import NAMES, problem
from downslope.tasks.problems.problem import Minimum, Problem

__all__ = ["NAMES", "Minimum", "Problem", "problem"]
