"""The study of shipped models: what it measures is right on models whose algorithm is known."""

import csv
import math
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import initialize_config_dir
from rich.console import Console

import zoo
from datamodules import EpisodeSpec
from studies.claims import Claim, Found, over_seeds
from studies.inside import figures, lenses, plateaus, probing, shipped, states, task, writing
from studies.inside.study import STUDY
from studies.plan import Effort
from studies.reproduction import reproduce
from studies.runner import Runner
from studies.study import Places, Study, StudyFigure
from zoo.analysis import places
from zoo.analysis.interventions import Effect, probe_change
from zoo.analysis.lens import Candidate, match, tuned_lens
from zoo.analysis.probes import fit_probe, probe, r_squared
from zoo.commands import train
from zoo.files import CONFIGS
from zoo.metrics.errors import Interval
from zoo.models.gd_ssm import GDSSM, construct_gradient_descent_

LINEAR = shipped.task_of("linear")
FEW = Effort(seeds=(0,), num_episodes=60, fewer_settings=True)


@pytest.fixture
def configs() -> Iterator[None]:
    train.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        yield


def one_step() -> GDSSM:
    model = zoo.create_model("gd_ssm", d_x=10, d_y=10)
    assert isinstance(model, GDSSM)
    return construct_gradient_descent_(model, 0.6)


def pairs(split: Any, num: int) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = task.episodes(LINEAR, split, num)
    return drawn.x, drawn.y


@pytest.mark.usefixtures("configs")
def test_a_study_that_trains_nothing_has_a_page_that_speaks_of_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce.py"])  # what was typed is on the page
    made = StudyFigure(
        "X",
        figures.nothing,
        lambda runs, effort: Found({}, [Claim("a number", over_seeds([1.0, 2.0]))]),
    )
    own = made._replace(over="one seed, {num_episodes} queries")
    parts = {"x": made, "y": own}
    study = Study("x", "X", "Made by `{command}`.", "nobody", parts, reading="Numbers.")
    places = Places(tmp_path / "x.md", tmp_path / "figures" / "results.json")
    results = reproduce(
        *(study, ["x", "y"], Effort(seeds=(0, 1), num_episodes=7), tmp_path / "runs", Runner()),
        lambda job: pytest.fail("trained"),
        *(places, Console(quiet=True)),
    )
    text = places.page.read_text()
    assert "2 seeds, 7 test episodes;" in text
    assert "one seed, 7 queries;" in text
    assert "training" not in text
    assert "trained by" not in text
    assert results["figures"]["x"]["made"]["versions"]["icl-zoo"] == [zoo.__version__]


def test_three_seeds_of_every_deep_model_are_shipped() -> None:
    for episodes in shipped.TASKS:
        for architecture in (*shipped.DEEP, shipped.CONTROLS[0]):
            assert shipped.seeds_of(architecture, episodes, STUDY.full) == (0, 1, 2)


def test_a_state_is_one_example_behind_and_tells_all_of_those_before() -> None:
    model = one_step()
    (place,) = places.places(model)
    assert places.num_seen(model, 10) == {place: 9}
    sets = []
    for split in ("tune", "test"):
        x, y = pairs(split, 200)
        targets = probing._targets(LINEAR, split, 200, 9)
        sets.append((places.features(model, x, y)[place], targets[probing.TARGETS.one_step]))
    assert probe(*sets).r2.value == pytest.approx(1, abs=1e-6)


def test_the_stream_is_that_of_the_token_by_which_the_last_example_has_been_seen() -> None:
    for architecture, token in (("transformer", -2), ("delta_net", -1)):
        model = shipped.untrained(architecture, "linear", 0)
        x, y = pairs("test", 4)
        place = places.Place("stream", 1)
        h = places.site(model, x, y, place).h
        torch.testing.assert_close(places.features(model, x, y)[place], h, rtol=1e-4, atol=1e-5)
        changed = x.clone()
        changed[:, token] += 1
        assert not torch.allclose(places.features(model, changed, y)[place], h, atol=1e-3)


def test_noise_levels_belong_to_their_episodes() -> None:
    drawn, levels = probing._of_noise(shipped.task_of("linear_noisy"), "test", 300)
    for level in probing.NOISE_LEVELS:
        noise = (drawn.y - drawn.target)[levels == level]
        assert noise[:, :-1].std().item() == pytest.approx(level, rel=0.1)


