"""icl-zoo: sequence models that learn in context, beside the algorithms they may be imitating.

What is offered here is imported once it is asked for: lists of names need no torch.
"""

from typing import TYPE_CHECKING

from zoo.lazy import attributes

if TYPE_CHECKING:
    from zoo import analysis as analysis
    from zoo import estimators as estimators
    from zoo import hub as hub
    from zoo import metrics as metrics
    from zoo import models as models
    from zoo import solvers as solvers
    from zoo.hub.find import from_pretrained, list_checkpoints, load
    from zoo.predictor import Predictor
    from zoo.registry import create_model, create_solver, list_models, list_solvers
else:
    __getattr__ = attributes(
        __name__,
        {
            "Predictor": "zoo.predictor",
            "create_model": "zoo.registry",
            "create_solver": "zoo.registry",
            "from_pretrained": "zoo.hub.find",
            "list_checkpoints": "zoo.hub.find",
            "list_models": "zoo.registry",
            "list_solvers": "zoo.registry",
            "load": "zoo.hub.find",
        },
    )

__version__ = "0.1.0"

__all__ = [
    "Predictor",
    "create_model",
    "create_solver",
    "from_pretrained",
    "list_checkpoints",
    "list_models",
    "list_solvers",
    "load",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
