"""Muon and AdamW side by side in one Keras optimizer, each variable under the rule that fits it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from downslope import rules
from downslope.grouping.partition import Assignment, Partition
from downslope.grouping.view import MatrixView
from downslope.keras.backend import name_of, operations
from downslope.keras.optimizer import RuleOptimizer
from downslope.keras.polar import NS_DTYPES, engine_of, polars_of
from downslope.keras.saved import same_place
from downslope.keras.slots import Setting, Work
from downslope.ops.protocol import Array
from downslope.rules.checks import require, require_number, shown


@keras.saving.register_keras_serializable(package="downslope")
class Muon(RuleOptimizer):
    r"""Muon on hidden matrices and AdamW on everything else, under one learning rate.

    When Keras builds the optimizer, the model that owns the variables is traced symbolically to see
    what each of them is used for (`downslope.keras.partition`); hidden matrices get `downslope.Muon`,

    .. math::
        m \leftarrow \mu m + (1-\mu) g, \qquad
        p \leftarrow p - \eta\, (s\, \mathrm{polar}((1-\mu) g + \mu m) + \lambda p),

    the others `downslope.Adam` with decoupled decay. Kernels are seen as (fan_out, fan_in), however
    Keras lays them out: dense ones are (in, out), convolutions (height, width, in, out). With the
    default scale :math:`s = 0.2\sqrt{\max(n_{out}, n_{in})}` both steps have the same size, so one
    :math:`\eta` and one schedule serve both. Gains and biases (role "vector") are not decayed unless
    `by_role` says so.

    Sources: Jordan et al., 2024; Liu et al., 2025, arXiv:2502.16982; NorMuon: Li et al., 2025,
    arXiv:2510.05491.

    Args:
        partition: a `Partition` made earlier, or a built model; by default it is found on building.
        learning_rate: :math:`\eta`: a number of at least 0, a `LearningRateSchedule` or a callable.
        weight_decay: :math:`\lambda`, at least 0, decoupled.
        momentum: Muon's :math:`\mu` in [0, 1).
        nesterov: orthogonalise the look-ahead instead of the momentum.
        coefficients: "minimax", "polar_express" or "keller5".
        ns_steps: how many Newton-Schulz iterations; None is as many as the set is made for.
        scale: "match_rms_adamw", "original" or "spectral".
        normuon: even out the rows of each step by their running mean square (NorMuon).
        normuon_beta: decay of that mean, in [0, 1).
        momentum_warmup: over how many steps :math:`\mu` grows from `momentum_start`; 0 is none.
        momentum_start: in [0, 1).
        heads: "fused", or "split" to see the projections of attention as one matrix a head.
        ns_dtype: what the iterations run in: "float32", "bfloat16", "float64", or "auto": bfloat16
            on accelerators and on CPUs that multiply it fast (on TensorFlow, where XLA does not compile
            the step); the variable's precision, at least float32, elsewhere.
        betas: AdamW's.
        eps: AdamW's.
        l2: coefficient of the penalty (l2/2)‖p‖², for both rules.
        cautious: decay only where it agrees with the step in sign.
        by_role: "weight_decay", or an "lr_ratio" that multiplies the learning rate, for the variables of
            a role, e.g. `{"embedding": {"lr_ratio": 0.5}}`.
        overrides: patterns of names and the rule that they get, `{"*lm_head*": "adamw"}`.
        max_stack_bytes: memory that gathering matrices may take at a time, on the PyTorch backend; None
            is 16 MiB on a CPU and 512 MiB elsewhere.
        on_nonfinite: "raise", "skip" or "ignore" when a gradient holds NaN or infinity.
        fused: None uses code compiled for the CPU, on the JAX and PyTorch backends, and torch's fused
            kernels; False neither. `engine` tells which it is.
        **kwargs: as in `downslope.keras.SGD`.

    Raises:
        ValueError: a value outside its range; a partition of another model.
        TypeError: `partition` is no partition or model.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(32, "relu"),
    ...                           keras.layers.Dense(32, "relu", name="mix"), keras.layers.Dense(2)])
    >>> optimizer = Muon(learning_rate=1e-3)
    >>> optimizer.build(model.trainable_variables)
    >>> [a.name.split("/")[-2:] for a in optimizer.partition if a.rule == "muon"]
    [['mix', 'kernel']]

    """

    def __init__(
        self,
        partition: Any = None,
        *,
        learning_rate: Any = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        coefficients: str = "minimax",
        ns_steps: int | None = None,
        scale: str = "match_rms_adamw",
        normuon: bool = False,
        normuon_beta: float = 0.95,
        momentum_warmup: int = 0,
        momentum_start: float = 0.85,
        heads: str = "fused",
        ns_dtype: str = "auto",
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        l2: float = 0.0,
        cautious: bool = False,
        by_role: Mapping[str, Mapping[str, float]] | None = None,
        overrides: Mapping[str, Any] | None = None,
        max_stack_bytes: int | None = None,
        on_nonfinite: str = "raise",
        fused: bool | None = None,
        **kwargs: Any,
    ) -> None:
        rule = rules.Muon(
            momentum=momentum,
            nesterov=nesterov,
            coefficients=coefficients,
            ns_steps=ns_steps,
            scale=scale,
            normuon=normuon,
            normuon_beta=normuon_beta,
            momentum_warmup=momentum_warmup,
            momentum_start=momentum_start,
            l2=l2,
        )
        adamw = rules.Adam(betas=tuple(betas), eps=eps, l2=l2)  # type: ignore[arg-type]
        require("ns_dtype", ns_dtype, ns_dtype in NS_DTYPES, "one of " + ", ".join(NS_DTYPES))
        fine = max_stack_bytes is None or max_stack_bytes > 0
        require("max_stack_bytes", max_stack_bytes, fine, "a positive number of bytes, or None")
        require("fused", fused, fused is None or fused is False, "None or False")
        _check_by_role(by_role or {})
        given = _given(partition)
        require("heads", heads, heads in ("fused", "split"), "'fused' or 'split'")
        if given is not None and (overrides or heads != "fused"):
            raise ValueError("a given partition is used as it is: pass no overrides or heads beside it")
        own: dict[str, Any] = {
            "weight_decay": weight_decay,
            "cautious": cautious,
            "on_nonfinite": on_nonfinite,
        }
        super().__init__(rule, learning_rate, **own, **kwargs)
        self._muon = _Choices(adamw, given, dict(by_role or {}), dict(overrides or {}), heads)
        self.ns_dtype = ns_dtype
        self.max_stack_bytes = max_stack_bytes
        self.fused = fused

    @property
    def engine(self) -> str:
        """What orthogonalises hidden matrices, in words, and why where it is no compiled code."""
        slots = [] if self._slots is None else self._slots.used
        found = {slot.working for slot in slots if isinstance(slot.setting.rule, rules.Muon)}
        every = sorted(found or {keras.config.floatx()})
        return "; ".join(dict.fromkeys(engine_of(dtype, self.ns_dtype, self.fused) for dtype in every))

    @property
    def partition(self) -> Partition | None:
        """Which variable gets which rule, and why; None before the optimizer is built."""
        return self._muon.partition

    def _settings(self, variables: Sequence[Any]) -> list[Setting | None]:
        choices = self._muon
        if choices.partition is None:
            from downslope.grouping.keras import partition_of_variables

            choices.partition = partition_of_variables(
                variables, overrides=choices.overrides, heads=choices.heads, optimizer=self
            )
        assigned = match(choices.partition, variables)
        roles = {a.role.value for a in assigned}
        unknown = sorted(set(choices.by_role) - roles)
        require("by_role", unknown, not unknown, "roles that this model has, " + ", ".join(sorted(roles)))
        return [self._setting(v, a) for v, a in zip(variables, assigned, strict=True)]

    def _setting(self, variable: Any, a: Assignment) -> Setting | None:
        if a.rule == "none":
            return None
        values = self._muon.by_role.get(a.role.value, {})
        decay = 0.0 if a.role == "vector" else self._decay_of(variable)
        decay = float(values.get("weight_decay", decay))
        rule = self.rule if a.rule == "muon" else self._muon.adamw
        ratio = float(values.get("lr_ratio", 1.0))
        return Setting(rule, decay, self.cautious, ratio, a.view if a.rule == "muon" else None)

    def _shape_of(self, field: str, variable: Any, setting: Setting) -> tuple[int, ...]:
        if field == "row_square" and setting.view is not None:
            return (setting.view.rows(tuple(variable.shape)),)
        return super()._shape_of(field, variable, setting)

    def _directions(self, work: Sequence[Work], t: Array) -> None:
        matrices = [w for w in work if isinstance(w.setting.rule, rules.Muon)]
        super()._directions([w for w in work if not isinstance(w.setting.rule, rules.Muon)], t)
        if matrices:
            orthogonal_directions(matrices, t, self.ns_dtype, self.fused)

    def _torch_options(self) -> dict[str, Any]:
        return {"ns_dtype": self.ns_dtype, "max_stack_bytes": self.max_stack_bytes, "fused": self.fused}

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again, without its state."""
        choices = self._muon
        return {
            **super().get_config(),
            "partition": None if choices.given is None else choices.given.to_dict(),
            "betas": list(choices.adamw.betas),
            "eps": choices.adamw.eps,
            "ns_dtype": self.ns_dtype,
            "by_role": choices.by_role or None,
            "overrides": choices.overrides or None,
            "heads": choices.heads,
            "max_stack_bytes": self.max_stack_bytes,
            "fused": self.fused,
        }