def test_a_schedule_is_found_in_a_layer_that_follows_it() -> None:
    exact = zoo.create_solver("scheduled_gradient_descent", d_x=10, d_y=10, step_sizes=[1.2, 0.4])
    found = lenses.fitted_schedule(exact, 2, *pairs("tune", 100))
    assert sorted(found) == pytest.approx([0.4, 1.2], rel=0.01)


def test_a_schedule_is_found_in_a_layer_that_answers_little() -> None:
    """It starts where equal steps are nearest; from larger ones its answers were 19 times those."""
    x, y = pairs("tune", 100)
    for size in (1.0, 1e-2):
        exact = zoo.create_solver("gradient_descent", d_x=10, d_y=10, step_size=0.02 * size)
        for num_steps in lenses.STEPS[1:]:
            found = lenses.fitted_schedule(exact, num_steps, x, y)
            solver = zoo.create_solver(
                "scheduled_gradient_descent", d_x=10, d_y=10, step_sizes=found
            )
            wanted = exact.predict_query(x, y)
            left = (solver.predict_query(x, y) - wanted).square().sum() / wanted.square().sum()
            assert left < 0.01


@pytest.mark.parametrize(
    ("architecture", "episodes", "layer", "name"),
    [
        ("transformer", "linear_noisy", 3, "GD++, 4 steps"),
        ("transformer", "linear_noisy", 3, "gradient descent, 4 steps"),
        ("s5", "linear_noisy", 1, "gradient descent, 4 steps"),
    ],
)
def test_arguments_that_are_fitted_to_a_layer_are_within_their_grid(
    architecture: str, episodes: str, layer: int, name: str
) -> None:
    fit = task.episodes(shipped.task_of(episodes), "tune", 200)
    tuned = tuned_lens(shipped.shipped(architecture, episodes, 0), fit.x, fit.y)[layer]  # type: ignore[arg-type]
    pairs = fit.x[:60], fit.y[:60]
    grid = lenses.grids(lenses._unit(pairs[0]))[name]
    _, arguments = match(grid, tuned, *pairs)
    for argument, values in grid.grid.items():
        assert min(values) < arguments[argument] < max(values)


@pytest.mark.parametrize("name", [states.LEARNERS[i] for i in (3, 5, 8)])
def test_the_rates_of_longhorn_are_within_their_grid(name: str) -> None:
    model = zoo.load(name)
    assert model.card is not None
    spec = states.EpisodeSpec(**model.card.data)
    (longhorn,) = (c for c in states.algorithms(spec) if c.solver == "longhorn")
    _, arguments = match(longhorn, model, *states.drawn(states.AS_TRAINED, spec, "tune", 100))
    values = longhorn.grid["step_size"]
    assert values[0] < arguments["step_size"] < values[-1]


def test_of_algorithms_that_do_the_same_the_simplest_is_named() -> None:
    layer = one_step()
    tried = lenses.candidates(layer, *pairs("tune", 60))
    found = lenses.nearest(layer, tried, pairs("tune", 60), pairs("test", 60))
    in_order = SimpleNamespace(nearest={1: {name: found[name] for name in tried}})
    near, _ = figures._nearest([in_order], 1)  # type: ignore[list-item]
    assert next(iter(near)) == "gradient descent, 1 step"
    assert found["scheduled descent, 2 steps"].cosine == pytest.approx(1, abs=1e-3)


def test_what_is_fitted_says_whether_it_is_an_end_of_its_grid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lenses, "NUM_TO_FIT", 60)
    monkeypatch.setattr(lenses, "NUM_TO_MATCH", 20)
    tried = {
        "beyond": Candidate("gradient_descent", grid={"step_size": (0.01, 0.1)}),
        "within": Candidate("gradient_descent", grid={"step_size": (0.1, 2.0)}),
        "told": Candidate("gradient_descent", {"step_size": 0.1}),
    }
    monkeypatch.setattr(lenses, "candidates", lambda *_: tried)
    found = lenses.Lenses(one_step(), LINEAR, 20)
    assert found.at_end == {1: {"beyond": ["step_size"], "within": [], "told": []}}


