"""A hybrid is its blocks, in their order, with their own arguments."""

from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from tests.conftest import MakePairs
from zoo.hub.io import load_checkpoint, save_checkpoint
from zoo.models.hybrid import block_names
from zoo.models.sequence import SequenceModel

SIZES = {"d_x": 4, "d_y": 2, "d_model": 32}


def create(name: str, **arguments: Any) -> SequenceModel:
    """A float64 model with a random start."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.create_model(name, **SIZES, **arguments).double()
    assert isinstance(model, SequenceModel)
    return model


@pytest.mark.parametrize("name", block_names())
def test_a_hybrid_of_equal_blocks_is_the_architecture_to_the_bit(
    name: str, make_pairs: MakePairs
) -> None:
    without = {"positions": "none"} if name == "transformer" else {}
    hybrid, plain = create("hybrid", blocks=[name, name]), create(name, num_layers=2, **without)
    assert hybrid.state_dict().keys() == plain.state_dict().keys()
    x, y = make_pairs(4, 2, 6)
    assert torch.equal(hybrid(x, y), plain(x, y))
    assert hybrid.state_size(6) == plain.state_size(6)
    assert hybrid.replicas_in_turn_on == plain.replicas_in_turn_on


def test_every_deep_architecture_but_itself_has_a_block() -> None:
    assert {"transformer", "mamba", "s5", "delta_net", "gd_ssm_deep", "ttt_mlp"} <= {*block_names()}
    assert not {"hybrid", "gd_ssm", "linear_transformer", "online_learner"} & {*block_names()}


def test_a_block_has_the_arguments_it_is_given(make_pairs: MakePairs) -> None:
    own = {"negative_eigenvalues": True, "num_heads": 2}
    hybrid = create("hybrid", blocks=[{"delta_net": own}], tokens="shifted", y_scale=0.5)
    plain = create("delta_net", num_layers=1, tokens="shifted", y_scale=0.5, **own)
    x, y = make_pairs(4, 2, 6)
    assert torch.equal(hybrid(x, y), plain(x, y))
    other = create("delta_net", num_layers=1, tokens="shifted", y_scale=0.5, num_heads=2)
    assert not torch.allclose(hybrid(x, y), other(x, y))


def test_blocks_stand_in_the_order_they_are_listed_in() -> None:
    kinds = [type(block).__name__ for block in create("hybrid", blocks=["s5", "mamba"]).blocks]
    assert kinds == ["S5Block", "MambaBlock"]
    default = [type(block).__name__ for block in create("hybrid").blocks]
    assert default == ["MambaBlock", "TransformerBlock"] * 2


def test_replicas_go_in_turn_wherever_one_of_the_blocks_has_to() -> None:
    assert create("hybrid").replicas_in_turn_on == ("cpu", "cuda")
    assert create("hybrid", blocks=["delta_net", "s5"]).replicas_in_turn_on == ()


def test_attention_alone_is_trained_on_all_positions_of_pairs() -> None:
    create("hybrid", blocks=["transformer"], tokens="pairs").check_positions("all")
    with pytest.raises(ValueError, match="positions=last, got all"):
        create("hybrid", tokens="pairs").check_positions("all")


def test_a_card_holds_the_blocks_as_plain_data(
    make_pairs: MakePairs, tmp_path: Path, card_fields: dict[str, Any]
) -> None:
    blocks = ["transformer", {"delta_net": {"negative_eigenvalues": True}}]
    model, arguments = create("hybrid", blocks=blocks), {**SIZES, "blocks": blocks}
    card_fields |= {"architecture": "hybrid", "model_args": arguments, "data": {"d_x": 4}}
    card = save_checkpoint(tmp_path / "checkpoint", model, card_fields)
    assert card.model_args["blocks"] == blocks
    x, y = make_pairs(4, 2, 5)
    assert torch.equal(load_checkpoint(tmp_path / "checkpoint")(x, y), model(x, y))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (["mambo"], r"blocks\[0\]: unknown block 'mambo'. Did you mean 'mamba' or 'mamba2'"),
        (["mamba", "gd_ssm"], r"blocks\[1\]: unknown block 'gd_ssm'. Did you mean 'gd_ssm_deep'"),
        (["hybrid"], r"blocks\[0\]: unknown block 'hybrid'"),
        ([{"hybrid": {"blocks": ["s5"]}}], r"blocks\[0\]: unknown block 'hybrid'"),
        (
            [{"delta_net": {"num_head": 2}}],
            r"blocks\[0\]: unknown argument of a delta_net block 'num_head'. Did you mean 'num_he",
        ),
        ([{"delta_net": {"num_heads": 0}}], r"blocks\[0\].delta_net: num_heads: .*than 0, got 0"),
        ([{"transformer": {"positions": "none"}}], r"of a transformer block 'positions'.* num_he"),
        ([{"transformer": {"num_heads": 5}}], "num_heads must divide d_model = 32, got 5"),
        ([{"mamba": {"num_layers": 2}}], r"blocks\[0\]: num_layers is how many blocks are listed"),
        *(
            ([given], rf"blocks\[0\] must be NAME or {{NAME: {{ARGUMENT: VALUE}}}}, got {shown}")
            for given, shown in [
                (3, "3"),
                ({}, "{}"),
                ({"mamba": 3}, "{'mamba': 3}"),
                ({"mamba": None}, "{'mamba': None}"),
                ({"mamba": {}, "s5": {}}, "{'mamba': {}, 's5': {}}"),
                ({3: {}}, "{3: {}}"),
            ]
        ),
        ([{"mamba": {3: 1}}], r"blocks\[0\]: unknown argument of a mamba block '3'"),
        ([], "blocks: .*at least 1 item.*got"),
        ("mamba", "blocks: .*valid list, got 'mamba'"),
        *(
            ([{"mamba": {shared: 1}}], rf"blocks\[0\]: {shared} is that of the hybrid, set beside")
            for shared in ("d_x", "d_y", "d_model", "tokens", "x_scale", "y_scale", "output")
        ),
    ],
)
def test_what_is_no_block_is_refused_in_one_line(blocks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        create("hybrid", blocks=blocks)
    assert "\n" not in str(refused.value)
