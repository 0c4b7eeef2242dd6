"""Algorithms for sequences of symbols, and look-ups, against slow plain Python."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

import zoo
from zoo.metrics.classification import cross_entropy
from zoo.predictor import Predictor
from zoo.solvers.ngrams import FittedNgrams
from zoo.solvers.solver import solver_of

SYMBOL_SOLVERS = [name for name in zoo.list_solvers() if not solver_of(name).reads_labels]


def drawn(num_symbols: int, length: int, batch: int = 5, seed: int = 0) -> Tensor:
    """Random symbols, (batch, length)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(num_symbols, (batch, length), generator=generator)


def logits_of(solver: Predictor, symbols: Tensor) -> Tensor:
    """Its predictions for one-hot inputs and hidden labels."""
    x = one_hot(symbols, solver.d_x).double()
    return solver(x, x.new_zeros(*symbols.shape, solver.d_y))


def classes_of(logits: Tensor) -> list[int | None]:
    """The class that is known at each position of one episode; None where all are as likely."""
    found: list[int | None] = []
    for row in logits.tolist():
        known = [k for k, value in enumerate(row) if value != 0]
        assert all(row[k] == 30 for k in known)
        assert len(known) <= 1
        found.append(known[0] if known else None)
    return found


def test_the_logits_of_what_is_known_are_finite_and_cost_nothing() -> None:
    permutations = list(itertools.permutations(range(3)))
    table = [
        [permutations.index(tuple(a[i] for i in b)) for b in permutations] for a in permutations
    ]
    solver = zoo.create_solver("group_table", d_x=6, d_y=6, table=table, elements=range(6))
    symbols = drawn(6, 20)
    logits = logits_of(solver, symbols)
    target = one_hot(logits.argmax(-1), 6).double()
    for dtype in (torch.float32, torch.float64):
        entropy = cross_entropy(logits.to(dtype), target.to(dtype))
        assert entropy.isfinite().all()
        assert entropy.max() < 1e-12
    assert logits.isfinite().all()


def test_a_guess_costs_the_logarithm_of_the_number_of_classes() -> None:
    logits = logits_of(zoo.create_solver("uniform", d_x=3, d_y=7), drawn(3, 4))
    entropy = cross_entropy(logits, one_hot(torch.zeros(5, 4, dtype=torch.int64), 7).double())
    torch.testing.assert_close(entropy, torch.full_like(entropy, math.log(7)))


@pytest.mark.parametrize("name", SYMBOL_SOLVERS)
def test_labels_are_never_read(name: str) -> None:
    solver = zoo.create_solver(name, d_x=4, d_y=3, **solver_of(name).example(4, 3))
    x = one_hot(drawn(4, 9), 4).double()
    zero = x.new_zeros(5, 9, 3)
    assert torch.equal(solver(x, zero), solver(x, torch.randn_like(zero)))


def test_a_dictionary_answers_with_the_latest_label_of_the_key() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(6, 3, generator=generator)
    places = drawn(6, 30, batch=4)
    x, y = keys[places], torch.randn(4, 30, 2, generator=generator)
    prediction = zoo.create_solver("dictionary", d_x=3, d_y=2)(x, y)
    for b in range(4):
        told: dict[int, Tensor] = {}
        for i in range(30):
            key = places[b, i].item()
            if key in told:
                assert torch.equal(prediction[b, i], told[key])
            told[key] = y[b, i]


def test_a_dictionary_without_the_key_answers_with_that_of_the_nearest() -> None:
    x = torch.tensor([[[0.0], [1.0], [0.0], [0.45], [0.55], [9.0]]])
    y = torch.tensor([[[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]]])
    prediction = zoo.create_solver("dictionary", d_x=1, d_y=1)(x, y)
    assert prediction.flatten().tolist() == [0, 1, 1, 3, 4, 2]


def group(elements: list[tuple[int, ...]]) -> list[list[int]]:
    """The table of permutations: a b is b first, then a."""
    return [[elements.index(tuple(a[i] for i in b)) for b in elements] for a in elements]


def even(permutation: tuple[int, ...]) -> bool:
    pairs = itertools.combinations(permutation, 2)
    return sum(a > b for a, b in pairs) % 2 == 0


