"""Short runs, and episodes of sequences, are the numbers on file, whatever moves in the code.

`python -m tests.test_golden` writes the file anew, for a change of what is computed.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console

import zoo
from datamodules.functions import SEQUENCES
from tests.datamodules.statistics import draw
from zoo.commands.train import train

CONFIGS = Path(__file__).parents[1] / "configs"
GOLDEN = Path(__file__).parent / "data" / "golden.json"
SHORT = [
    *("trainer=cpu", "data.d_x=4", "data.num_context=6"),
    *("max_steps=8", "val_every=4", "batch_size=16", "eval_episodes=200", "test_episodes=200"),
    *("checkpoint_tag=golden", "~callbacks.figures", "~logger.csv", "~logger.tensorboard"),
]
TINY = ["model.num_layers=2", "model.d_model=16"]
HEADS = [*TINY, "model.num_heads=2", "model.d_head=4"]
FEATURES = ["model.learn_start=true", "model.shape_E=scalar"]
RECALL = ["data.function.num_keys=4", "data.function.num_updates=2"]
NETWORKS = ["data=relu_network", "data.function.hidden=100"]
RUNS = {
    "gd_ssm": ["model=gd_ssm"],
    "gd_ssm_all_positions": ["model=gd_ssm", "positions=all"],
    "gd_ssm_steps": ["model=gd_ssm", "model.num_steps=3"],
    "gd_ssm_learned_start": ["model=gd_ssm", "model.learn_start=true", "data=linear_noisy"],
    "gd_ssm_two_seeds": ["model=gd_ssm", "seeds=2"],
    "gd_ssm_recall": ["model=gd_ssm", "data=recall", *RECALL],
    "mamba_word_problem": ["model=mamba", *TINY, "data=word_problem", "data.function.group=Z3"],
    "gd_ssm_classes": ["model=gd_ssm", "data=classification"],
    "gd_ssm_features": ["model=gd_ssm_features", *FEATURES, *NETWORKS],
    "gd_ssm_embedded": ["model=gd_ssm_embedded", *NETWORKS],
    "gd_ssm_deep": ["model=gd_ssm_deep", *TINY],
    "delta_net": ["model=delta_net", *HEADS],
    "delta_product": ["model=delta_product", *HEADS],
    "gated_delta_net": ["model=gated_delta_net", *HEADS],
    "gated_delta_net_key": ["model=gated_delta_net", "model.decay=key", *HEADS],
    "hybrid": [
        "model=hybrid",
        "model.d_model=16",
        "model.blocks=[mamba,{transformer:{num_heads:2}}]",
    ],
    "gla": ["model=gla", *HEADS],
    "mesa_net": ["model=mesa_net", *HEADS],
    "linear_transformer": ["model=linear_transformer", "model.num_layers=2"],
    "online_learner": ["model=online_learner"],
    "online_learner_mesa": ["model=online_learner", "model.rule=mesa", "model.decay=head"],
    "transformer": ["model=transformer", *TINY],
    "ttt_linear": ["model=ttt_linear", *TINY, "model.num_heads=2", "model.mini_batch=4"],
    "ttt_mlp": ["model=ttt_mlp", *TINY, "model.num_heads=2", "model.mini_batch=4"],
    "s5": ["model=s5", *TINY, "model.d_state=128"],
    "longhorn": ["model=longhorn", *TINY],
    "mamba2": ["model=mamba2", *TINY, "model.d_state=8", "model.d_head=8"],
    "mamba": ["model=mamba", *TINY],
    "mamba_negative_eigenvalues": ["model=mamba", *TINY, "model.negative_eigenvalues=true"],
    "mamba_two_seeds": ["model=mamba", *TINY, "seeds=2"],
}


def metrics_of(name: str) -> dict[str, Any]:
    """The content of `metrics.json` of a run."""
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory)
        with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
            config = compose("train", [*RUNS[name], *SHORT, f"run_dir={run_dir}"])
        metrics, _ = train(config, run_dir, Console(quiet=True), [])
    return metrics


def numbers_of(name: str) -> dict[str, float]:
    """The means over the test episodes, by predictor and metric.

    Least squares of clean episodes of as many examples as dimensions is left out: it has no digits.
    """
    metrics = metrics_of(name)
    if "metrics" in metrics:  # of several seeds
        return {metric: found["mean"] for metric, found in metrics["metrics"].items()}
    return {
        f"{predictor} {metric}": summary["value"]
        for predictor, found in {"model": metrics["model"], **metrics["references"]}.items()
        for metric, summary in found.items()
        if "least_squares" not in f"{predictor} {metric}"
    }


# Episodes of each family of sequences.
DRAWN: dict[str, dict[str, Any]] = {
    "recall": {"d_x": 5, "d_y": 3},
    "word_problem": {"num_context": 30},
    "automaton": {"num_context": 60},
    "selective_copy": {"num_context": 50},
    "noisy_recall": {"num_context": 50},
    "induction": {"num_context": 30},
    "list_ops": {"num_context": 199},
    "text": {"num_context": 30},
}


def sums_of(family: str) -> dict[str, float]:
    """Sums of the parts of 20 episodes; each number counts by its place."""
    episodes = draw(20, function={"name": family}, **DRAWN[family])
    return {
        name: (part.double().flatten() * torch.arange(part.numel()).double().cos()).sum().item()
        for name, part in episodes._asdict().items()
    }


def test_every_family_of_sequences_has_golden_episodes() -> None:
    assert DRAWN.keys() == SEQUENCES.keys()


@pytest.mark.parametrize("family", DRAWN)
def test_episodes_of_sequences_are_those_on_file(family: str) -> None:
    golden = json.loads(GOLDEN.read_text())[f"drawn {family}"]
    assert sums_of(family) == pytest.approx(golden, abs=1e-3)  # normal numbers round as machines do


def test_every_architecture_has_a_golden_run() -> None:
    assert {*zoo.list_models()} <= {*RUNS}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", RUNS)
def test_a_short_run_ends_in_the_numbers_on_file(name: str) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    # Cosines are compared by their distance.
    assert numbers_of(name) == pytest.approx(golden, rel=1e-6, abs=1e-6)


if __name__ == "__main__":
    runs = {name: numbers_of(name) for name in RUNS}
    drawn = {f"drawn {family}": sums_of(family) for family in DRAWN}
    GOLDEN.write_text(json.dumps(runs | drawn, indent=1) + "\n")