class _Choices:
    """What Muon was told about its variables; an object of its own, which Keras does not track."""

    def __init__(
        self,
        adamw: rules.Adam,
        given: Partition | None,
        by_role: dict[str, Any],
        overrides: dict[str, Any],
        heads: Any,
    ) -> None:
        self.adamw = adamw
        self.given = self.partition = given
        self.by_role = by_role
        self.overrides = overrides
        self.heads = heads


def orthogonal_directions(work: Sequence[Work], t: Array, ns_dtype: str, fused: bool | None) -> None:
    """Fill in the directions of Muon's variables: matrices of one shape make one stack.

    Keras's kernels, whose outputs are the last axis, are reshaped and never permuted.
    """
    x = operations(work[0].p)
    pieces: list[list[Array]] = []
    places: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
    for i, w in enumerate(work):
        rule = w.setting.rule
        assert isinstance(rule, rules.Muon)
        u, w.new = rule.momentum_of(x, w.g, w.state, w.p, t)
        stacks = _laid_out(w).split(x, u)
        pieces.append(stacks)
        for j, stack in enumerate(stacks):
            places.setdefault((rule, u.dtype, stack.shape[1], stack.shape[2]), []).append((i, j))
    for (rule, *_), where in places.items():
        polars = polars_of([pieces[i][j] for i, j in where], rule, ns_dtype, fused)
        for (i, j), polar in zip(where, polars, strict=True):
            pieces[i][j] = polar
    for w, stacks in zip(work, pieces, strict=True):
        w.direction = _laid_out(w).join(x, _scaled(w, stacks), tuple(w.slot.variable.shape))


