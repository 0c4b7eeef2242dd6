"""The card of a checkpoint, measured again with today's code."""

from pathlib import Path

from datamodules import EpisodeSpec
from zoo.evaluation.episodes import evaluation_batches
from zoo.evaluation.report import create_report
from zoo.hub.card import SCHEMA_VERSION, Card
from zoo.hub.directory import read_card
from zoo.hub.io import load_checkpoint
from zoo.references import closed_form_of, references_of, scoring_of
from zoo.training.card import measured_fields
from zoo.training.options import num_test_of

NUM_EPISODES = 10_000


def measured_again(directory: Path, num_episodes: int = NUM_EPISODES) -> Card:
    """The card of a checkpoint with today's numbers.

    Args:
        directory: Of the checkpoint.
        num_episodes: Test episodes; ten times as many for models whose mean single ones decide.

    Raises:
        CheckpointError: If it cannot be loaded.
    """
    card, model = read_card(directory), load_checkpoint(directory)
    spec = EpisodeSpec(**card.data)
    number = num_test_of(num_episodes, model.heavy_tailed)
    report = create_report(
        model,
        references_of(spec, card.model_args),
        closed_form_of(spec),
        lambda i: evaluation_batches(spec, number, number=i),
        scoring_of(spec),
        spec.mean_function(),
    )
    new = {"schema_version": SCHEMA_VERSION, "paper": model.paper, **measured_fields(report)}
    return Card.model_validate({**card.model_dump(), **new})
