"""Cards and weights that someone made up: an error that says so, or the same model."""

import contextlib
import copy
import functools
import hashlib
import json
import random
import re
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import zoo
from tests.conftest import MakeCheckpoint
from zoo.hub.card import CheckpointError
from zoo.hub.export import BEGIN, END, export
from zoo.hub.io import MAX_COUNT, MAX_SIZE, check_checkpoint, load_checkpoint, read_card
from zoo.registry import model_arguments

WEIGHTS = "model.safetensors"


def edit_card(checkpoint: Path, change: Callable[[Any], Any]) -> None:
    card = json.loads((checkpoint / "card.json").read_text())
    change(card)
    (checkpoint / "card.json").write_text(json.dumps(card))


def replace_weights(checkpoint: Path, data: bytes) -> None:
    """Other weights with a card that vouches for them."""
    (checkpoint / WEIGHTS).write_bytes(data)
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    edit_card(checkpoint, lambda card: card["files"].update({WEIGHTS: entry}))


def safetensors(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


HUGE = 10**15
METRIC = {"value": 0.2, "ci95": 0.01, "num_episodes": 100, "eval_seed": 0}
DEEP: Any = functools.reduce(lambda inner, _: [inner], range(100), 0)
POINT = {"value": 0.2, "ci95": 0.01}


def training(**optimizer: Any) -> dict[str, Any]:
    """A card's training with such settings of the optimizer."""
    counts = {"steps": 1, "episodes": 64, "batch_size": 64, "seed": 0, "devices": 1}
    how = {"schedule": {}, "precision": "32-true", "wall_time_s": 1.0}
    return {"training": counts | how | {"optimizer": optimizer}}


@pytest.mark.parametrize(
    ("architecture", "change", "message"),
    [
        ("gd_ssm", {"schema_version": "2"}, "schema_version: Input should be a valid integer"),
        ("gd_ssm", {"schema_version": True}, "schema_version: Input should be a valid integer"),
        ("gd_ssm", {"schema_version": 0}, "schema_version: Input should be greater than 0"),
        ("gd_ssm", {"name": "../gd_ssm.test"}, "name: String should match"),
        ("gd_ssm", {"name": "/gd_ssm.test"}, "name: String should match"),
        ("gd_ssm", {"name": "gd_ssm..."}, "name: String should match"),
        ("gd_ssm", {"name": "gd_ssm.test\n"}, "name: String should match"),
        ("gd_ssm", {"name": "gd_ssm." + "x" * 300}, "name: String should have at most 100"),
        ("gd_ssm", {"architecture": "torch.nn.Linear"}, "unknown model 'torch.nn.Linear'"),
        ("gd_ssm", {"architecture": "__import__('os')"}, "unknown model"),
        ("gd_ssm", {"architecture": "ridge"}, "unknown model 'ridge'"),
        ("gd_ssm", {"model_args": {}}, "'d_x' is missing"),
        ("gd_ssm", {"model_args": {"d_x": 3, "d_y": 3, "_target_": "os.system"}}, "'_target_'"),
        ("gd_ssm", {"model_args": {"d_x": 3.0, "d_y": 3}}, "d_x: Input should be a valid integer"),
        (
            "gd_ssm",
            {"model_args": {"d_x": -3, "d_y": 3}, "data": {}},
            "d_x: Input should be greater than 0",
        ),
        ("gd_ssm", {"model_args": {"d_x": HUGE, "d_y": 3}, "data": {}}, "card.json: "),
        ("gd_ssm", {"model_args": {"d_x": 10**30, "d_y": 3}}, "d_x is an integer of more"),
        ("gd_ssm", {"model_args": {"d_x": 10**6, "d_y": 3}, "data": {}}, "has shape"),
        ("gd_ssm", {"num_parameters": 16}, "num_parameters is 16, the model has"),
        ("gd_ssm", {"dtype": "float64"}, "has dtype F32, its card says float64"),
        ("gd_ssm", {"dtype": "object"}, "dtype is 'object', expected one of float16"),
        ("gd_ssm", {"files": {"/etc/passwd": {"sha256": "0" * 64, "bytes": 1}}}, "alone"),
        ("gd_ssm", {"files": {WEIGHTS: {"sha256": "../x", "bytes": 1}}}, "sha256: String should"),
        ("gd_ssm", {"files": {WEIGHTS: {"sha256": "0" * 64, "bytes": HUGE}}}, "at most 1073741824"),
        ("gd_ssm", {"files": {WEIGHTS: {"sha256": "0" * 64, "bytes": -1}}}, "bytes: Input should"),
        ("gd_ssm", {"command": "\x1b[2Jpython train.py"}, "command: String should match"),
        ("gd_ssm", training(rates="x"), r"training\.rates"),
        ("gd_ssm", training(rates={"0.1": {"0": "x"}}), r"training\.rates"),
        ("gd_ssm", training(rates={"x": {}}), r"training\.rates"),
        ("gd_ssm", training(rates_steps=-1), r"training\.rates_steps"),
        ("gd_ssm", {"notes": "\u202etxt.exe"}, "notes: String should match"),
        ("gd_ssm", {"data": {"function": {"name": "\x1b[2J"}}}, "function.name has control"),
        ("gd_ssm", {"data": {"\x9b2J": 1}}, "a name has control characters"),
        ("gd_ssm", {"data": {"a": ["\u2066"]}}, "a has control characters"),
        ("gd_ssm", {"data": {"a": "\ud800"}}, "surrogates not allowed"),
        ("gd_ssm", {"data": {"a": 2**70}}, "a is an integer of more than 64 bits"),
        ("gd_ssm", {"data": {"a": DEEP}}, "nested more than 20 deep"),
        ("gd_ssm", {"model_args": {"d_x": 3, "d_y": 3, "a": ["\x1b"]}}, "a has control"),
        ("gd_ssm", {"metrics": {"m": METRIC | {"eval_seed": 10**30}}}, "eval_seed: Input should"),
        ("gd_ssm", {"metrics": {"\x1b[2J": {}}}, "metrics.*String should match"),
        ("gd_ssm", {"state_size": 10**400}, "state_size: Input should be less than or equal to"),
        ("gd_ssm", {"num_parameters": 2**53 + 1}, "num_parameters: Input should be less than or"),
        ("gd_ssm", {"metrics": {"m": METRIC | {"ci95": -1}}}, "m.ci95: Input should be greater"),
        ("gd_ssm", {"metrics": {"x" * 101: METRIC}}, "metrics.*should have at most 100"),
        ("gd_ssm", {"curves": {"model": [POINT | {"ci95": -1}]}}, "ci95: Input should be greater"),
        ("gd_ssm", {"curves": {"x" * 101: [POINT]}}, "curves.*should have at most 100"),
        ("gd_ssm", {"curves": {str(n): [] for n in range(101)}}, "curves: .* at most 100 items"),
        (
            "gd_ssm",
            {"curves": {"model": [None] * 100_001}},
            "curves.model: .* at most 100000 items",
        ),
        (
            "gd_ssm",
            {"reference_metrics": {str(n): METRIC for n in range(101)}},
            "reference_metrics: .* at most 100 items",
        ),
        ("gd_ssm", {"training": None}, "training: Input should be a valid dictionary"),
        ("gd_ssm", {"created": "yesterday"}, "created: Input should be a valid datetime"),
        ("transformer", {"model_args": {"d_model": HUGE, "d_x": 3, "d_y": 3}}, "card.json: "),
        (
            "transformer",
            {"model_args": {"max_context": HUGE, "d_x": 3, "d_y": 3}},
            "max_context is 1000000000000000, at most 1048576",
        ),
        (
            "transformer",
            {"model_args": {"num_layers": 10_000, "d_x": 3, "d_y": 3}},
            "card.json describes a model of more than [0-9]+ tensors",
        ),
        (
            "gd_ssm_deep",
            {"model_args": {"num_layers": 10_000, "d_x": 3, "d_y": 3}},
            "card.json describes a model of more than [0-9]+ tensors",
        ),
        (
            "hybrid",
            {"model_args": {"blocks": ["mamba"] * 10_000, "d_x": 3, "d_y": 3}},
            "card.json describes a model of more than [0-9]+ tensors",
        ),
        (
            "hybrid",
            {"model_args": {"blocks": ["mamba"] * 10_001, "d_x": 3, "d_y": 3}},
            "the length of blocks is 10001, at most 10000",
        ),
        (
            "hybrid",
            {"model_args": {"blocks": [{"s5": {"d_state": HUGE}}], "d_x": 3, "d_y": 3}},
            "d_state is 1000000000000000, at most 1048576",
        ),
        (
            "hybrid",
            {"model_args": {"blocks": [{"s5": {"num_blocks": 10**5}}], "d_x": 3, "d_y": 3}},
            "num_blocks is 100000, at most 10000",
        ),
    ],
)
def test_a_hostile_card_is_refused(
    make_checkpoint: MakeCheckpoint, architecture: str, change: dict[str, Any], message: str
) -> None:
    checkpoint = make_checkpoint(architecture)
    zoo.load(checkpoint)
    edit_card(checkpoint, lambda card: card.update(change))
    with pytest.raises(CheckpointError, match=message):
        zoo.load(checkpoint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": NaN}', "NaN is no number"),
        ('{"schema_version": -Infinity}', "-Infinity is no number"),
        ('{"schema_version": 1e999}', "1e999 is no number"),
        ('{"data": {"noise": -1e999}}', "-1e999 is no number"),
        ('{"data": {"d_x": 3, "d_x": 4}}', "'d_x' stands twice"),
        ('{"schema_version": ' + "9" * 5000 + "}", "is not JSON"),
        ('{"data": ' + "[" * 100_000 + "]" * 100_000 + "}", "is not JSON"),
        ("<html></html>", "is not JSON"),
        ("null", "is not a card"),
    ],
    ids=["nan", "infinity", "float", "inner", "twice", "digits", "deep", "html", "null"],
)
def test_json_that_is_no_card_is_refused(
    make_checkpoint: MakeCheckpoint, text: str, message: str
) -> None:
    checkpoint = make_checkpoint()
    (checkpoint / "card.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        zoo.load(checkpoint)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of checkpoints that, like the repository's, is shown on a page."""
    page = tmp_path / "docs" / "zoo.md"
    page.parent.mkdir()
    page.write_text(f"{BEGIN}\n{END}\n")
    monkeypatch.setattr("zoo.hub.export.CHECKPOINTS", tmp_path / "shipped")
    monkeypatch.setattr("zoo.hub.export.PAGE", page)
    return tmp_path / "shipped"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"function": {"name": "<script>..](http://evil) ![x"}}}, "function.name"),
        ({"data": {"function": {"name": "$\\frac$"}}}, "function.name"),
        ({"data": {"function": {"name": "a b"}}}, "function.name"),
        ({"data": {"function": {"name": "linear\n"}}}, "function.name"),
        ({"data": {"function": {"name": "x" * 5000}}}, "function.name"),
        ({"data": {"num_context": 10**400}}, "num_context"),
        ({"metrics": {"test/half_mse_query": METRIC | {"value": 1e308}}}, "cannot be drawn"),
        ({"data": {"indented": [0] * 200_000}}, "a card at most 1000000"),
    ],
    ids=["markup", "formula", "space", "line", "long", "digits", "loss", "large"],
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_card_that_cannot_be_shown_is_not_exported(
    make_checkpoint: MakeCheckpoint, shipped: Path, change: dict[str, Any], message: str
) -> None:
    checkpoint = make_checkpoint()
    edit_card(checkpoint, lambda card: card["data"].update(function={"name": "linear"}))
    edit_card(checkpoint, lambda card: card.update(change | {"data": card["data"]}))
    edit_card(checkpoint, lambda card: card["data"].update(change.get("data", {})))
    with pytest.raises(CheckpointError, match=message):
        export(checkpoint, "gd_ssm.test", shipped)
    assert not [path for path in shipped.glob("*") if path.name != ".lock"]
    assert sorted(path.name for path in shipped.with_name("docs").iterdir()) == ["zoo.md"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_context": "x"}, "data.num_context must be a whole number"),
        ({"num_context": -1}, "data.num_context must be a whole number"),
        ({"num_context": 10**12}, "data.num_context must be a whole number from 1 to 1048576"),
        ({"num_context": True}, "data.num_context must be a whole number"),
        ({"d_x": 10**9}, "data.d_x must be a whole number"),
        ({"d_y": 4}, "data.d_y is 4, model_args.d_y is 3"),
    ],
)
def test_episodes_that_do_not_fit_the_model_are_no_card(
    make_checkpoint: MakeCheckpoint, change: dict[str, Any], message: str
) -> None:
    checkpoint = make_checkpoint()
    edit_card(checkpoint, lambda card: card["data"].update(change))
    for read in (read_card, check_checkpoint, load_checkpoint):
        with pytest.raises(CheckpointError, match=message):
            read(checkpoint)


