"""What happens around training steps: saving, stopping, measuring, drawing, showing."""

from zoo.training.callbacks.alignment import AlignmentMonitor
from zoo.training.callbacks.board import Board
from zoo.training.callbacks.convergence import Convergence
from zoo.training.callbacks.figures import FigureMonitor
from zoo.training.callbacks.layers import LayerMonitor
from zoo.training.callbacks.progress import Progress
from zoo.training.callbacks.rates import LearningRates
from zoo.training.callbacks.references import ReferenceMonitor
from zoo.training.callbacks.resumable import Resumable
from zoo.training.callbacks.solution import TimeToSolution
from zoo.training.callbacks.threads import Threads
from zoo.training.callbacks.weights import WeightMonitor

__all__ = [
    "AlignmentMonitor",
    "Board",
    "Convergence",
    "FigureMonitor",
    "LayerMonitor",
    "LearningRates",
    "Progress",
    "ReferenceMonitor",
    "Resumable",
    "Threads",
    "TimeToSolution",
    "WeightMonitor",
]