GROUPS = {
    "Z2": [(0, 1), (1, 0)],
    "S3": list(itertools.permutations(range(3))),
    "A5": [p for p in itertools.permutations(range(5)) if even(p)],
    "S5": list(itertools.permutations(range(5))),
}


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("with_start", [False, True])
def test_the_group_table_multiplies_permutations(name: str, with_start: bool) -> None:
    elements = GROUPS[name]
    size, width = len(elements), len(elements[0])
    identity = tuple(range(width))
    of_symbols = [*range(size), elements.index(identity)] if with_start else range(size)
    solver = zoo.create_solver(
        "group_table", d_x=len(of_symbols), d_y=size, table=group(elements), elements=of_symbols
    )
    symbols = drawn(size, 25)
    if with_start:
        symbols[:, 0] = size
    logits = logits_of(solver, symbols)
    assert solver.state_size(1000) == 1
    for b in range(len(symbols)):
        product, expected = identity, list[int]()
        for s in symbols[b].tolist():
            if s < size:
                product = tuple(product[i] for i in elements[s])
            expected.append(elements.index(product))
        assert classes_of(logits[b]) == expected


def test_a_table_that_is_none_of_a_group_is_refused() -> None:
    for table, elements, text in (
        ([[0, 1], [1, 1]], [0, 1], "each in every row"),
        ([[1, 0], [0, 1]], [0, 1], None),  # the other way round: 1 is neutral
        ([[0, 1], [0, 1]], [0, 1], "one of them neutral"),
        ([[0, 1]], [0, 1], "got 1 rows"),
        ([[0, 1], [1, 0]], [0, 2], "numbers below 2"),
        ([[0, 1], [1, 0]], [0], "one for each symbol"),
    ):
        if text is None:
            zoo.create_solver("group_table", d_x=2, d_y=2, table=table, elements=elements)
        else:
            with pytest.raises(ValueError, match=text):
                zoo.create_solver("group_table", d_x=2, d_y=2, table=table, elements=elements)


def test_a_lookup_finds_what_came_after_the_latest_occurrence() -> None:
    solver = zoo.create_solver("symbol_lookup", d_x=7, d_y=5)
    symbols = drawn(7, 40)
    logits = logits_of(solver, symbols)
    for b in range(len(symbols)):
        row, expected = symbols[b].tolist(), list[int | None]()
        for i in range(40):
            places = [j for j in range(i) if row[j] == row[i]]
            found = row[places[-1] + 1] if places else None
            expected.append(None if found is None or found >= 5 else found)
        assert classes_of(logits[b]) == expected


def test_a_copy_gives_the_kept_symbols_in_their_order() -> None:
    solver = zoo.create_solver("symbol_copy", d_x=7, d_y=7, copied=[0, 1, 2], asked=[5])
    symbols = drawn(7, 60)
    logits = logits_of(solver, symbols)
    for b in range(len(symbols)):
        kept, num_asked = list[int](), 0
        expected: list[int | None] = []
        for s in symbols[b].tolist():
            if s in (0, 1, 2):
                kept.append(s)
            num_asked += s == 5
            expected.append(kept[num_asked - 1] if s == 5 and num_asked <= len(kept) else None)
        assert classes_of(logits[b]) == expected


def witten_bell(text: Sequence[int], context: Sequence[int], num_symbols: int) -> list[float]:
    """p of each symbol after the context, from counts in the text."""
    if context:
        shorter = witten_bell(text, context[1:], num_symbols)
    else:
        shorter = [1 / num_symbols] * num_symbols
    k = len(context)
    windows = [tuple(text[j - k : j + 1]) for j in range(k, len(text))]
    counts = Counter(window[-1] for window in windows if window[:-1] == tuple(context))
    num, kinds = sum(counts.values()), len(counts)
    if num == 0:
        return shorter
    return [(counts[s] + kinds * shorter[s]) / (num + kinds) for s in range(num_symbols)]


@pytest.mark.parametrize("order", [1, 2, 4])
def test_ngrams_in_the_context_are_those_counted_one_by_one(order: int) -> None:
    solver = zoo.create_solver("context_ngrams", d_x=3, d_y=3, order=order)
    symbols = drawn(3, 30)
    logits = logits_of(solver, symbols)
    for b, row in enumerate(symbols.tolist()):
        for i in range(30):
            seen = row[: i + 1]
            p = witten_bell(seen, seen[len(seen) - min(order - 1, len(seen)) :], 3)
            torch.testing.assert_close(logits[b, i].exp(), torch.tensor(p, dtype=torch.float64))


