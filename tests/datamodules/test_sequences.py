"""What holds for every family of sequences."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from datamodules import EpisodeDataModule, EpisodeSpec, create_sampler
from datamodules.episodes import EpisodeSampler
from datamodules.example import example
from datamodules.family import SymbolFamily, below
from datamodules.functions import SEQUENCES
from datamodules.stream import Generators
from tests.datamodules.statistics import draw
from zoo.files import ROOT

# A small kind of episode of each family.
SMALL: dict[str, dict[str, Any]] = {
    "recall": {
        "d_x": 6,
        "d_y": 5,
        "function": {"num_keys": 4, "num_updates": 2, "num_queries": 3, "num_values": 8},
    },
    "word_problem": {"num_context": 12, "function": {"group": "A4"}},
    "automaton": {"num_context": 40, "function": {"max_string": 8}},
    "selective_copy": {"num_context": 19, "function": {"vocabulary": 5, "num_copied": 4}},
    "noisy_recall": {"num_context": 30, "function": {"num_keys": 3, "num_noise": 4}},
    "induction": {"num_context": 15, "function": {"vocabulary": 6}},
    "list_ops": {"num_context": 59, "function": {"min_length": 10}},
    "text": {"num_context": 15, "function": {}},
}
SPECS = [
    pytest.param(EpisodeSpec(**spec | {"function": {"name": name, **spec["function"]}}), id=name)
    for name, spec in SMALL.items()
]


def sampler_of(spec: EpisodeSpec) -> EpisodeSampler:
    return create_sampler(spec)


def test_every_family_of_sequences_is_looked_at() -> None:
    assert SMALL.keys() == SEQUENCES.keys()


@pytest.mark.parametrize("spec", SPECS)
def test_episodes_have_the_parts_that_the_contract_says(spec: EpisodeSpec) -> None:
    episodes = sampler_of(spec).sample(50, Generators(0, "train", 0, "cpu"))
    length = spec.num_context + 1
    assert episodes.x.shape == (50, length, spec.d_x)
    assert episodes.y.shape == episodes.target.shape == (50, length, spec.d_y)
    assert episodes.scored.shape == (50, length)
    assert episodes.scored.dtype == torch.bool
    assert episodes.scored[:, -1].all()
    assert all(part.dtype == torch.float32 for part in episodes[:3])
    assert episodes.x.square().mean().item() == pytest.approx(spec.input_variance, rel=1e-5)
    assert len(episodes.x.unique(dim=0)) > 45


@pytest.mark.parametrize("spec", SPECS)
def test_symbols_are_one_hot_and_their_labels_hidden(spec: EpisodeSpec) -> None:
    family = spec.function
    assert spec.labels_hidden == isinstance(family, SymbolFamily)
    if not isinstance(family, SymbolFamily):
        return
    episodes = sampler_of(spec).sample(50, Generators(0, "train", 0, "cpu"))
    assert (spec.d_x, spec.d_y, spec.output) == (len(family.symbols), len(family.classes), "logits")
    assert len(set(family.symbols)) == spec.d_x
    assert episodes.x.unique().tolist() == [0, 1]
    assert (episodes.x.sum(2) == 1).all()
    assert not episodes.y.any()
    of_scored = episodes.target[episodes.scored]
    torch.testing.assert_close(of_scored.sum(1), torch.ones(len(of_scored)))
    assert (of_scored >= 0).all()
    assert family.reference == "uniform"
    assert family.beside


@pytest.mark.parametrize("spec", SPECS)
def test_latents_come_beside_the_same_episodes(spec: EpisodeSpec) -> None:
    sampler = sampler_of(spec)
    alone = sampler.sample(20, Generators(0, "val", 0, "cpu"))
    episodes, latents = sampler.sample(20, Generators(0, "val", 0, "cpu"), latents=True)
    assert all(torch.equal(a, b) for a, b in zip(alone, episodes, strict=True))
    assert latents
    assert all(len(latent) == 20 for latent in latents.values())


@pytest.mark.parametrize("spec", SPECS)
def test_episodes_depend_on_seed_split_and_step_alone(spec: EpisodeSpec) -> None:
    sampler = sampler_of(spec)
    first = sampler.sample(20, Generators(3, "train", 7, "cpu")).x
    torch.manual_seed(5)
    assert torch.equal(sampler_of(spec).sample(20, Generators(3, "train", 7, "cpu")).x, first)
    others = [(3, "train", 8), (4, "train", 7), (3, "val", 7), (3, "tune", 7), (3, "test", 7)]
    for seed, split, step in others:
        other = sampler.sample(20, Generators(seed, split, step, "cpu")).x  # type: ignore[arg-type]
        same = (other[:, None] == first).flatten(2).all(2)
        assert same.sum() <= 1  # of the shortest ones a few are alike by chance


@pytest.mark.parametrize("spec", SPECS)
def test_everything_is_drawn_on_the_device_of_the_generators(spec: EpisodeSpec) -> None:
    sampler = sampler_of(spec)
    expected = sampler.sample(3, Generators(0, "train", 0, "cpu"))  # what all share is there now
    with torch.device("meta"):  # where whatever names no device is made
        drawn, latents = sampler.sample(3, Generators(0, "train", 0, "cpu"), latents=True)
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))
    assert {latent.device.type for latent in latents.values()} == {"cpu"}


@pytest.mark.parametrize("spec", SPECS)
def test_a_run_that_goes_on_draws_the_episodes_of_one_that_never_stopped(spec: EpisodeSpec) -> None:
    one, other = (EpisodeDataModule(spec, 2, batch_size=4, eval_episodes=4) for _ in range(2))
    for step in range(3):
        one.train_episodes(step)
    expected, found = one.train_episodes(3), other.train_episodes(3)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_of_sequences_is_plain_data_of_plain_sizes(spec: EpisodeSpec) -> None:
    plain = spec.model_dump()
    assert plain["inputs"] is None
    assert all(type(plain[size]) is int for size in ("d_x", "d_y", "num_context"))
    assert EpisodeSpec(**plain) == spec
    settled = spec.function.settles  # type: ignore[union-attr]
    assert EpisodeSpec(**plain | dict.fromkeys(settled)) == spec  # None: what follows


@pytest.mark.parametrize("spec", SPECS)
def test_what_goes_with_no_sequence_is_refused_in_one_line(spec: EpisodeSpec) -> None:
    plain, name = spec.model_dump(), spec.function.name
    given = {
        "inputs": {"name": "gaussian"},
        "input_scale": 2.0,
        "noise": 0.1,
        "label_flip": 0.1,
        "distractors": {"count": 1},
        "outliers": {"probability": 0.1},
        "curriculum": {"dims": {"start": 1, "end": spec.d_x, "increment": 1, "every": 1}},
    }
    for setting, value in given.items():
        if setting == "noise" and name == "recall":
            continue
        with pytest.raises(ValueError, match=f"function {name} takes no {setting}") as refusal:
            EpisodeSpec(**plain | {setting: value})
        assert len(refusal.value.errors()) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("spec", SPECS)
def test_sizes_that_do_not_follow_are_refused(spec: EpisodeSpec) -> None:
    plain = spec.model_dump()
    for size, settled in spec.function.settles.items():  # type: ignore[union-attr]
        message = f"{size} follows from function {spec.function.name} and is {settled}, got 999"
        with pytest.raises(ValueError, match=message):
            EpisodeSpec(**plain | {size: 999})
    least = spec.function.least_length  # type: ignore[union-attr]
    if least > 2 and "num_context" not in spec.function.settles:  # type: ignore[union-attr]
        with pytest.raises(ValueError, match=f"at least {least} positions.*got {least - 1}"):
            EpisodeSpec(**plain | {"num_context": least - 2})


@pytest.mark.parametrize("spec", SPECS)
def test_the_shortest_episodes_can_be_drawn(spec: EpisodeSpec) -> None:
    least = spec.function.least_length  # type: ignore[union-attr]
    shortest = EpisodeSpec(**spec.model_dump() | {"num_context": least - 1})
    episodes = sampler_of(shortest).sample(30, Generators(0, "train", 0, "cpu"))
    assert episodes.x.shape[1] == least
    assert episodes.scored[:, -1].all()


def test_lengths_grow_with_a_curriculum_where_they_are_free() -> None:
    points = {"start": 4, "end": 13, "increment": 3, "every": 10}
    spec = EpisodeSpec(
        num_context=12, function={"name": "word_problem"}, curriculum={"points": points}
    )
    sampler = create_sampler(spec)
    for step, length in [(0, 4), (10, 7), (100, 13)]:
        x = sampler.sample(2, Generators(0, "train", step, "cpu"), step).x
        assert x.shape[1] == length
    recall = {"d_x": 4, "d_y": 4, "function": {"name": "recall"}}
    with pytest.raises(ValueError, match="has 25 to 25 positions.*got 5"):
        EpisodeSpec(**recall, curriculum={"points": points | {"start": 5, "end": 25}})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"inputs": None}, "function linear needs inputs, got none"),
        ({"function": {"name": "word_problem", "group": "S7"}}, "Z2 to Z256.*got 'S7'"),
        ({"function": {"name": "word_problem", "group": "Z1"}}, "got 'Z1'"),
        ({"function": {"name": "word_problem", "group": "Z999"}}, "got 'Z999'"),
        ({"function": {"name": "automaton", "min_states": 13}}, "at most max_states = 12, got 13"),
        ({"function": {"name": "automaton", "max_edges": 19}}, "at most alphabet = 18, got 19"),
        ({"function": {"name": "recall", "num_updates": 17}}, "at most num_keys = 16, got 17"),
        ({"function": {"name": "recall", "num_queries": 17}}, "at most num_keys = 16, got 17"),
        ({"function": {"name": "list_ops", "min_length": 0}}, "min_length"),
        ({"d_x": None, "function": {"name": "induction", "vocabulary": 1}}, "vocabulary"),
        ({"function": {"name": ["induction"]}}, "name"),
        (
            {"num_context": 10**6, "function": {"name": "text"}},
            "of 1,000,001 bytes need a text",
        ),
        (
            {
                "function": {
                    "name": "mixture",
                    "components": [{"function": {"name": n}} for n in ("linear", "induction")],
                }
            },
            "'induction'",
        ),
    ],
)
def test_settings_of_sequences_that_do_not_fit_are_refused(
    spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        EpisodeSpec(**spec)
    assert len(refusal.value.errors()) == 1  # type: ignore[attr-defined]


def test_latents_of_regression_are_what_the_labels_were_computed_from() -> None:
    spec = {"d_x": 4, "d_y": 2, "noise": 0.3, "distractors": {"count": 3}}
    sampler = create_sampler(spec)
    alone = sampler.sample(50, Generators(0, "train", 0, "cpu"))
    episodes, latents = sampler.sample(50, Generators(0, "train", 0, "cpu"), latents=True)
    assert all(torch.equal(a, b) for a, b in zip(alone, episodes, strict=True))
    assert torch.equal(episodes.x @ latents["weights"].mT, episodes.target)
    assert torch.equal(latents["noise_level"], torch.full((50,), 0.3))
    assert (latents["distractor"].sum(1) == 3).all()
    apart = (episodes.y - episodes.target).abs().sum(2)
    assert apart[latents["distractor"]].mean() > 3 * apart[~latents["distractor"]].mean()
    pooled = create_sampler(spec | {"function": {"name": "linear_pool", "pool_size": 5}})
    episodes, latents = pooled.sample(50, Generators(0, "train", 0, "cpu"), latents=True)
    pool = pooled.spec.function.tensors(4, 2)["pool"]
    assert torch.equal(pool[latents["pool_member"]], latents["weights"])
    assert torch.equal(episodes.x @ latents["weights"].mT, episodes.target)
    mixed = {"name": "mixture", "components": [{"function": {"name": "linear"}}] * 2}
    _, latents = create_sampler({"function": mixed}).sample(
        50, Generators(0, "train", 0, "cpu"), latents=True
    )
    assert latents["component"].unique().tolist() == [0, 1]


@pytest.mark.parametrize("spec", SPECS)
def test_an_example_shows_every_input_and_what_is_asked(spec: EpisodeSpec) -> None:
    text = example(spec)
    assert max(map(len, text.splitlines())) <= 100
    drawn = sampler_of(spec).sample(1, Generators(0, "train", 0, "cpu"))
    rows: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line:
            rows.setdefault(line.split()[0], []).extend(line.split()[1:])
    assert rows.keys() == ({"x", "asked"} if spec.labels_hidden else {"x", "y", "asked"})
    assert len(rows["x"]) == spec.num_context + 1
    assert len(rows["asked"]) == drawn.scored.sum()
    if isinstance(spec.function, SymbolFamily):
        symbols = drawn.x[0].argmax(1).tolist()
        assert rows["x"] == [spec.function.symbols[symbol] for symbol in symbols]


def test_inputs_without_names_are_not_shown() -> None:
    with pytest.raises(ValueError, match="inputs of function linear have no names to show"):
        example({})


def test_integers_below_a_bound_are_below_it_for_the_largest_uniform_number() -> None:
    bound = torch.arange(1, 2**16)
    assert ((torch.tensor(1 - 2**-24) * bound).long() == bound - 1).all()
    drawn = below(torch.tensor([1, 2, 5]), (10_000, 3), torch.Generator().manual_seed(0))
    for values, number in zip(drawn.unbind(1), (1, 2, 5), strict=True):
        assert values.unique().tolist() == [*range(number)]
        assert values.bincount().min() > 0.9 * 10_000 / number


# Draws 32 MiB of each family in turn and prints how much higher the peak of the process rose.
DRAW_MUCH = """
from pathlib import Path
from datamodules import create_sampler
from datamodules.stream import Generators
from tests.datamodules.test_sequences import SPECS

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10

samplers = [create_sampler(spec.values[0]) for spec in SPECS]
drawn = [s.sample(2, Generators(0, "train", 0, "cpu")) for s in samplers]
before = peak()
for sampler, two in zip(samplers, drawn):
    numbers = (two.x.numel() + two.target.numel()) // 2
    sampler.sample(2**23 // numbers, Generators(0, "train", 0, "cpu"))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_batch_takes_a_few_times_its_own_memory() -> None:
    command = [sys.executable, "-c", DRAW_MUCH]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert 32 <= float(done.stdout) < 4 * 32


def test_hidden_labels_take_no_memory() -> None:
    episodes = draw(64, num_context=255, function={"name": "text"})
    assert episodes.y.shape == episodes.target.shape
    assert episodes.y.untyped_storage().nbytes() == 4