def test_algorithms_whose_differences_have_zero_in_their_interval_are_as_near() -> None:
    cosines = {"one": (0.90, 0.94, 0.92), "two": (0.91, 0.93, 0.93), "three": (0.8, 0.84, 0.82)}
    seeds = [
        SimpleNamespace(
            nearest={
                1: {
                    name: SimpleNamespace(cosine=values[seed], difference=difference)
                    for name, values in cosines.items()
                }
            },
            at_end={1: {name: ["gamma"] if (name, seed) == ("two", 1) else [] for name in cosines}},
        )
        for seed, difference in enumerate((0.1, 0.2, 0.3))
    ]
    near, others = figures._nearest(seeds, 1)  # type: ignore[arg-type]
    assert [*near] == ["two", "one"]
    assert [*others] == ["three"]
    told = figures.told(seeds, 1)  # type: ignore[arg-type]
    assert told["nearest (cosine)"].startswith("two (0.923")
    assert told["nearest (cosine)"].endswith("), gamma at an end of its grid")
    seeds[1].at_end[1]["two"] = []
    assert figures.told(seeds, 1)["nearest (cosine)"].endswith(")")  # type: ignore[arg-type]
    assert told["as near"] == "one"
    assert told["then"].startswith("three (0.82")
    assert told["difference"].startswith("0.20")
    seeds[0].nearest[1]["two"].difference = 0.6  # in one seed, of a mean of 0.37
    told = figures.told(seeds, 1)  # type: ignore[arg-type]
    assert (told["nearest (cosine)"], told["difference"]) == ("", "above 0.5")
    assert set(figures.told(seeds, 0).values()) == {""}  # type: ignore[arg-type]


def test_written_weights_move_the_prediction_of_a_layer_that_answers_with_them() -> None:
    (found,) = writing.written(one_step(), LINEAR, 100).values()
    # The query brings the last example, which the weights are changed by.
    assert 0.7 < found.effect.written.value < 1.3
    assert abs(found.effect.control.value) < 0.2
    assert found.exact is not None
    assert found.exact.written == pytest.approx((1, 0), abs=1e-3)
    assert abs(found.exact.control.value) < 0.2
    # These it answers with: by a probe they are followed as far, those of the best are not.
    assert found.one_step is not None
    assert abs(found.one_step.written.value - 1) < abs(found.effect.written.value - 1)
    assert found.one_step.written.value == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("size", "expected"), [(0.3, 2.0), (0.6, 1.0), (1.2, 0.5)])
def test_an_effect_tells_the_size_of_the_weights_which_r2_does_not(
    size: float, expected: float
) -> None:
    """A layer of steps of 0.6, into which W of one step is written, of this and other sizes."""
    model, solver = (
        one_step(),
        zoo.create_solver("gradient_descent", d_x=10, d_y=10, step_size=size),
    )
    ((place, num),) = places.num_seen(model, 10).items()
    sets = {split: task.episodes(LINEAR, split, 200) for split in ("tune", "test")}
    W = {s: places.weights(solver, e.x[:, :num], e.y[:, :num]) for s, e in sets.items()}
    test = sets["test"]
    h = places.features(model, sets["tune"].x, sets["tune"].y)[place]
    at, found = places.site(model, test.x, test.y, place), fit_probe(h, W["tune"])
    assert r_squared(found, at.h, W["test"]).value == pytest.approx(1, abs=1e-6)
    change = partial(probe_change, found, h, at.h)
    effect = writing._effect(at, change, W["test"], test.x[:, -1])
    assert effect.written.value == pytest.approx(expected, rel=0.03)


def test_an_effect_has_its_interval_over_episodes_and_a_control_that_is_a_mean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_seeds = [Effect(Interval(v, c), Interval(0.0, 2 * c)) for v, c in ((0.9, 0.1), (1.1, 0.3))]
    cells = figures._followed("", of_seeds, []).also
    assert cells["over episodes"] == "± 0.2"
    assert cells["third, over episodes"] == "± 0.4"
    values = cycle((0.3, -0.1, 0.2, 0.0))
    monkeypatch.setattr(
        writing, "effect", lambda *_: Effect(Interval(1, 0), Interval(next(values), 0.2))
    )
    (found,) = writing.written(one_step(), LINEAR, 40).values()
    assert found.effect.control == pytest.approx((0.1, 0.2))


def test_what_the_query_does_not_read_is_not_written() -> None:
    stream, last = places.Place("stream", 2), places.Place("stream", 3)
    model = shipped.untrained("transformer", "linear", 0)
    assert model.token_layout == "pairs"
    assert writing._is_read(model, stream)
    assert not writing._is_read(model, last)
    model = shipped.untrained("delta_net", "linear", 0)
    assert model.token_layout == "shifted"
    assert writing._is_read(model, stream)


