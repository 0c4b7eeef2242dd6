"""Trees from scikit-learn, an optional dependency: pip install -e '.[solvers]'.

scikit-learn fits one data set at a time, so these two loop over episodes and prefixes.
"""

import importlib
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from zoo.registry import PredictorConfig, register_solver
from zoo.solvers.memory import MemorySolver


class _SklearnSolver(MemorySolver):
    """A regressor of scikit-learn, fitted to every prefix of every episode; zero without examples.

    Predictions have no gradients.

    A subclass implements `fit`.
    """

    def fit(self, x: Any, y: Any) -> list[Any]:
        """Regressors whose predictions, side by side, have d_y columns."""
        raise NotImplementedError

    def answer(self, x: Tensor, y: Tensor, num_seen: Tensor, x_query: Tensor) -> Tensor:
        prediction = x_query.new_zeros(*x_query.shape[:-1], self.d_y)
        for b in range(len(x)):
            for p, n in enumerate(num_seen.tolist()):
                if n == 0 or x_query.shape[-2] == 0:  # which scikit-learn refuses
                    continue
                queries = x_query[b, p].numpy(force=True)
                regressors = self.fit(x[b, :n].numpy(force=True), y[b, :n].numpy(force=True))
                columns = [torch.from_numpy(r.predict(queries)) for r in regressors]
                prediction[b, p] = torch.cat(
                    [column.view(len(queries), -1) for column in columns], dim=1
                ).to(x.device)
        return prediction


class DecisionTreeConfig(PredictorConfig):
    """Arguments of `decision_tree`, explained at `DecisionTree`."""

    max_depth: PositiveInt | None = None
    seed: NonNegativeInt = 0


@register_solver("decision_tree", DecisionTreeConfig)
class DecisionTree(_SklearnSolver):
    """A regression tree grown greedily by squared error (Garg et al., arXiv 2208.01066).

    `max_depth` None grows it until every leaf holds equal labels; `seed` decides between splits
    that are equally good.

    Raises:
        ImportError: If scikit-learn is not installed.
    """

    def __init__(self, config: DecisionTreeConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.max_depth = config.max_depth
        self.seed = config.seed
        _sklearn("tree")

    def fit(self, x: Any, y: Any) -> list[Any]:
        tree = _sklearn("tree").DecisionTreeRegressor(
            max_depth=self.max_depth, random_state=self.seed
        )
        return [tree.fit(x, y)]


class BoostedTreesConfig(PredictorConfig):
    """Arguments of `boosted_trees`, explained at `BoostedTrees`."""

    num_trees: PositiveInt = 50
    step_size: PositiveFloat = 0.1
    max_depth: PositiveInt = 4
    seed: NonNegativeInt = 0


@register_solver("boosted_trees", BoostedTreesConfig)
class BoostedTrees(_SklearnSolver):
    """Gradient boosting of regression trees on the squared error (Friedman, 2001).

    `num_trees` trees of depth `max_depth`, each shrunk by `step_size`, for every coordinate of the
    labels by itself. Garg et al. (arXiv 2208.01066) compare with boosted trees of XGBoost.

    Raises:
        ImportError: If scikit-learn is not installed.
    """

    def __init__(self, config: BoostedTreesConfig) -> None:
        super().__init__(config.d_x, config.d_y)
        self.num_trees = config.num_trees
        self.step_size = config.step_size
        self.max_depth = config.max_depth
        self.seed = config.seed
        _sklearn("ensemble")

    @classmethod
    def example(cls, d_x: int, d_y: int) -> dict[str, Any]:
        return {"num_trees": 2, "max_depth": 2}

    def fit(self, x: Any, y: Any) -> list[Any]:
        regressors = []
        for column in y.T:
            regressor = _sklearn("ensemble").GradientBoostingRegressor(
                n_estimators=self.num_trees,
                learning_rate=self.step_size,
                max_depth=self.max_depth,
                random_state=self.seed,
            )
            regressors.append(regressor.fit(x, column))
        return regressors


def _sklearn(module: str) -> Any:
    """A module of scikit-learn."""
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"trees need the optional scikit-learn ({error}): pip install -e '.[solvers]'"
        ) from error
