"""The GD-SSM with places of its window closed, trained on the paper's task, d = N = 10.

    python -m studies.ablations.windows

The window is S_i = [x_i; y_i; x_{i+1}]. Each row trains a layer from the default start in which
some entries of Q (3, 3) and D (3,) are kept at zero, and divides its error at the query of the
10,000 test episodes by that of one step of gradient descent on the same episodes.
"""

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import zoo
from datamodules import EpisodeDataModule, EpisodeSpec
from zoo.metrics.errors import half_squared_error, mean_interval, ratio_interval
from zoo.metrics.text import with_interval
from zoo.predictor import Predictor
from zoo.references import create_reference
from zoo.terminal import outlive_readers
from zoo.training.optim import create_optimizer, create_schedule
from zoo.training.options import OptimConfig

STEPS = 1_500
X, Y, QUERY = 0, 1, 2  # places in the window


def open_places(Q: list[tuple[int, int]], D: list[int]) -> tuple[Tensor, Tensor]:
    """Masks of Q and D that leave these entries free."""
    mask_Q, mask_D = torch.zeros(3, 3), torch.zeros(3)
    for place in Q:
        mask_Q[place] = 1
    mask_D[D] = 1
    return mask_Q, mask_D


def pairs(*places: int) -> list[tuple[int, int]]:
    """All entries of Q at which two of these places of the window meet."""
    return [(a, b) for a in places for b in places]


WINDOWS = {
    "all of it": open_places(pairs(X, Y, QUERY), [X, Y, QUERY]),
    "two entries: Q at (x_i, y_i), D at x_{i+1}": open_places([(X, Y)], [QUERY]),
    "without x_{i+1}, a window of two": open_places(pairs(X, Y), [X, Y]),
    "without x_{i+1} in D": open_places(pairs(X, Y, QUERY), [X, Y]),
    "without products of two tokens in Q": open_places([(0, 0), (1, 1), (2, 2)], [X, Y, QUERY]),
    "without x_i": open_places(pairs(Y, QUERY), [Y, QUERY]),
    "without y_i": open_places(pairs(X, QUERY), [X, QUERY]),
}


def trained(data: EpisodeDataModule, mask_Q: Tensor, mask_D: Tensor) -> Predictor:
    """A layer trained as by `python train.py`, its closed entries at zero from start to end."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.create_model("gd_ssm", d_x=10, d_y=10)
    for name, mask in (("layer.Q", mask_Q), ("layer.D", mask_D)):
        parameter = model.get_parameter(name)
        parameter.data *= mask
        parameter.register_hook(mask.mul)
    config = OptimConfig()
    optimizer = create_optimizer(model, config)
    schedule = create_schedule(optimizer, config, STEPS)
    for step in range(STEPS):
        batch = data.train_episodes(step)
        prediction = model.predict_query(batch.x, batch.y)
        loss = half_squared_error(prediction, batch.target[:, -1]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model


def main() -> None:
    """Trains with every mask and prints the table."""
    # What only does harm shrinks to numbers that a CPU is slow with.
    torch.set_flush_denormal(True)
    spec = EpisodeSpec()
    data = EpisodeDataModule(spec, 0, 64)
    test = data.test_episodes()

    @torch.no_grad()
    def error(predictor: Predictor) -> Tensor:
        return half_squared_error(predictor.predict_query(test.x, test.y), test.target[:, -1])

    reference = error(create_reference("gradient_descent", spec, {}))
    table = Table(title="GD-SSM with a part of its window")
    for heading in ("window", "0.5*MSE", "/ one step"):
        table.add_column(heading, justify="left" if heading == "window" else "right")
    for name, masks in track(WINDOWS.items(), "training"):
        found = error(trained(data, *masks))
        numbers = mean_interval(found), ratio_interval(found, reference)
        table.add_row(name, *(with_interval(*number) for number in numbers))
    Console().print(table)


if __name__ == "__main__":
    outlive_readers()
    main()