def test_parts_are_told_by_layer_and_kind() -> None:
    model = shipped.shipped("linear_transformer", "linear", 0)
    found = writing.needed(model, LINEAR, 50)
    assert list(found) == [1, 2, 3, 4]
    assert found[1]["layer"] == found[1]["head"]
    assert 0 < found[4]["layer"][0] < found[1]["layer"][0] == writing.MOST
    one = writing.needed(shipped.shipped("gd_ssm", "linear", 0), LINEAR, 50)
    assert one.keys() == {1}
    assert {kind: len(values) for kind, values in one[1].items()} == {
        "layer": 1,
        "place": 3,
        "decay": 1,
    }


def test_a_part_without_which_a_model_overflows_is_needed_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    infinite = Interval(math.inf, math.inf)
    monkeypatch.setattr(writing, "error_increases", lambda *_: {"decay 2": infinite})
    model = shipped.untrained("delta_net", "linear", 0)
    assert writing.needed(model, LINEAR, 50) == {2: {"decay": [writing.MOST]}}


def test_a_layer_is_beside_its_algorithm_also_where_examples_contradict_each_other() -> None:
    found = states.beside("online_learner.linear_delta_rule", 40)
    assert found.algorithm.startswith("online_gradient_descent(")
    assert "forgetting=1, step_size=1" in found.algorithm
    assert found.nonlinear < 1e-9
    kinds = [states.AS_TRAINED, states.UPDATES, states.DRIFT, states.WITH_OUTLIERS]
    assert list(found.found) == list(found.others) == kinds
    for kind, compared in found.found.items():
        assert compared.cosine[:, 1:].nanmean() > 0.99
        label, cosine = found.others[kind]
        assert not label.startswith("online_gradient_descent(step_size")
        assert cosine.value < compared.cosine[:, -1].nanmean()


def test_all_arguments_of_an_algorithm_are_printed() -> None:
    told = states._label("x", {"num_passes": 2, "window": 4, "step_size": 0.123})
    assert told == "x(num_passes=2, window=4, step_size=0.12)"


