"""Time of one optimizer step of the paper's JAX implementation, for `benchmarks.step_time`.

    PYTHON benchmarks/published_step.py CLONE BATCH D N STEPS

prints milliseconds. PYTHON has jax, flax, optax and tqdm, and needs nothing of this project; CLONE
is a clone of https://github.com/Efficient-Scalable-Machine-Learning/gd-ssm. A step draws a batch,
goes forward and backward and updates, all in one jitted function, with the settings that are the
defaults of its command line.
"""

import sys
import time
from types import SimpleNamespace
from typing import Any

import jax

WARM_UP = 50
# What its command line has where nothing is typed, for one layer on vector labels.
SETTINGS = {
    "regression": "linear",
    "dataset": "normal_token_vector",
    "n_layers": 1,
    "attn_window": 3,
    "stride": 2,
    "blocks": 2,
    "C_init": "trunc_standard_normal",
    "discretization": "zoh",
    "activation_fn": None,
    "conj_sym": False,
    "clip_eigs": False,
    "bidirectional": False,
    "dt_min": 0.001,
    "dt_max": 0.1,
    "prenorm": False,
    "batchnorm": False,
    "ssm_lr_base": 1e-4,
    "lr_factor": 2,
    "dt_global": False,
    "p_dropout": 0.0,
    "weight_decay": 0.05,
    "opt_config": "standard",
}


def step_ms(batch: int, d: int, num_context: int, steps: int) -> float:
    """Milliseconds of a step, after those that compile and warm up."""
    if not hasattr(jax, "tree_leaves"):  # called by the published code, gone from newer versions
        jax.tree_leaves = jax.tree.leaves
    from gd_ssm.data import create_vec_reg_data_classic_token
    from gd_ssm.model_init import model_init
    from gd_ssm.train_helpers import train_step

    sizes = {"dataset_size": num_context, "input_size": d, "d_model": d, "ssm_size_base": d}
    settings = SimpleNamespace(**SETTINGS, **sizes, bsz=batch)
    key, start = jax.random.split(jax.random.PRNGKey(0))
    model_class, state = model_init(settings, start, gd_params=False, gd_lr=None)
    model = model_class(training=True)
    draw = jax.vmap(create_vec_reg_data_classic_token, in_axes=(0, None, None, None, None, None))
    timesteps = jax.numpy.ones((batch, 2 * num_context + 1))

    def step(state: Any, key: Any) -> Any:
        key, of_data, of_step = jax.random.split(key, 3)
        x, y, _ = draw(jax.random.split(of_data, batch), d, num_context, 0, 1.0, 1.0)
        state, loss = train_step(state, of_step, x, y, timesteps, model, False, settings.dataset)
        return state, key, loss

    step = jax.jit(step)
    begin = 0.0
    for i in range(WARM_UP + steps):
        if i == WARM_UP:
            jax.block_until_ready(state.params)
            begin = time.perf_counter()
        state, key, _ = step(state, key)
    jax.block_until_ready(state.params)
    return (time.perf_counter() - begin) / steps * 1e3


if __name__ == "__main__":
    clone, *numbers = sys.argv[1:]
    sys.path.insert(0, clone)
    print(step_ms(*map(int, numbers)))