@pytest.mark.parametrize("order", [1, 2, 4, 9])
def test_fitted_ngram_are_those_counted_one_by_one(order: int) -> None:
    text = drawn(3, 60, batch=1, seed=1)[0].tolist()
    solver = zoo.create_solver("fitted_ngrams", d_x=3, d_y=3, text=text, order=order)
    symbols = drawn(3, 20)
    logits = logits_of(solver, symbols)
    for b, row in enumerate(symbols.tolist()):
        for i in range(20):
            seen = row[: i + 1]
            p = witten_bell(text, seen[len(seen) - min(order - 1, len(seen)) :], 3)
            expected = torch.tensor(p, dtype=torch.float64)
            torch.testing.assert_close(logits[b, i].exp(), expected, rtol=1e-5, atol=1e-6)


def test_a_symbol_that_is_no_class_is_never_expected() -> None:
    for name, arguments in (
        ("context_ngrams", {}),
        ("fitted_ngrams", {"text": [0, 4, 0, 4, 1]}),
    ):
        logits = logits_of(zoo.create_solver(name, d_x=5, d_y=2, **arguments), drawn(5, 30))
        assert logits.shape == (5, 30, 2)
        assert logits.isfinite().all()


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ValueError, match="symbols below 3, got 3"):
        zoo.create_solver("fitted_ngrams", d_x=3, d_y=3, text=[0, 3])
    with pytest.raises(ValueError, match="order must be lower for 256 symbols"):
        zoo.create_solver("fitted_ngrams", d_x=256, d_y=256, text=[0], order=9)
    with pytest.raises(ValueError, match="tokens must be 2 of 0 1 2"):
        zoo.create_solver("list_ops_parser", d_x=2, d_y=10, tokens=["1", "(MAX"])


TOKENS = ["pad", *map(str, range(10)), "[MIN", "[MAX", "[MED", "[SM", "]"]
OPERATIONS: dict[str, Any] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda operands: int(median(operands)),
    "[SM": lambda operands: sum(operands) % 10,
}


def expression(generator: torch.Generator, depth: int) -> list[str]:
    """A random expression."""

    def draw(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    if depth == 0 or draw(3) == 0:
        return [str(draw(10))]
    operands = [expression(generator, depth - 1) for _ in range(1 + draw(4))]
    name = list(OPERATIONS)[draw(4)]
    return [name, *(token for operand in operands for token in operand), "]"]


def value_of(tokens: list[str]) -> int:
    """By recursion, which takes the tokens from the front."""
    token = tokens.pop(0)
    if token.isdigit():
        return int(token)
    operands = list[int]()
    while tokens[0] != "]":
        operands.append(value_of(tokens))
    tokens.pop(0)
    value: int = OPERATIONS[token](operands)
    return value


def test_the_parser_has_the_value_of_each_expression_where_it_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    solver = zoo.create_solver("list_ops_parser", d_x=len(TOKENS), d_y=10, tokens=TOKENS)
    lengths = set()
    for _ in range(200):
        tokens = expression(generator, 4)
        lengths.add(len(tokens))
        padded = ["pad"] * 3 + tokens
        logits = logits_of(solver, torch.tensor([[TOKENS.index(t) for t in padded]]))
        *before, last = classes_of(logits[0])
        assert before == [None] * len(before)
        assert last == value_of(tokens)
    assert max(lengths) > 50


def test_brackets_that_do_not_match_have_no_value() -> None:
    solver = zoo.create_solver("list_ops_parser", d_x=len(TOKENS), d_y=10, tokens=TOKENS)
    for tokens in (["]"], ["[MAX", "]"], ["[MAX", "1"], ["[MAX", "1", "]", "]", "2"]):
        logits = logits_of(solver, torch.tensor([[TOKENS.index(t) for t in tokens]]))
        assert classes_of(logits[0])[-1] is None


def test_counting_a_text_keeps_what_is_in_it_and_no_row_of_all_symbols() -> None:
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(256, (5000,), generator=generator)
    solver = zoo.create_solver("fitted_ngrams", d_x=256, d_y=256, text=text.tolist())
    assert isinstance(solver, FittedNgrams)
    x = torch.eye(256)[text[None, :50]]
    assert solver(x, torch.zeros_like(x)).isfinite().all()
    numbers = sum(part.numel() for followers in solver._followers for part in followers)
    assert numbers < 20 * len(text)
