"""What `fit` does around a step: input, replicas, saving, stopping."""

import functools
import itertools
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc.keras_internals import add_state, tf_variable
from tf_instdisc.method import batches
from tf_instdisc.method import replicas as distribution
from tf_instdisc.method.accumulation import Accumulation
from tf_instdisc.method.sharded_bank import ShardedRows
from tf_instdisc.method.throughput import Stopwatch

Logs = dict[str, tf.Tensor | float]


class FitLoop(Accumulation):
    """A Keras model whose `fit` runs on any number of replicas and hosts.

    A subclass has `train_step(data, applies_gradients)` and
    `test_step(data)`. They return logs that are the same on each replica.
    For `loss`, `fit` and `evaluate` show the mean over the examples. A batch
    may have any size: each replica gets an equal part of it. With many hosts,
    all batches must have the same size. `steps_per_execution` makes callbacks
    rarer, but does not join the steps in one graph.

    Attributes:
        step: int64, the number of steps taken.
        loss_tracker: Mean loss of the epoch.
        skip_steps: Steps of the next epoch that are already done; `fit`
            counts them without taking input or changing anything.
        stop_requested: Whether `request_stop` was called on this host.
        stopped: Whether training should end after this step. All hosts learn
            this after the same step.
        save_requested: Whether `request_save` was called on this host.
        saving: Whether the run should be saved after this step; see `stopped`.
    """

    def __init__(self, accumulate_steps: int, **kwargs: Any):
        super().__init__(accumulate_steps, **kwargs)
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self._step = add_state(self, "step", [], 0, "int64")
        self.skip_steps = 0
        self.stop_requested = False
        self.stopped = False
        self.save_requested = False
        self.saving = False
        self._stopwatch = Stopwatch()
        self._known_step: int | None = None

    @property
    def step(self) -> tf.Variable:
        return tf_variable(self._step)

    def request_stop(self) -> None:
        """Stops training after this step; a signal handler may call it."""
        self.stop_requested = True
        if not distribution.has_many_hosts(self.distribute_strategy):
            # Also needed if no further step comes, as at an epoch's end.
            self.stopped = True

    def request_save(self) -> None:
        """Saves the run after this step, or after the next on many hosts.

        Rows that are divided among hosts are saved by all of them together.
        """
        self.save_requested = True
        if not distribution.has_many_hosts(self.distribute_strategy):
            self.saving = True

    # === What a run saves ===

    def metric_values(self) -> list[float]:
        """Returns the state of the metrics in this epoch.

        It is the same on each replica. Reading a variable as a whole would
        sum it over all hosts, and all of them would have to take part.
        """
        strategy = self.distribute_strategy
        return [
            float(distribution.first_replica(strategy, tf_variable(v)))
            for v in self.metrics_variables
        ]

    def set_metric_values(self, values: list[float]) -> None:
        """Restores the state of the metrics."""
        strategy = self.distribute_strategy
        for variable, value in zip(self.metrics_variables, values, strict=True):
            for copy in strategy.experimental_local_results(
                tf_variable(variable)
            ):
                copy.assign(value)

    def training_state(self, is_read: bool = True) -> dict[str, tf.Variable]:
        """Returns all other variables that a run needs to continue.

        A sharded weight is copied to the host as a whole, by all hosts
        together. If `is_read` is false, its copy is empty and will be
        restored.
        """
        named = self.named_state()
        taken = {id(variable) for variable in named.values()}
        groups = {
            "model": [
                tf_variable(v) for v in self.variables if id(v) not in taken
            ],
            "optimizer": [tf_variable(v) for v in self.optimizer.variables],
            "gradient_sum": self.gradient_sums,
        }
        state = {
            f"{group}_{position}": variable
            for group, variables in groups.items()
            for position, variable in enumerate(variables)
        }
        for name, v in named.items():
            is_sharded = isinstance(v, ShardedRows)
            state[name] = v.on_host(is_read) if is_sharded else tf_variable(v)
        return state

    def restore_training_state(
        self, restore: Callable[[dict[str, tf.Variable]], None]
    ) -> None:
        """Lets a function restore the variables of `training_state`."""
        state = self.training_state(is_read=False)
        restore(state)
        for name, v in self.named_state().items():
            if isinstance(v, ShardedRows):
                v.assign(state[name])

    def named_state(self) -> dict[str, keras.Variable]:
        """Returns the weights that checkpoints store by name."""
        return {}

    # === Steps ===

    def reset_metrics(self) -> None:
        super().reset_metrics()
        self._stopwatch.restart()
        self._known_step = None

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        self._known_step = None
        return super().train_on_batch(*args, **kwargs)

    def speed(self) -> dict[str, float]:
        """Returns the images per second, and the fraction of time waited."""
        return self._stopwatch.read()

    def new_train_function(self) -> Callable[[Iterator[Any]], Logs]:
        graphs: dict[Hashable, Callable[..., tuple[Logs, Any]]] = {}

        def train_function(iterator: Iterator[Any]) -> Logs:
            if self.skip_steps:
                self.skip_steps -= 1
                return {}
            is_first = False
            for batch, size, spec in self._execution(iterator):
                applies_gradients = self._applies_gradients()
                # A later `fit` may use batches of another form.
                kind = applies_gradients, repr(spec)
                if kind not in graphs:
                    is_first = True
                    self.see_first_batch(batch)
                    graphs[kind] = self._make_step(
                        spec,
                        functools.partial(
                            self.train_step, applies_gradients=applies_gradients
                        ),
                    )
                logs = self._run(graphs[kind], batch, size)
                self._stopwatch.images += size
            speed = self.speed()
            if is_first:
                # The first step compiles, so its speed is not typical.
                self._stopwatch.restart()
            return {**logs, **speed}

        return train_function

    def new_test_function(self) -> Callable[[Iterator[Any]], Logs]:
        graphs: dict[Hashable, Callable[..., tuple[Logs, Any]]] = {}

        def test_function(iterator: Iterator[Any]) -> Logs:
            for batch, size, spec in self._execution(iterator):
                kind = repr(spec)
                if kind not in graphs:
                    graphs[kind] = self._make_step(spec, self.test_step)
                logs = self._run(graphs[kind], batch, size)
            return logs

        return test_function

    def see_first_batch(self, batch: Any) -> None:
        """Called with the first batch of each form that `fit` meets."""

    def _execution(
        self, iterator: Iterator[Any]
    ) -> Iterator[tuple[Any, int, Any]]:
        """Yields up to `steps_per_execution` batches.

        Raises:
            StopIteration: At once, if there is no batch left.
        """
        first = self._next_batch(iterator)  # Its StopIteration ends the epoch.
        return itertools.chain([first], self._remaining_batches(iterator))

    def _remaining_batches(
        self, iterator: Iterator[Any]
    ) -> Iterator[tuple[Any, int, Any]]:
        for _ in range(self.steps_per_execution - 1):
            try:
                batch = self._next_batch(iterator)
            except (StopIteration, tf.errors.OutOfRangeError):
                return
            yield batch

    def _next_batch(self, iterator: Iterator[Any]) -> tuple[Any, int, Any]:
        """Returns a batch, its size on all hosts, and the form of batches."""
        # If a part is None in some batches, Keras wraps it in an Optional.
        given = keras.tree.map_structure(
            lambda v: None if isinstance(v, tf.experimental.Optional) else v,
            self._stopwatch.wait_for(iterator),
        )
        batch, size = distribution.in_equal_parts(
            self.distribute_strategy, given
        )
        has_form = batch is given
        spec = getattr(iterator, "element_spec", None) if has_form else None
        return batch, size, spec

    def _applies_gradients(self) -> bool:
        if self.accumulate_steps == 1:
            return True
        # Reading the step waits for the device, so `fit` counts by itself.
        before = self._known_step
        if before is None:
            before = int(self.step.numpy())
        self._known_step = before + 1
        return self._known_step % self.accumulate_steps == 0

    def _run(
        self, step: Callable[..., tuple[Logs, Any]], batch: Any, size: int
    ) -> Logs:
        with batches.named_errors():
            requests = [self.stop_requested, self.save_requested]
            logs, votes = step(batch, size, np.array(requests, np.int32))
            if not distribution.has_many_hosts(self.distribute_strategy):
                self.stopped = self.stop_requested
                return logs
            # Each host's requests have reached all of them within the step.
            self.stopped, self.saving = (votes.numpy() > 0).tolist()
            return logs

    def _make_step(
        self, batch_spec: Any, take_step: Callable[[Any], Logs]
    ) -> Callable[..., tuple[Logs, Any]]:
        strategy = self.distribute_strategy

        def replica_step(
            batch: Any, size: tf.Tensor, requests: tf.Tensor
        ) -> tuple[Logs, tf.Tensor | int]:
            logs = take_step(batch)
            self.loss_tracker.update_state(logs["loss"], sample_weight=size)
            logs["loss"] = self.loss_tracker.result()
            votes = 0
            if distribution.has_many_hosts(strategy):
                votes = distribution.sum_over_replicas(requests)
            return logs, votes

        def step(
            batch: Any, size: tf.Tensor, requests: tf.Tensor
        ) -> tuple[Logs, tf.Tensor | int]:
            results = strategy.run(replica_step, args=(batch, size, requests))
            # All replicas have the same values.
            return tf.nest.map_structure(
                lambda value: distribution.first_replica(strategy, value),
                results,
            )

        if self.run_eagerly:
            return step
        # Nothing here needs autograph, which takes a seventh of startup time.
        has_spec = batch_spec is not None and not any(
            isinstance(spec, tf.OptionalSpec)
            for spec in keras.tree.flatten(batch_spec)
        )
        if not has_spec:
            return tf.function(step, reduce_retracing=True, autograph=False)
        # One graph for full and for smaller batches.
        number, pair = (tf.TensorSpec(shape, tf.int32) for shape in ([], [2]))
        return tf.function(
            step, input_signature=[batch_spec, number, pair], autograph=False
        )