def test_kinds_are_as_they_say_and_none_is_there_twice() -> None:
    card = zoo.load("online_learner.linear_drift_mesa").card
    assert card is not None
    spec = states.EpisodeSpec(**card.data)
    assert list(states.kinds(spec)) == [states.AS_TRAINED, states.UPDATES, states.WITH_OUTLIERS]
    x, y = states.drawn(states.UPDATES, spec, "test", 5)
    plain_x, plain_y = states.drawn(states.AS_TRAINED, spec, "test", 5)
    half = (x.shape[1] - 1) // 2
    assert torch.equal(x[:, half : 2 * half], plain_x[:, :half])
    assert torch.equal(y[1:, half : 2 * half], plain_y[:-1, :half])
    assert torch.equal(y[:, :half], plain_y[:, :half])
    assert torch.equal(x[:, -1], plain_x[:, -1])


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("probes", ["delta_net, state 2: R2 of W of the best", "gd_ssm, state 1: R2"]),
        ("lens", ["delta_net, layer 0: error", "gd_ssm, layer 1: error"]),
        (
            "use",
            [
                "gd_ssm, state 1, exact: effect",
                "gd_ssm, state 1, W of one step: effect",
                "gd_ssm, layer 1: error without it, more",
            ],
        ),
    ],
)
def test_figures_have_a_row_for_every_place_or_layer(
    name: str, rows: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (probing, lenses, writing):
        monkeypatch.setattr(module, "NUM_TO_FIT", 60)
    monkeypatch.setattr(lenses, "NUM_TO_MATCH", 20)
    monkeypatch.setattr(figures, "TASKS", ("linear_noisy",))
    monkeypatch.setattr(figures, "CONTROLS", ("gd_ssm_deep", "gd_ssm"))
    found = STUDY.figures[name].make({}, FEW)
    quantities = [claim.quantity for claim in found.claims]
    assert len(quantities) == len(set(quantities)) >= 5
    for row in rows:
        assert sum(quantity.startswith(f"linear_noisy, {row}") for quantity in quantities) == 1
    assert {claim.verdict for claim in found.claims} == {"ours"}


def test_the_figure_of_states_has_a_row_for_every_kind_of_episodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(figures, "LEARNERS", states.LEARNERS[1:2])
    found = figures.states({}, FEW)
    assert [claim.quantity.split(", ")[1].split(":")[0] for claim in found.claims] == [
        states.AS_TRAINED,
        states.UPDATES,
        states.DRIFT,
        states.WITH_OUTLIERS,
    ]
    assert all(claim.also["nearest other"] for claim in found.claims)


def run_of(tmp_path: Path, losses: dict[int, float], told: dict[int, float]) -> Path:
    """A run whose validation had these losses beside 2 of zero, and these R2 in the first state."""
    table = tmp_path / "csv" / "version_0" / "metrics.csv"
    table.parent.mkdir(parents=True)
    ridge = "layers/ridge_state"
    with table.open("w", newline="") as file:
        columns = ["step", plateaus.ERROR, f"{plateaus.ERROR}/zero", f"{ridge}_1", f"{ridge}_2"]
        rows = csv.writer(file)
        rows.writerow(columns)
        for step, loss in losses.items():
            rows.writerow([step, loss, 2.0, step / 1_000, told[step]])
    return tmp_path


def test_a_plateau_has_its_level_beside_zero_and_what_was_known_before_and_on_it(
    tmp_path: Path,
) -> None:
    # At 1 until step 300, at 2 / 5 from 500 to 900, then falling; from 1,200 on the rate decays.
    losses = {step: 2.0 for step in range(50, 301, 50)} | {350: 1.6, 400: 1.2, 450: 0.95}
    losses |= {step: 0.8 for step in range(500, 901, 50)}
    losses |= {step: 0.8 * 0.8 ** ((step - 900) // 50) for step in range(950, 1_501, 50)}
    told = {step: 0.25 if 500 <= step <= 900 else 0.0 for step in losses}
    found = plateaus.stands({"plateaus-delta_net": [run_of(tmp_path, losses, told)]}, FEW)
    rows = {
        claim.quantity.split(": ")[0].removeprefix("delta_net, seed 0, "): claim
        for claim in found.claims
    }
    # In their order; before the first plateau there is no validation.
    assert [*rows] == [
        "plateau, steps 50 to 300",
        "step 300",
        "step 350",
        "step 450",
        "plateau, steps 500 to 900",
        "step 950",
        "step 1,500",
    ]
    assert [claim.measured.value for claim in rows.values()] == pytest.approx(
        [1.0, 1.0, 0.8, 0.475, 0.4, 0.32, 0.4 * 0.8**12], rel=1e-9
    )
    assert {claim.also["leaves zero"] for claim in rows.values()} == {"between 300 and 350"}
    assert [claim.also["R2 of ridge, state 1"] for claim in rows.values()] == [
        *("0.175", "0.3", "0.35", "0.45", "0.7", "0.95", "1.5")
    ]
    assert rows["plateau, steps 500 to 900"].also["R2 of ridge, state 2"] == "0.25"
    assert plateaus.NONE not in found.figures["plateaus"][1]


def test_where_no_plateau_is_found_the_page_says_so(tmp_path: Path) -> None:
    losses = {step: 2 * 0.9 ** (step // 50) for step in range(50, 1_501, 50)}
    found = plateaus.stands(
        {"plateaus-delta_net": [run_of(tmp_path, losses, dict.fromkeys(losses, 0.5))]}, FEW
    )
    assert [claim.quantity.split(": ")[0] for claim in found.claims] == [
        "delta_net, seed 0, step 50",
        "delta_net, seed 0, step 1,500",
    ]
    assert found.figures["plateaus"][1].endswith(plateaus.NONE)
    assert {claim.also["leaves zero"] for claim in found.claims} == {"before 50"}


@pytest.mark.parametrize(
    ("data", "best", "is_exact"),
    [
        ({}, "least_squares", True),
        ({"noise": 0.5}, "ridge", True),
        ({"function": {"name": "linear_drift"}}, "kalman_filter", True),
        ({"function": {"name": "linear_pool"}, "noise": 0.5}, "dmmse", True),
        ({"function": {"name": "sparse_linear"}}, "least_squares", False),
        ({"function": {"name": "relu_network"}}, "ridge", False),
        ({"outliers": {"probability": 0.1}}, "ridge", False),
    ],
)
def test_the_best_algorithm_of_episodes_is_known(
    data: dict[str, Any], best: str, is_exact: bool
) -> None:
    of_kind = task.Task(EpisodeSpec(**data))
    assert (of_kind.best, of_kind.is_exact) == (best, is_exact)