def test_names_from_a_card_are_no_formulas(make_checkpoint: MakeCheckpoint, shipped: Path) -> None:
    checkpoint = make_checkpoint()
    formula = "$\\frac$"
    fields = {"curves": {formula: [POINT]}, "reference_metrics": {f"{formula} 2": METRIC}}
    edit_card(checkpoint, lambda card: card.update(fields))
    edit_card(checkpoint, lambda card: card["data"].update(function={"name": "linear"}))
    export(checkpoint, "gd_ssm.test", shipped)
    svg = (shipped.with_name("docs") / "figures" / "zoo" / "linear_d3_N6.svg").read_text()
    assert f">{formula}<" in svg
    assert f">{formula} 2<" in svg


Q = {"dtype": "F32", "shape": [3, 3], "data_offsets": [0, 36]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x", "is not a safetensors file"),
        (struct.pack("<Q", 2**63) + b"{}", "a header of 9223372036854775808 bytes"),
        (safetensors(b"{"), "JSONDecodeError in the header"),
        (safetensors(b'{"a": {"dtype": "F32", "shape": [1e999]}}'), "1e999 is no number"),
        (safetensors(b'{"a": {"dtype": "F32", "shape": [NaN]}}'), "NaN is no number"),
        (safetensors(b'{"a": {"dtype": "F32", "shape": [1e3]}}'), "a shape of .1000.0."),
        (safetensors(b'{"a": {"dtype": "F32", "shape": [true]}}'), "a shape of .True."),
        (safetensors(b'{"a": {"dtype": "F32", "shape": 3}}'), "in the header"),
        (safetensors(b'{"a": {"shape": [%s]}}' % (b"9" * 5000)), "in the header"),
        (safetensors(b'{"a": {}, "a": {}}'), "'a' stands twice"),
        (safetensors({str(n): Q for n in range(10_001)}), "10001 tensors, at most 10000"),
        (safetensors(b"[" * 100_000), "in the header"),
        (safetensors([1]), "in the header"),
        (safetensors({"layer.Q": 1}), "in the header"),
        (safetensors({"layer.Q": {"dtype": "F32"}}), "in the header"),
        (safetensors({}), "it lacks .*layer.C"),
        (safetensors({"layer.Q": Q | {"shape": [HUGE, HUGE]}}), "lacks"),
        (b"\x80\x04\x95" + b"cos\nsystem\n" * 10, "is not a safetensors file"),
    ],
)
def test_weights_that_are_none_are_refused(
    make_checkpoint: MakeCheckpoint, data: bytes, message: str
) -> None:
    checkpoint = make_checkpoint()
    replace_weights(checkpoint, data)
    with pytest.raises(CheckpointError, match=message):
        zoo.load(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [HUGE, HUGE]}, "has shape"),
        ({"shape": [-3, -3]}, "has shape"),
        ({"dtype": "F64"}, "has dtype F64, its card says float32"),
        ({"dtype": "I64"}, "has dtype I64"),
        ({"data_offsets": [0, 2**60]}, "is not a safetensors file"),
        ({"data_offsets": [2**60, 2**60 + 36]}, "is not a safetensors file"),
        ({"data_offsets": [-36, 0]}, "is not a safetensors file"),
    ],
)
def test_a_header_that_lies_is_refused(
    make_checkpoint: MakeCheckpoint, change: dict[str, Any], message: str
) -> None:
    checkpoint = make_checkpoint()
    data = (checkpoint / WEIGHTS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["layer.Q"] |= change
    replace_weights(checkpoint, safetensors(header, data[8 + length :]))
    with pytest.raises(CheckpointError, match=message):
        zoo.load(checkpoint)


def test_shapes_are_compared_before_memory_is_taken(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint("transformer")
    wide = {"d_model": 2**20, "d_x": 3, "d_y": 3}  # blocks of 48 TB each
    edit_card(checkpoint, lambda card: card.update(model_args=wide))
    with pytest.raises(CheckpointError, match="has shape"):
        zoo.load(checkpoint)


@pytest.mark.parametrize("size", ["refused", "allowed"])
@pytest.mark.parametrize("architecture", zoo.list_models())
def test_no_argument_of_a_card_takes_memory_before_it_is_refused(
    make_checkpoint: MakeCheckpoint, architecture: str, size: str
) -> None:
    checkpoint = make_checkpoint(architecture)
    zoo.load(checkpoint)
    for argument in model_arguments(architecture):
        large = MAX_COUNT if argument.startswith("num_") else MAX_SIZE
        given = {"d_x": 3, "d_y": 3, argument: 10**8 if size == "refused" else large}
        edit_card(checkpoint, lambda card, given=given: card.update(model_args=given))
        tracemalloc.start()
        with contextlib.suppress(CheckpointError):  # what changes no shape may be as large
            zoo.load(checkpoint)
            assert size == "allowed", argument
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert taken < 50e6, (argument, taken)


def test_an_error_is_one_line_without_what_a_terminal_would_obey(tmp_path: Path) -> None:
    directory = tmp_path / "a\x1b[31m\u202e\nb"
    with pytest.raises(CheckpointError) as error:
        zoo.load(directory)
    assert str(error.value).isprintable()
    assert "a\\x1b[31m\\u202e b is not a directory" in str(error.value)
    assert len(str(CheckpointError("x" * 10**6))) < 1100


def test_loading_leaves_no_hook_behind(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    zoo.load(checkpoint)
    for _ in range(200):
        torch.nn.Linear(1, 1)
    assert zoo.create_model("gd_ssm", d_x=3, d_y=3).layer.Q.std() > 0


STRANGE = [
    *(
        None,
        True,
        0,
        -1,
        2,
        10**6,
        10**15,
        10**30,
        0.5,
        -1e300,
        "",
        "../x",
        "gd_ssm",
        "\x00",
        "float64",
    ),
    *([], [1], {}, {"a": {"b": []}}, ["x"] * 50),
]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*path, key))


def mutated(card: dict[str, Any], choice: random.Random) -> dict[str, Any]:
    """The card with one to three of its parts replaced, dropped, or doubled under another name."""
    card = copy.deepcopy(card)
    for _ in range(choice.randint(1, 3)):
        *path, key = choice.choice(list(leaves(card))[1:])
        parent = card
        for part in path:
            parent = parent[part]
        kind = choice.choice(["replace", "replace", "drop", "rename"])
        if kind == "replace":
            parent[key] = copy.deepcopy(choice.choice(STRANGE))
        else:
            value = parent.pop(key)
            if kind == "rename":
                parent[f"{key}_"] = value
    return card


@pytest.mark.parametrize("architecture", ["gd_ssm", "transformer", "s5"])
def test_a_mutated_card_gives_an_error_or_an_equal_model(
    make_checkpoint: MakeCheckpoint, architecture: str
) -> None:
    checkpoint, choice = make_checkpoint(architecture), random.Random(0)
    card = json.loads((checkpoint / "card.json").read_text())
    weights = load_file(checkpoint / WEIGHTS)
    refused, loaded = set(), 0
    for _ in range(300):
        (checkpoint / "card.json").write_text(json.dumps(mutated(card, choice)))
        try:
            state = zoo.load(checkpoint).state_dict()
        except CheckpointError as error:
            refused.add(re.sub(r"[0-9]+", "#", str(error)))
        else:
            assert state.keys() == weights.keys()
            assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
            loaded += 1
    assert loaded > 10
    assert len(refused) > 30
