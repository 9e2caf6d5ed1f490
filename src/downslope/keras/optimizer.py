"""What every optimizer here shares: settings, states as Keras variables, and the step.

Keras does all around the step: it clips and accumulates gradients, averages weights, scales losses,
asks the schedule, saves. The step itself is the rule's, for all parameters at once, and it applies
weight decay (Keras would decay the parameter before the rule has seen it). Nothing is written until
every new value is known and the gradients were found fit to use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from downslope.keras.backend import (
    BACKEND,
    dense,
    dtype_of,
    has_shape,
    in_stateless_scope,
    name_of,
    operations,
    tensor_of,
    working_dtype,
)
from downslope.keras.finite import ON_NONFINITE, Decision, decide, describe
from downslope.keras.saved import KEY, check_header, header_of, is_unbuilt
from downslope.keras.schedule import check_learning_rate
from downslope.keras.slots import Initializers, Setting, Slot, Slots, Work
from downslope.ops.protocol import Array
from downslope.rules.checks import require, require_number
from downslope.rules.descent import step
from downslope.rules.rule import Rule

_CALLED = {
    "lr": "learning_rate",
    "beta_1": "betas",
    "beta_2": "betas",
    "epsilon": "eps",
    "rho": "alpha",
    "adam_beta_1": "betas",
    "adam_beta_2": "betas",
    "adam_lr_ratio": 'lr_ratio in by_role={"embedding": {"lr_ratio": 0.5}}, of each role',
    "adam_weight_decay": 'weight_decay in by_role={"embedding": {"weight_decay": 0.0}}, of each role',
    "exclude_layers": 'overrides={"*name*": "adamw"}',
    "exclude_embeddings": 'overrides={"*name*": "muon"}',
    "muon_a": "coefficients",
    "muon_b": "coefficients",
    "muon_c": "coefficients",
    "rms_rate": 'scale: "match_rms_adamw" is a rate of 0.2',
}
"""What Keras's optimizers call otherwise than those here."""

_BUILT = "the optimizer is built already, and its decay fixed. Set it before the first step, or make another"