def _laid_out(w: Work) -> MatrixView:
    """Return the view of a variable's matrices as its memory lies."""
    assert w.setting.view is not None
    return w.setting.view.as_laid_out()


def _scaled(w: Work, polars: Sequence[Array]) -> list[Array]:
    """Return a variable's polar factors as its rule scales them; with NorMuon keep the next mean squares."""
    rule, view, x = w.setting.rule, w.setting.view, operations(w.p)
    assert isinstance(rule, rules.Muon)
    assert view is not None
    turned, kept = _laid_out(w) is not view, w.new.row_square
    squares = [None] * len(polars) if kept is None else view.split_rows(x, kept, w.slot.variable.shape)
    pairs = [rule.scaled(x, *pair, turned) for pair in zip(polars, squares, strict=True)]
    if kept is not None:
        w.new = w.new._replace(row_square=view.join_rows(x, [square for _, square in pairs]))
    return [direction for direction, _ in pairs]


def match(partition: Partition, variables: Sequence[Any]) -> list[Assignment]:
    """Return the assignment of each variable.

    A partition made from the model knows the variables themselves. A loaded one knows their names;
    where they differ in what Keras itself changes (`same_place`), it goes by order.

    Raises:
        ValueError: a variable that the partition lacks, or of another shape.

    """
    known = {id(v): name for name, v in (partition.parameters or {}).items()}
    names = [known.get(id(v), name_of(v)) for v in variables]
    if any(name not in partition for name in names):
        trained = [a for a in partition if a.rule != "none"]
        if len(trained) == len(names) and all(
            same_place(a.name, name) for a, name in zip(trained, names, strict=True)
        ):
            names = [a.name for a in trained]
    for name, v in zip(names, variables, strict=True):
        if name not in partition:
            raise ValueError(f"{name} is not in the partition: was it made from another model?")
        if partition[name].shape != tuple(v.shape):
            raise ValueError(f"{name} has shape {tuple(v.shape)}, in the partition {partition[name].shape}")
    return [partition[name] for name in names]


def _given(partition: Any) -> Partition | None:
    if partition is None or isinstance(partition, Partition):
        return partition
    if isinstance(partition, Mapping):
        return Partition.from_dict(dict(partition))
    if isinstance(partition, keras.Layer):
        from downslope.grouping.keras import partition as trace

        return trace(partition)
    raise TypeError(
        f"partition = {shown(partition)}: expected a Partition or a built model. "
        "The learning rate is passed by name: Muon(learning_rate=1e-3)"
    )


def _check_by_role(by_role: Mapping[str, Mapping[str, float]]) -> None:
    for role, values in by_role.items():
        require(f"by_role[{role!r}]", values, isinstance(values, Mapping), "a dict, as {'lr_ratio': 0.5}")
        for key, value in values.items():
            require(
                f"by_role[{role!r}]", key, key in ("weight_decay", "lr_ratio"), "'weight_decay' or 'lr_ratio'"
            )
            require_number(f"by_role[{role!r}][{key!r}]", value, 0.0)
