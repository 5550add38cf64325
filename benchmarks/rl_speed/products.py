"""The bound of PPO's speed: a compiled loop of nothing but the matrix products behind its gradient steps, on one core.

python benchmarks/rl_speed/products.py 100
"""

import itertools
import json
import os
import subprocess
import sys
import time
from typing import Any

OBSERVATION, HIDDEN, MINIBATCH, EPOCHS = 60, 64, 64, 10
_LOOPS = 400


def steps_per_s(items: int) -> float:
    """Steps per second of processor time if a step were only the products of its 10 epochs, in a process of its own."""
    words = [sys.executable, __file__, str(items)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _measure(items: int) -> float:
    import tensorflow as tf

    widths = ((OBSERVATION, HIDDEN, HIDDEN, items), (OBSERVATION, HIDDEN, HIDDEN, 1))
    networks = [
        [tf.Variable(tf.random.normal([a, b], stddev=0.1)) for a, b in itertools.pairwise(sizes)] for sizes in widths
    ]
    start = tf.random.normal([MINIBATCH, OBSERVATION])

    def products(kernels: list[tf.Tensor], x: tf.Tensor) -> list[tf.Tensor]:
        """Forward and backward of one network, without biases, activations and losses."""
        inputs = [x]
        for kernel in kernels:
            inputs.append(tf.matmul(inputs[-1], kernel))
        flow, gradients = inputs[-1], []
        for index in range(len(kernels) - 1, -1, -1):
            gradients.append(tf.matmul(inputs[index], flow, transpose_a=True))
            if index:
                flow = tf.matmul(flow, kernels[index], transpose_b=True)
        return gradients

    def body(index: tf.Tensor, x: tf.Tensor, total: tf.Tensor) -> tuple[Any, ...]:
        found = [part for kernels in networks for part in products([kernel.read_value() for kernel in kernels], x)]
        touched = tf.add_n([part[0, 0] for part in found])
        return index + 1, x + 1e-12 * touched, total + touched  # each pass depends on the one before

    compiled = tf.function(
        lambda: tf.while_loop(lambda index, *_: index < _LOOPS, body, (0, start, tf.zeros([])))[2],
        jit_compile=True,
        autograph=False,
    )
    compiled()
    best = float("inf")
    until = time.perf_counter() + 4.0
    while time.perf_counter() < until:
        before = time.process_time()
        compiled().numpy()
        best = min(best, time.process_time() - before)
    return _LOOPS * MINIBATCH / EPOCHS / best


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    print(json.dumps(_measure(int(sys.argv[1]))))
