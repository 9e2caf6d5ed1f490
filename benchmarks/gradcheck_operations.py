"""Whether the operations of PyTorch and JAX pass `check_gradient`, whose derivatives others have written.

    python benchmarks/gradcheck_operations.py [--frameworks torch,jax] [--second]

PyTorch: each operation of its own tests' list with a derivative in float64 (`torch.testing._internal`, which
needs `pip install expecttest`), on the first two of its sample inputs of up to 300 numbers, wrapped as its
own `gradcheck` wants it. JAX: each function of `jax.numpy`, `jax.scipy`, `jax.nn` and `jax.lax` that takes a
vector, a matrix or two vectors. All outputs are weighted at random. `--second` checks Hessian-vector
products. What is not passed is listed.
"""

from __future__ import annotations

import argparse
import inspect
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

import downslope as ds

SAMPLES, LARGEST = 2, 300
Case = tuple[str, Any, Any]
"""Name, function of a list of arrays, and the arrays."""


def of_torch(second: bool) -> Iterator[Case]:
    """Yield the operations of PyTorch's list."""
    import torch
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.utils._pytree import tree_leaves

    def summed(op: Any, sample: Any, where: list[int], x: Any) -> Any:
        args = [sample.input, *sample.args]
        for i, value in zip(where, x, strict=True):
            args[i] = value
        kwargs = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in sample.kwargs.items()}
        torch.manual_seed(0)
        made = op.gradcheck_wrapper(op.get_op(), *args, **kwargs)
        if sample.output_process_fn_grad is not None:
            made = sample.output_process_fn_grad(made)
        weights = torch.Generator().manual_seed(1)
        outputs = [t for t in tree_leaves(made) if isinstance(t, torch.Tensor) and t.dtype == torch.float64]
        return sum((t * torch.randn(t.shape, generator=weights, dtype=t.dtype)).sum() for t in outputs)

    for op in op_db:
        known = op.supports_autograd and torch.float64 in op.dtypes and (op.supports_gradgrad or not second)
        taken = 0
        for sample in op.sample_inputs("cpu", torch.float64) if known else ():
            args = [sample.input, *sample.args]
            where = [
                i for i, a in enumerate(args)
                if isinstance(a, torch.Tensor) and a.dtype == torch.float64 and a.numel()
            ]  # fmt: skip
            x = [args[i].detach().clone() for i in where]
            if taken < SAMPLES and 0 < sum(a.numel() for a in x) <= LARGEST:

                def f(x: Any, op: Any = op, sample: Any = sample, where: list[int] = where) -> Any:
                    return summed(op, sample, where, x)

                try:
                    value = f([a.clone().requires_grad_() for a in x])
                except RuntimeError:  # inputs that it does not take as they are
                    continue
                if isinstance(value, torch.Tensor) and value.requires_grad:
                    taken += 1
                    yield f"{op.name} {op.variant_test_name}".strip(), f, x


def of_jax(second: bool) -> Iterator[Case]:
    """Yield the functions of JAX's modules."""
    import jax
    import jax.numpy as jnp
    import jax.scipy.linalg
    import jax.scipy.special

    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    inputs = [
        [jnp.array(rng.normal(size=6))],
        [jnp.array(rng.normal(size=(4, 4)))],
        [jnp.array(rng.uniform(0.2, 0.9, size=6))],
        [jnp.array(rng.uniform(0.2, 0.9, size=4)), jnp.array(rng.uniform(0.3, 0.8, size=4))],
    ]

    def summed(function: Any, x: Any) -> Any:
        weights = np.random.default_rng(1)
        outputs = [a for a in jax.tree.leaves(function(*x)) if getattr(a, "dtype", None) == jnp.float64]
        return sum((a * weights.normal(size=a.shape)).sum() for a in outputs)

    seen = set()
    for module in (jnp, jnp.linalg, jnp.fft, jax.scipy.special, jax.nn, jax.lax, jax.scipy.linalg):
        for name, function in sorted(vars(module).items()):
            known = callable(function) and not inspect.isclass(function) and not name.startswith("_")
            if not known or id(function) in seen:
                continue
            seen.add(id(function))
            for x in inputs:

                def f(x: Any, function: Any = function) -> Any:
                    return summed(function, x)

                try:
                    value = f(x)
                    gradient = jax.grad(f)
                    gradient(x)
                    if second:
                        jax.jvp(gradient, (x,), (x,))
                except Exception:
                    continue  # it takes something else, or has no derivative
                if getattr(value, "dtype", None) == jnp.float64 and np.isfinite(value):
                    yield f"{module.__name__}.{name}", f, x


def main() -> None:
    """Check them, and print what is not passed and the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frameworks", default="torch,jax")
    parser.add_argument("--second", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    check = ds.check_hvp if arguments.second else ds.check_gradient
    for framework in arguments.frameworks.split(","):
        began, verdicts, names = time.perf_counter(), Counter(), set()
        for name, f, x in {"torch": of_torch, "jax": of_jax}[framework](arguments.second):
            names.add(name)
            try:
                report = check(f, x)
                verdict, why = report.verdict.name, str(report).splitlines()[1].strip()
            except Exception as error:
                verdict, why = "REFUSED", str(error).splitlines()[0]
            verdicts[verdict] += 1
            if verdict != "PASS":
                print(f"{name}: {verdict}, {why[:150]}", flush=True)
        seconds = time.perf_counter() - began
        print(f"{framework}: {len(names)} operations, {dict(verdicts)}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
