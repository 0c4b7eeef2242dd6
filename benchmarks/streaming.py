"""Cost of going on with a stream after 10, 1,000 and 1,000,000 examples.

    python -m benchmarks.streaming

For every architecture, d_x = d_y = 10, one episode, one layer where there is a choice, one thread:
the time of the processor for one `observe` of a single example and one `predict` of a single query,
best of many, and how many real numbers the state holds. Architectures whose `state_size` grows keep
all examples, so they are not taken to 1,000,000.

A second table has the resident memory of a process in which a model of `word_problem`, whose labels
are hidden, reads symbols in blocks of 1,000 and is asked for the product after each block. Linux
only.
"""

import json
import time
from collections.abc import Iterator
from typing import Any, get_args

import torch
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table
from torch import Tensor

import zoo
from benchmarks.timing import child_of, in_own_process, own_mib
from datamodules import EpisodeSpec, create_sampler
from datamodules.groups import WordProblem
from datamodules.stream import Generators
from zoo.memory import keep_freed_memory
from zoo.models.online_learner import DECAYS, Rule
from zoo.predictor import Predictor
from zoo.registry import model_arguments
from zoo.terminal import outlive_readers

D, REPEATS, AT_ONCE = 10, 200, 1_000
NUM_SEEN = [10, 1_000, 1_000_000]
MARKS = [1_000, 10_000, 100_000, 1_000_000]  # where memory is read
SYMBOLS = EpisodeSpec(num_context=AT_ONCE - 1, inputs=None, function=WordProblem())
RULES = get_args(Rule)
# What differs from the defaults of an architecture, in each row of its own.
ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "linear_transformer": [{"attention": "causal"}],
    "online_learner": [{"rule": rule, "decay": DECAYS[rule][0]} for rule in RULES[:-1]]
    + [{"rule": "test_time_training", "mini_batch": 16}],  # of one pair, a million are a million
    "transformer": [{"positions": "none"}],
}


def models() -> Iterator[tuple[str, Predictor]]:
    """Every architecture of the registry, with its name and what tells its rows apart."""
    for name in zoo.list_models():
        sizes = {"num_layers": 1} if "num_layers" in model_arguments(name) else {}
        for arguments in ARGUMENTS.get(name, [{}]):
            model = zoo.create_model(name, d_x=D, d_y=D, **sizes, **arguments)
            yield " ".join([name, *map(str, list(arguments.values())[:1])]), model.eval()


def numbers_in(state: Any) -> int:
    """Real numbers in the tensors of a state, however they are nested."""
    return sum(tensor.numel() * (2 if tensor.is_complex() else 1) for tensor in tensors_of(state))


def tensors_of(state: Any) -> Iterator[Tensor]:
    """The tensors of a state, however they are nested."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, tuple):
        for part in state:
            yield from tensors_of(part)


def observe_many(model: Predictor, state: Any, count: int, progress: Progress) -> Any:
    """The state after `count` further random examples."""
    task = progress.add_task("observing", total=count)
    while count > 0:
        num_new = min(count, AT_ONCE)
        x = torch.rand(1, num_new, D) - 0.5
        state = model.observe(state, x, x.flip(-1))
        count -= num_new
        progress.advance(task, num_new)
    progress.remove_task(task)
    return state


def best_ms(model: Predictor, state: Any) -> float:
    """Milliseconds of one `observe` and one `predict`."""
    x, y, query = torch.rand(3, 1, 1, D) - 0.5
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        model.predict(model.observe(state, x, y), query)
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def table_of_times(console: Console) -> Table:
    """Cost and size of the state after more and more examples."""
    table = Table(
        title="one observe + one predict, ms, and numbers in the state, after so many examples"
    )
    table.add_column("architecture")
    for num_seen in NUM_SEEN:
        table.add_column(f"{num_seen:,}", justify="right")
        table.add_column("state", justify="right")
    rows = list(models())
    with Progress(console=console, transient=True) as progress:
        for label, model in progress.track(rows, description="architectures"):
            state, seen, cells = model.init_state(1), 0, []
            for num_seen in NUM_SEEN if is_constant(model) else NUM_SEEN[:-1]:
                state = observe_many(model, state, num_seen - seen, progress)
                seen = num_seen
                cells += [f"{best_ms(model, state):.3f}", f"{numbers_in(state):,}"]
            table.add_row(label, *cells)
    return table


def is_constant(model: Predictor) -> bool:
    """Whether the state stays as large as it is."""
    return model.state_size(NUM_SEEN[-1]) == model.state_size(NUM_SEEN[-2])


def reader(name: str) -> Predictor:
    """A model of the stream of symbols."""
    options = {"tokens": "inputs", "output": SYMBOLS.output, "num_layers": 1}
    known = {key: value for key, value in options.items() if key in model_arguments(name)}
    return zoo.create_model(name, d_x=SYMBOLS.d_x, d_y=SYMBOLS.d_y, **known).eval()


def print_memory(name: str) -> None:
    """Prints microseconds of a symbol, and MiB of this process at each of `MARKS`, as JSON."""
    model, sampler = reader(name), create_sampler(SYMBOLS)
    state, found, start = model.init_state(1), [], time.process_time()
    for block in range(MARKS[-1] // AT_ONCE):
        x, y, _, _ = sampler.sample(1, Generators(0, "test", block, "cpu"))
        model.predict(state, x[:, :1])
        state = model.observe(state, x, y)
        if (block + 1) * AT_ONCE in MARKS:
            found.append(own_mib("now"))
    print(json.dumps([1e6 * (time.process_time() - start) / MARKS[-1], *found]))


def table_of_memory(console: Console) -> Table:
    """Resident memory after more and more symbols."""
    table = Table(title="resident memory, MiB, after so many symbols of word_problem")
    table.add_column("architecture")
    for heading in (*(f"{mark:,}" for mark in MARKS), "us a symbol"):
        table.add_column(heading, justify="right")
    names = [name for name in zoo.list_models() if "tokens" in model_arguments(name)]
    names = [name for name in names if is_constant(reader(name))]
    for name in track(names, "reading symbols", console=console, transient=True):
        us, *mib = json.loads(in_own_process("benchmarks.streaming", name))
        table.add_row(name, *(f"{found:.1f}" for found in mib), f"{us:.1f}")
    return table


@torch.inference_mode()
def main() -> None:
    """Prints both tables, or, in a process of `table_of_memory`, the memory of a model."""
    child = child_of("Times going on with a stream, and measures its memory.", "ARCHITECTURE")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if child:
        print_memory(*child)
        return
    console = Console(width=100)
    console.print(table_of_times(console))
    console.print(table_of_memory(console))


if __name__ == "__main__":
    outlive_readers()
    keep_freed_memory()  # as train.py does
    main()
