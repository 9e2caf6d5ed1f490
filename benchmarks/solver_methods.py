"""The solvers of the benchmark: ours, and peers run from their installed packages.

Each entry takes a `Counter` and returns the point it ended at and whether it said that it succeeded.
Every peer is asked for the gradient that the benchmark wants, and its other criteria are switched off.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import scipy.optimize
import solver_native
import solver_optimistix
from solver_problems import Counter

from downslope.solvers import minimize
from downslope.solvers.methods import METHODS

Solver = Callable[[Counter], tuple[Any, bool]]

SCIPY = ("L-BFGS-B", "BFGS", "CG", "Newton-CG", "trust-ncg", "trust-krylov", "trust-exact")
SECOND_ORDER = ("newton", "newton-cg", "trust-ncg")


def ours(method: str) -> Solver:
    """`downslope.minimize`, its defaults."""

    def solve(counter: Counter) -> tuple[Any, bool]:
        case = counter.case
        options: dict[str, Any] = (
            {} if case.bounds is None else {"bounds": list(zip(*case.bounds, strict=True))}
        )
        if method in SECOND_ORDER:
            options["hessian" if method == "newton" else "hessian_vector"] = (
                counter.hessian if method == "newton" else counter.product
            )
        found = minimize(counter.value_and_gradient, case.x0, method, gradient=True, **options)
        if found.error is not None:
            raise found.error
        return found.x, bool(found.success)

    return solve


def scipys(method: str) -> Solver:
    """`scipy.optimize.minimize`, its gradient tolerance set to what is wanted."""

    def solve(counter: Counter) -> tuple[Any, bool]:
        case = counter.case
        options: dict[str, Any] = {"gtol": case.wanted, "maxiter": 100_000}
        if method == "L-BFGS-B":
            options |= {"ftol": 0.0, "maxfun": 100_000, "maxls": 50}
        elif method == "BFGS" or method == "CG":
            options["norm"] = np.inf
        elif method == "Newton-CG":
            options = {"xtol": 1e-14, "maxiter": 100_000}
        elif method == "TNC":
            options = {"gtol": case.wanted, "ftol": 0.0, "xtol": 0.0, "maxfun": 100_000}
        further: dict[str, Any] = {}
        if method in ("Newton-CG", "trust-ncg", "trust-krylov"):
            further["hessp"] = counter.product
        elif method == "trust-exact":
            further["hess"] = counter.hessian
        if case.bounds is not None:
            further["bounds"] = scipy.optimize.Bounds(*case.bounds)
        found = scipy.optimize.minimize(
            counter.value, case.x0, jac=counter.gradient, method=method, options=options, **further
        )
        return found.x, bool(found.success)

    return solve


def torch_lbfgs(counter: Counter) -> tuple[Any, bool]:
    """`torch.optim.LBFGS` with its Wolfe search; it claims nothing."""
    import torch

    x = torch.tensor(counter.case.x0, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [x], lr=1.0, max_iter=100_000, max_eval=100_000, history_size=10, line_search_fn="strong_wolfe",
        tolerance_grad=counter.case.wanted, tolerance_change=0.0,
    )  # fmt: skip

    def closure() -> Any:
        f, g = counter.value_and_gradient(x.detach().numpy())
        x.grad = torch.from_numpy(np.array(g))
        return torch.tensor(f)

    optimizer.step(closure)
    return x.detach().numpy().copy(), False


def torchmin(method: str) -> Solver:
    """`torchmin.minimize` of pytorch-minimize: the function is handed over by a custom derivative."""

    def solve(counter: Counter) -> tuple[Any, bool]:
        import torch
        from torchmin import minimize

        class Function(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                f, g = counter.value_and_gradient(x.detach().numpy())
                ctx.save_for_backward(torch.from_numpy(np.array(g)))
                return torch.tensor(f, dtype=torch.float64)

            @staticmethod
            def backward(ctx: Any, above: Any) -> Any:
                return above * ctx.saved_tensors[0]

        found = minimize(
            Function.apply, torch.tensor(counter.case.x0), method=method, tol=None, max_iter=100_000,
            options={"gtol": counter.case.wanted, **({} if method == "cg" else {"xtol": 0.0})},
        )  # fmt: skip
        return found.x.numpy(), bool(found.success)

    return solve


def nlopts(name: str) -> Solver:
    """NLopt, which has no criterion on the gradient: the run ends where nothing changes any more."""

    def solve(counter: Counter) -> tuple[Any, bool]:
        import nlopt

        case = counter.case
        optimizer = nlopt.opt(getattr(nlopt, name), case.x0.size)

        def f(x: Any, grad: Any) -> float:
            value, g = counter.value_and_gradient(x)
            if grad.size:
                grad[:] = g
            return float(value)

        optimizer.set_min_objective(f)
        if case.bounds is not None:
            optimizer.set_lower_bounds(case.bounds[0])
            optimizer.set_upper_bounds(case.bounds[1])
        optimizer.set_ftol_rel(1e-16)
        optimizer.set_xtol_rel(1e-16)
        x = optimizer.optimize(case.x0)
        return x, optimizer.last_optimize_result() > 0

    return solve


def least_squares(method: str, tolerance: float) -> Solver:
    """`scipy.optimize.least_squares`; an evaluation is one of the residuals."""

    def solve(counter: Counter) -> tuple[Any, bool]:
        case = counter.case

        def residuals(x: Any) -> Any:
            counter.evaluations += 1
            assert case.residuals is not None
            return case.residuals(x)

        found = scipy.optimize.least_squares(
            residuals,
            case.x0,
            case.jacobian,
            method=method,
            x_scale="jac",
            xtol=tolerance,
            ftol=tolerance,
            gtol=tolerance,
            max_nfev=2000,
        )
        return found.x, bool(found.success)

    return solve


def ours_least_squares(method: str) -> Solver:
    """`downslope.least_squares`, its defaults."""

    def solve(counter: Counter) -> tuple[Any, bool]:
        case = counter.case

        def residuals(x: Any) -> Any:
            counter.evaluations += 1
            assert case.residuals is not None
            return case.residuals(x)

        from downslope.solvers import least_squares

        found = least_squares(residuals, case.x0, method=method, jacobian=case.jacobian)
        return found.x, bool(found.success)

    return solve


def solvers(family: str) -> dict[str, Solver]:
    """Return every solver that can take a family's problems; a peer that is not installed is left out."""
    known = [m for m in METHODS if m not in ("pattern", "gauss-newton", "levenberg-marquardt")]
    if family == "nist":
        made: dict[str, Solver] = {m: ours_least_squares(m) for m in ("levenberg-marquardt", "gauss-newton")}
        made |= {f"SciPy {m}": least_squares(m, 1e-15) for m in ("lm", "trf", "dogbox")}
        made |= {f"SciPy {m}, 1e-8": least_squares(m, 1e-8) for m in ("lm", "trf", "dogbox")}
        return made | solver_native.peers(family) | solver_optimistix.peers(family)
    rules = ("gd", "momentum", "nesterov", "sgd", "adam", "adamw", "adagrad", "rmsprop", "muon")
    made = {m: ours(m) for m in known if m not in rules}
    if family == "bounded":
        made = {"l-bfgs": ours("l-bfgs")}
        made |= {f"SciPy {m}": scipys(m) for m in ("L-BFGS-B", "TNC")}
    else:
        made |= {f"SciPy {m}": scipys(m) for m in SCIPY}
        made["torch.optim.LBFGS"] = torch_lbfgs
        if find_spec("torchmin"):
            made |= {f"torchmin {m}": torchmin(m) for m in ("l-bfgs", "bfgs", "cg")}
    if find_spec("nlopt"):
        names = ("LD_LBFGS", "LD_MMA") if family == "bounded" else ("LD_LBFGS", "LD_TNEWTON", "LD_VAR2")
        made |= {f"NLopt {m}": nlopts(m) for m in names}
    made |= solver_native.peers(family) | solver_optimistix.peers(family)
    if family in ("large", "million"):
        dense = (
            "bfgs", "newton", "SciPy BFGS", "SciPy trust-exact", "torchmin bfgs", "NLopt LD_VAR2",
            "Ceres BFGS", "dlib BFGS", "optimistix BFGS",
        )  # fmt: skip
        made = {k: v for k, v in made.items() if k not in dense}
    return made


def run(solver: Solver, counter: Counter) -> tuple[Any, bool, str]:
    """Run a solver; return the point, whether it claims success, and the exception that ended it."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            x, claimed = solver(counter)
        x = np.asarray(x, float)
        return (x, claimed, "") if np.isfinite(x).all() else (counter.best[1], claimed, "not finite")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return counter.best[1], False, f"{type(error).__name__}: {error}"[:200]