class RuleOptimizer(keras.optimizers.Optimizer):  # type: ignore[misc]
    """A `keras.optimizers.Optimizer` whose step is a rule's.

    Attributes:
        rule: the rule, with its hyper-parameters.

    """

    _slots: Slots | None = None  # made on building

    def __init__(
        self,
        rule: Rule,
        learning_rate: Any,
        *,
        weight_decay: float | None,
        cautious: bool,
        on_nonfinite: str,
        **kwargs: Any,
    ) -> None:
        require(
            "on_nonfinite", on_nonfinite, on_nonfinite in ON_NONFINITE, "one of " + ", ".join(ON_NONFINITE)
        )
        for name in kwargs:
            if name in _CALLED:
                raise ValueError(f"{name} is not an argument of {type(self).__name__}: use {_CALLED[name]}")
        learning_rate = check_learning_rate(learning_rate)
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **kwargs)
        self.rule = rule
        self.cautious = cautious
        self.on_nonfinite = on_nonfinite
        self._skipped: Any = None

    # -- building ----------------------------------------------------------------------------

    def build(self, variables: Any) -> None:
        """Make the states of these variables; called by Keras before the first step.

        Raises:
            TypeError: a variable that is not real floating. Nothing has changed then.

        """
        if self.built:
            return
        variables = list(variables)
        for v in variables:
            if not keras.backend.is_float_dtype(dtype_of(v)):
                raise TypeError(
                    f"{name_of(v)} has dtype {dtype_of(v)}: expected a real floating dtype. "
                    "Make it non-trainable, or leave it out of what is optimized"
                )
        settings = self._settings(variables)
        super().build(variables)
        if self._may_leave_out:
            self._skipped = self.add_variable(shape=(), dtype="int", name="skipped_steps")
        self._slots = Slots([self._slot(v, setting) for v, setting in zip(variables, settings, strict=True)])

    @property
    def weight_decay(self) -> float:
        """The decoupled weight decay, fixed once the optimizer is built.

        Raises:
            ValueError: set to a number out of range, or after building.

        """
        return self._weight_decay

    @weight_decay.setter
    def weight_decay(self, weight_decay: float | None) -> None:
        value = 0.0 if weight_decay is None else weight_decay
        require_number("weight_decay", value, 0.0)
        if self._slots is not None:
            raise ValueError(f"weight_decay = {value!r}: {_BUILT}")
        self._weight_decay = value

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Keep variables from decay, those in a list or those whose names hold one of these words.

        Raises:
            ValueError: the optimizer is built.

        """
        if self._slots is not None:
            raise ValueError(f"exclude_from_weight_decay: {_BUILT}")
        super().exclude_from_weight_decay(var_list, var_names)

    def _settings(self, variables: Sequence[Any]) -> list[Setting | None]:
        """Return the setting of each variable, None where it is to stay as it is."""
        return [Setting(self.rule, self._decay_of(v), self.cautious) for v in variables]

    def _decay_of(self, variable: Any) -> float:
        return float(self.weight_decay) if self._use_weight_decay(variable) else 0.0

    def _slot(self, variable: Any, setting: Setting | None) -> Slot | None:
        # Keras itself writes the scales of float8 training, and gives such a variable no state.
        if setting is None or self._overwrite_variable_with_gradient(variable):
            return None
        made = setting.rule.init(Initializers(), variable)  # type: ignore[arg-type]
        parts = []
        for field, initializer in made._asdict().items():
            part = None
            if initializer is not None:
                part = self._part(variable, field, initializer, self._shape_of(field, variable, setting))
            parts.append(part)
        return Slot(variable, setting, tuple(parts))

    def _shape_of(self, field: str, variable: Any, setting: Setting) -> tuple[int, ...]:
        """Return the shape of a part of a variable's state."""
        return tuple(variable.shape)

    def _part(self, variable: Any, field: str, initializer: Any, shape: tuple[int, ...]) -> Any:
        alike = shape == tuple(variable.shape)
        if alike and working_dtype(variable) == dtype_of(variable):
            return self.add_variable_from_reference(variable, name=field, initializer=initializer)
        return self.add_variable(
            shape=shape,
            initializer=initializer,
            dtype=working_dtype(variable),
            name=f"{name_of(variable).replace('/', '_')}_{field}",
            layout=getattr(variable, "_layout", None) if alike else None,
        )

    # -- the step ----------------------------------------------------------------------------

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        """Take a step with one gradient for each variable.

        Raises:
            ValueError: their numbers or shapes differ. Nothing has changed then.

        """
        grads = list(grads)
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            if len(grads) != len(trainable_variables):
                raise ValueError(
                    f"{len(grads)} gradients for {len(trainable_variables)} variables: expected one for each"
                )
        return super().apply(grads, trainable_variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Step one variable; Keras's contract. `apply` steps all of them together."""
        self._update([gradient], [variable], learning_rate)

    def _apply_weight_decay(self, variables: Any) -> None:
        """Do nothing: decay belongs to the rule's own step."""

    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        if BACKEND == "tensorflow":  # it sums the gradients of replicas, then calls the method below
            super()._backend_update_step(grads, trainable_variables, learning_rate)
        elif BACKEND == "torch":
            from downslope.keras.torch_step import as_it_is

            as_it_is(self._update, grads, trainable_variables, learning_rate)
        else:
            self._update(grads, trainable_variables, learning_rate)

    def _distributed_tf_update_step(self, distribution: Any, grads_and_vars: Any, learning_rate: Any) -> None:
        import tensorflow as tf

        grads, variables = (list(column) for column in zip(*grads_and_vars, strict=True))

        def on_one_device(_: Any, grads: Any, variables: Any, learning_rate: Any) -> None:
            self._update(grads, variables, learning_rate)

        as_it_is: Any = (
            tf.autograph.experimental.do_not_convert
        )  # nothing here is control flow of the graph's
        distribution.extended.update(
            variables[0], as_it_is(on_one_device), args=(grads, variables, learning_rate), group=False
        )

    def _update(self, grads: Sequence[Any], variables: Sequence[Any], learning_rate: Any) -> None:
        """Take one step of these variables, or none."""
        assert self._slots is not None
        work = [
            self._work(slot, v, g)
            for v, g in zip(variables, grads, strict=True)
            if (slot := self._slots.all[self._get_variable_index(v)]) is not None
        ]
        decision = self._decide(work, learning_rate)
        if not decision.go:
            self._count_skipped(1)
            return
        t = self._t()
        if BACKEND == "torch" and not in_stateless_scope():
            from downslope.keras.torch_step import step_in_place

            step_in_place(work, t, learning_rate, **self._torch_options())
            return
        self._directions(work, t)
        with decision.order():
            for w in work:
                self._write(w, learning_rate, decision)
            if decision.mask is not None:
                self._count_skipped(keras.ops.logical_not(decision.mask))
            if decision.assertion is not None:
                self._iterations.assign_add(0)  # Keras's own count then waits for the assertion too

    def _t(self) -> Array:
        """Return the number of this step, from 1; steps that were left out do not count."""
        t = self.iterations + 1
        return t if self._skipped is None else t - tensor_of(self._skipped)

    def _work(self, slot: Slot, variable: Any, gradient: Any) -> Work:
        g, shape = dense(gradient, slot.working), tuple(variable.shape)
        if not has_shape(g, shape):
            raise ValueError(f"the gradient of {slot.name} has shape {tuple(g.shape)}, the variable {shape}")
        value = tensor_of(variable)
        p = keras.ops.cast(value, slot.working) if slot.half else value
        parts = (None if part is None else tensor_of(part) for part in slot.parts)
        return Work(slot, variable, g, value, p, slot.setting.rule.state_type(*parts))

    def _directions(self, work: Sequence[Work], t: Array) -> None:
        """Fill in every direction and new state; nothing is written."""
        for w in work:
            x = operations(w.p)
            w.direction, w.new = w.setting.rule.direction(x, w.g, w.state, w.p, t)

    def _write(self, w: Work, learning_rate: Any, decision: Decision) -> None:
        setting, x = w.setting, operations(w.p)
        lr = keras.ops.cast(learning_rate, w.slot.working)
        lr = lr if setting.lr_ratio == 1 else lr * setting.lr_ratio
        change = step(
            x, w.p, w.direction, lr=lr, weight_decay=setting.weight_decay, cautious=setting.cautious
        )
        for part, new in zip(w.slot.parts, w.new, strict=True):
            if part is not None:
                self.assign(
                    part, new if decision.mask is None else x.where(decision.mask, new, tensor_of(part))
                )
        if decision.mask is not None:
            change = x.where(decision.mask, change, x.zeros_like(change))
        if w.slot.half:
            self.assign(w.variable, keras.ops.cast(w.p + change, dtype_of(w.variable)))
        else:
            self.assign_add(w.variable, change)

    def _decide(self, work: Sequence[Work], learning_rate: Any) -> Decision:
        names, values = [], []
        if self.on_nonfinite != "ignore":
            names = [f"the gradient of {w.slot.name}" for w in work]
            values = [w.g for w in work]
        if not isinstance(self._learning_rate, keras.Variable):
            lr = keras.ops.where(learning_rate < 0, float("nan"), learning_rate)
            names, values = [*names, "the learning rate (or it is below 0)"], [*values, lr]
        return decide(names, values, "skip" if self.on_nonfinite == "skip" else "raise")

    @property
    def _may_leave_out(self) -> bool:
        return self.on_nonfinite != "ignore" or not isinstance(self._learning_rate, keras.Variable)

    def _count_skipped(self, n: Any) -> None:
        if self._skipped is not None:  # None where a schedule replaced a number after the first step
            self._skipped.assign_add(keras.ops.cast(n, self._skipped.dtype))

    def _torch_options(self) -> dict[str, Any]:
        return {"ns_dtype": "auto", "max_stack_bytes": None, "fused": None}

    # -- the learning rate -------------------------------------------------------------------

    @property
    def learning_rate(self) -> Any:
        """The present learning rate."""
        return self._get_current_learning_rate()

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        learning_rate = check_learning_rate(learning_rate)
        keras.optimizers.Optimizer.learning_rate.fset(self, learning_rate)

    # -- saving ------------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make this optimizer again, without its state."""
        own = {name: getattr(self.rule, name) for name in self.rule.hyperparameters()}
        return {**super().get_config(), **own, "cautious": self.cautious, "on_nonfinite": self.on_nonfinite}

    def save_own_variables(self, store: Any) -> None:
        """Put the state into a Keras store, with a header that says whose it is."""
        super().save_own_variables(store)
        if self._slots is not None:
            store[KEY] = header_of(type(self).__name__, self._rows(), len(self.variables))

    def load_own_variables(self, store: Any) -> None:
        """Take the state from a Keras store; steps then continue as if never interrupted.

        Where the store holds none, as that of a model saved before `compile`, Keras warns and all stays
        as it is. One that was saved before the optimizer was built is that before the first step.

        Raises:
            ValueError: it belongs to another rule or to other variables. Nothing has changed then.

        """
        # Keras warns that there is nothing to load, or to load into.
        if self._slots is None or not store.keys():
            super().load_own_variables(store)
            return
        if is_unbuilt(store):
            self._begin_again(store)
            return
        check_header(store, type(self).__name__, self._rows(), len(self.variables))
        for i, variable in enumerate(self.variables):
            variable.assign(store[str(i)])

    def _begin_again(self, store: Any) -> None:
        """Take the learning rate from a store, and set all else as it was before the first step."""
        assert self._slots is not None
        for variable in self.variables:
            if variable is not self._learning_rate:
                variable.assign(keras.ops.zeros(variable.shape, dtype_of(variable)))
            elif "1" in store.keys():  # noqa: SIM118  (Keras's stores iterate over nothing)
                variable.assign(store["1"])
        for slot in self._slots.used:
            made = slot.setting.rule.init(Initializers(), slot.variable)  # type: ignore[arg-type]
            for part, initializer in zip(slot.parts, made, strict=True):
                if part is not None:
                    part.assign(initializer(part.shape, dtype=dtype_of(part)))

    def _rows(self) -> list[dict[str, Any]]:
        return [] if self._slots is None else [slot.describe() for slot in self._slots.used]

    def stateless_apply(self, optimizer_variables: Any, grads: Any, trainable_variables: Any) -> Any:
        """Return the variables after a step; what is passed in stays as it was."""
        if BACKEND == "torch":  # a rule may write over the state it is given
            optimizer_variables = [keras.ops.copy(v) for v in optimizer_variables]
        return super().stateless_apply(optimizer_variables, grads, trainable_variables)

    def _overwrite_model_variables_with_average_value(self, trainable_variables: Any) -> None:
        super()._overwrite_model_variables_with_average_value(trainable_variables)
        if BACKEND == "jax" and not in_stateless_scope():
            # The next `fit` hands over the memory of both, which then must not be one.
            for average in self._model_variables_moving_average:
                if average is not None:
                    average.assign(keras.ops.copy(average))

    def finalize_variable_values(self, var_list: Any) -> None:
        """Keras's end of `fit`.

        Raises:
            ValueError: steps had to be left out where nothing could be raised: in a graph that XLA compiled.

        """
        if BACKEND == "jax" and self._iterations is not None and self._iterations._value is None:
            return  # `fit` took the values over and was stopped by an error, which is to be seen
        super().finalize_variable_values(var_list)
        if self.on_nonfinite != "skip" and self.skipped_steps:
            raise ValueError(
                f"{self.skipped_steps} steps met {describe(['a gradient or the learning rate'])}"
            )

    @property
    def skipped_steps(self) -> int:
        """How many steps were left out because a gradient or the learning rate was not finite."""
        return 0 if self._skipped is None else int(keras.ops.convert_to_numpy(tensor_of(self._skipped)))
