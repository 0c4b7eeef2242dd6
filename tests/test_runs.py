"""`python -m zoo runs`: what training runs reached, in one table."""

import csv
import io
import json
import re
import shlex
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from omegaconf import OmegaConf
from typer.testing import CliRunner

import zoo
from tests.forks import Forked
from zoo.commands import zoo as cli
from zoo.commands.composing import composed
from zoo.hub.io import save_checkpoint
from zoo.training.rows import rows_of
from zoo.training.runs import read_runs

ROOT = Path(__file__).parents[1]
TINY = [
    *("trainer=cpu", "data.d_x=3", "data.num_context=4", "max_steps=4", "val_every=2"),
    *("eval_episodes=20", "~callbacks.figures", "~callbacks.alignment"),
]
MakeRun = Callable[..., Path]


@cache
def default_config() -> Any:
    return OmegaConf.create({n: v for n, v in composed("train", []).items() if n != "hydra"})


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """`python -m zoo runs` in a terminal of 80 columns: exit code, output, errors."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> tuple[int, str, str]:
        result = CliRunner().invoke(cli.app, ["runs", *map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture
def make_run(tmp_path: Path, card_fields: dict[str, Any]) -> MakeRun:
    """A run directory as train.py leaves it, of a model that was never trained."""

    def make(
        place: str,
        *overrides: str,
        errors: Mapping[int, float] | None = None,
        validation: float | None = None,
        rates: Mapping[str, Mapping[str, float]] | None = None,
        summary: Mapping[str, Any] | None = None,
    ) -> Path:
        directory = tmp_path / "runs" / place
        directory.mkdir(parents=True)
        config: Any = OmegaConf.merge(default_config(), OmegaConf.from_dotlist([*overrides]))
        OmegaConf.save(config, directory / "config.yaml")
        (directory / "command.json").write_text('[["python train.py", 1500]]')
        config = OmegaConf.to_container(config)
        if validation is not None:
            (directory / "csv" / "version_0").mkdir(parents=True)
            rows = f"step,val/half_mse_query\n10,9.0\n20,{validation}\n"
            (directory / "csv" / "version_0" / "metrics.csv").write_text(rows)
        if errors is None:
            return directory
        kept = min(rates, key=lambda r: mean(rates[r].values())) if rates else None
        several = {"best_rate": kept, "rates": rates, "lost": {}} if rates else {}
        for seed, error in errors.items():
            at = directory / f"seed_{seed}" if config["seeds"] > 1 else directory
            optimizer = config["optim"] | ({"lr": float(kept)} if kept else {})
            model = zoo.create_model("gd_ssm", d_x=3, d_y=3)
            training = card_fields["training"] | {"optimizer": optimizer, "seed": seed}
            save_checkpoint(at / "checkpoint", model, card_fields | {"training": training})
            content = {"num_episodes": config["test_episodes"] or 10_000, **several}
            tested = {
                "test/half_mse_query": {"value": error, "tail_share": 0.01},
                "test/ratio_to_gradient_descent": {"value": 2 * error},
                "test/ratio_to_zero": {"value": 3 * error},
            }
            (at / "metrics.json").write_text(json.dumps(content | {"model": tested}))
        if config["seeds"] > 1:
            content = {"seeds": list(range(config["seeds"])), **several, **(summary or {})}
            (directory / "metrics.json").write_text(json.dumps(content))
        return directory

    return make


def test_two_architectures_three_seeds_four_rates_are_one_table_by_two_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    readme = (ROOT / "README.md").read_text()
    train, show = re.findall(
        r"^python (?:.*hydra.sweep.dir=runs/two|-m zoo runs .*)$", readme, re.M
    )
    assert train.count("0.0") == 4
    place = str(tmp_path / "two")
    for line, more in ((train, TINY), (show, [])):
        words = shlex.split(line.replace("runs/two", place))[1:]
        done = Forked([*words, *more], ROOT)
        output = done.communicate(timeout=300)
        assert done.returncode == 0, output
    rows = [line.split() for line in output.splitlines() if re.match(r"(gd|linear)_", line)]
    assert sorted(row[0] for row in rows) == ["gd_ssm", "linear_transformer"]
    for run in read_runs(tmp_path / "two"):
        kept = json.loads((run.directory / "metrics.json").read_text())
        (row,) = rows_of([run])
        assert row.rate[0] == pytest.approx(kept["best_rate"])
        assert len(row.tried) == 4
        assert row.over_seeds("test/half_mse_query") == pytest.approx(
            (
                kept["metrics"]["test/half_mse_query"]["mean"],
                kept["metrics"]["test/half_mse_query"]["ci95"],
            )
        )


def test_rates_of_a_multirun_are_chosen_by_validation_and_not_averaged(make_run: MakeRun) -> None:
    # The best in the test has not the best error in validation.
    for number, (lr, validation, error) in enumerate(
        [(0.1, 5.0, 0.1), (0.01, 3.0, 0.4), (0.001, 4.0, 0.2)]
    ):
        for seed in (0, 1):
            make_run(
                f"{number}{seed}",
                f"optim.lr={lr}",
                f"seed={seed}",
                errors={seed: error + seed / 10},
                validation=validation,
            )
    (row,) = rows_of(read_runs(make_run("unfinished").parent))
    assert (row.rate[0], len(row.tried), row.validation) == (0.01, 3, 3.0)
    value, ci95 = row.over_seeds("test/half_mse_query")
    assert value == pytest.approx((0.4 + 0.5) / 2)
    assert ci95 == pytest.approx(12.706 * 0.1 / 2)
    assert row.over_seeds(row.ratio)[0] == pytest.approx(2 * value)
    assert row.reference == "gradient_descent"


def test_a_multirun_and_stacked_rates_choose_alike(make_run: MakeRun) -> None:
    stacked = {"0.1": {"0": 3.0, "1": 5.0}, "0.01": {"0": 3.5, "1": 3.5}}
    lists = ("optim.lr=[0.1,0.01]", "seeds=2")
    place = make_run("a/stacked", *lists, errors={0: 0.3, 1: 0.4}, rates=stacked).parent
    for lr, found in stacked.items():
        for seed, validation in found.items():
            words = (f"optim.lr={lr}", f"seed={seed}")
            error = {int(seed): 0.3 + int(seed) / 10 if lr == "0.01" else 9.0}
            make_run(f"b/{lr}-{seed}", *words, errors=error, validation=validation)
    (one,) = rows_of(read_runs(place))
    (two,) = rows_of(read_runs(place.parent / "b"))
    assert one.rate == two.rate
    assert one.tried == two.tried
    assert one.values("test/half_mse_query") == two.values("test/half_mse_query")
    assert one.validation == two.validation == 3.5


def test_a_rate_that_lost_seeds_is_not_the_best_and_is_named_below(
    make_run: MakeRun, table: Callable[..., tuple[int, str, str]]
) -> None:
    make_run("0", "optim.lr=0.1", errors={0: 0.1}, validation=1.0)
    make_run("1", "optim.lr=0.01", errors={0: 0.2}, validation=2.0)
    place = make_run("2", "optim.lr=0.01", "seed=1", errors={1: 0.2}, validation=2.0)
    lost = make_run("3", "optim.lr=0.1", "seed=1")
    (lost / "failure.txt").write_text("optimizer step 3: loss nan\n")
    (row,) = rows_of(read_runs(place.parent))
    assert (row.rate[0], len(row.trials)) == (0.01, 2)
    note = "fewer seeds, smaller error: gd_ssm at 0.1, 1 to 2 in validation, 1 of 2 seeds"
    assert note in table(place.parent)[1].splitlines()
    make_run("4", "optim.lr=0.1", "seed=1", errors={1: 0.1}, validation=1.0)
    assert "fewer seeds" not in table(place.parent)[1]


def test_rates_whose_validation_was_not_noted_are_shown_apart_and_others_chosen(
    make_run: MakeRun, table: Callable[..., tuple[int, str, str]]
) -> None:
    for number, lr in enumerate((0.1, 0.01)):
        make_run(f"a{number}", f"optim.lr={lr}", errors={0: lr}, validation=None if number else 1)
        noisy = (f"optim.lr={lr}", "data.noise=0.5")
        place = make_run(f"b{number}", *noisy, errors={0: 0.2}, validation=2.0 - lr).parent
    rows = rows_of(read_runs(place))
    found = [(row.settings, row.rate[0], len(row.tried)) for row in rows]
    assert found == [
        ({"data.noise": 0.0, "optim.lr": 0.01}, 0.01, 1),
        ({"data.noise": 0.0, "optim.lr": 0.1}, 0.1, 1),
        ({"data.noise": 0.5}, 0.1, 2),
    ]
    code, output, _ = table(place)
    assert code == 0
    assert len(re.findall(r"^each rate a row: \S*a1 has no validation errors", output, re.M)) == 1


def test_runs_in_which_a_study_tried_rates_are_no_rows_and_their_rates_count_as_tried(
    make_run: MakeRun, table: Callable[..., tuple[int, str, str]]
) -> None:
    tried = {"0.1": {"1000": 9.0}, "0.01": {"1000": 1.0}, "0.001": {"1000": 2.0}}
    words = ("optim.lr=[0.1,0.01,0.001]", "seed=1000", "max_steps=7", "test_episodes=100")
    trial = make_run("noisy-rates-0123abcd/seed_1000", *words, errors={1000: 0.1}, rates=tried)
    make_run("noisy-0123abcd", "optim.lr=0.01", errors={0: 0.2}, validation=1.0)
    other = ("optim.lr=0.03", "data.noise=0.5")
    place = make_run("other-0123abcd", *other, errors={0: 0.3}, validation=1.0).parent
    code, output, _ = table(place)
    assert code == 0
    assert output.count("gd_ssm") == 2
    assert "0.01 of 3" in " ".join(output.split())
    assert "0.03 of" not in output
    assert re.search(r"^left out: 1 shorter runs in \*-rates-\*", output, re.M)
    assert [row["rates_tried"] for row in json.loads(table(place, "--json")[1])["rows"]] == [
        [[0.001, 0.001], [0.01, 0.001], [0.1, 0.001]],
        [[0.03, 0.001]],
    ]
    assert "rate chosen by the seeds shown" not in output
    for alone in (trial, trial.parent):
        assert "left out" not in (shown := table(alone)[1])
        assert "100 test episodes" in shown


def test_a_rate_that_seeds_chose_where_a_study_had_trials_is_named_below(
    make_run: MakeRun, table: Callable[..., tuple[int, str, str]]
) -> None:
    # Short of the trial at 0.01, so the study trained at 0.001 too and shows that.
    tried = {"0.01": {"1000": 1.0}, "0.001": {"1000": 2.0}}
    words = ("optim.lr=[0.01,0.001]", "seed=1000", "max_steps=7", "test_episodes=100")
    make_run("two-rates-0123abcd/seed_1000", *words, errors={1000: 0.1}, rates=tried)
    make_run("two-0123abcd", "optim.lr=0.01", errors={0: 0.2}, validation=2.5)
    place = make_run("two-4567abcd", "optim.lr=0.001", errors={0: 0.3}, validation=2.6).parent
    lines = [line for line in table(place)[1].splitlines() if line.startswith("rate chosen")]
    assert lines == [
        "rate chosen by the seeds shown: gd_ssm at 0.01, not at 0.001; the study goes by its "
        "trials and may show another"
    ]
    assert "rate chosen" not in table(place, "--by", "optim.lr")[1]


def test_of_rates_that_were_not_kept_what_is_unknown_stays_empty(
    make_run: MakeRun, table: Callable[..., tuple[int, str, str]]
) -> None:
    stacked = {"0.1": {"0": 3.0}, "0.01": {"0": 3.5}}
    place = make_run("a", "optim.lr=[0.1,0.01]", errors={0: 0.3}, rates=stacked)
    by = (place, "--by", "optim.lr")
    rows = {row["lr"]: row for row in json.loads(table(*by, "--json")[1])["rows"]}
    unknown = ("num_parameters", "seconds", "test_episodes")
    assert [rows[0.01][name] for name in unknown] == [None, None, None]
    assert all(rows[0.1][name] for name in unknown)
    lines = list(csv.DictReader(table(*by, "--csv")[1].splitlines()))
    (other,) = (line for line in lines if line["lr"] == "0.01")
    assert {other["parameters"], other["seconds"], other["test_episodes"]} == {""}
    (line,) = (row for row in table(*by, "--markdown")[1].splitlines() if "| 0.01 |" in row)
    assert " 0 |" not in line


def test_rows_say_how_many_episodes_they_were_tested_on(
    make_run: MakeRun, table: Callable[..., tuple[int, str, str]]
) -> None:
    place = make_run("0", errors={0: 0.1}).parent
    assert table(place)[1].splitlines()[1].strip() == "10,000 test episodes"
    make_run("1", "data.noise=0.5", "test_episodes=100", errors={0: 0.2})
    lines = [line.strip() for line in table(place)[1].splitlines()]
    assert len([line for line in lines if line in ("tested on 10,000", "tested on 100")]) == 2
    assert [line.split(" | ")[-1] for line in table(place, "--markdown")[1].splitlines()[2:]] == [
        "10,000 |",
        "100 |",
    ]


def test_settings_that_differ_make_rows_and_those_of_other_kinds_do_not(
    make_run: MakeRun, table: Callable[..., tuple[int, str, str]]
) -> None:
    make_run("0", "data.noise=0.5", "val_every=7", errors={0: 0.1})
    make_run("1", "data.noise=0.5", "seed=1", "checkpoint_tag=a", errors={1: 0.2})
    place = make_run("deep/2", "data.noise=0.1", "max_steps=7", errors={0: 0.3}).parents[1]
    runs = read_runs(place)
    rows = rows_of(runs)
    assert [(row.settings, len(row.trials)) for row in rows] == [
        ({"data.noise": 0.1}, 1),
        ({"data.noise": 0.5}, 2),
    ]
    by_steps = rows_of(runs, "max_steps")
    assert [row.settings["max_steps"] for row in by_steps] == [7, 1500]
    code, _, errors = table(place, "--by", "noise")
    assert code == 1
    assert errors.startswith("error: unknown setting 'noise'. Did you mean 'data.noise'")


def test_of_settings_that_go_together_the_telling_one_is_shown(make_run: MakeRun) -> None:
    make_run("0", "data.d_x=5", "data.noise=0.5", "max_steps=7", errors={0: 0.1})
    place = make_run("1", "model.decay=none", "positions=all", errors={0: 0.2}).parent
    rows = rows_of(read_runs(place))
    assert [row.settings["data.noise"] for row in rows] == [0.0, 0.5]
    assert not any("data.d_x" in row.settings or "positions" in row.settings for row in rows)


def test_what_is_not_in_the_table_is_named_below_with_what_goes_on(
    make_run: MakeRun, table: Callable[..., tuple[int, str, str]]
) -> None:
    make_run("0", errors={0: 0.1})
    stopped = make_run("1", "seed=1", validation=1.0)
    (stopped / "checkpoints").mkdir()
    (stopped / "checkpoints" / "last.ckpt").touch()
    lost = make_run("2", "seed=2")
    (lost / "failure.txt").write_text("optimizer step 3: loss nan\n")
    summary = {"diverged": [1], "diverged_causes": {"1": "optimizer step 9: loss inf"}}
    place = make_run("3", "seeds=3", "data.noise=0.1", errors={0: 0.1, 2: 0.3}, summary=summary)
    code, output, _ = table(place.parent)
    assert code == 0
    resume = re.findall(
        r"^  python (train.py resume=\S+)  # logged up to step 20 of 1500$", output, re.M
    )
    assert [Path(r.partition("=")[2]).resolve() for r in resume] == [stopped.resolve()]
    assert re.search(r"^diverged: \S*runs/2: optimizer step 3: loss nan$", output, re.M)
    assert re.search(r"^diverged: \S*runs/3 seed_1: optimizer step 9: loss inf$", output, re.M)
    found = json.loads(table(place.parent, "--json")[1])
    assert found["unfinished"] == [str(stopped)]
    assert found["diverged"][str(place)] == {"seed_1": "optimizer step 9: loss inf"}


def test_where_nothing_is_finished_there_is_no_table(
    make_run: MakeRun, table: Callable[..., tuple[int, str, str]]
) -> None:
    place = make_run("0", validation=1.0)  # logged, and killed before anything was saved
    code, output, _ = table(place)
    assert code == 0
    first, resume = output.splitlines()
    assert first == "not finished: 1 of 1 runs; if none trains, go on with"
    assert resume.endswith("  # from step 0 of 1500")


DAMAGED: dict[str, tuple[str, str | bytes | None]] = {
    "metrics cut off": ("metrics.json", '{"model": '),
    "metrics of nothing": ("metrics.json", "{}"),
    "metrics without numbers": ("metrics.json", '{"num_episodes": 9, "model": {}}'),
    "rates that were not trained": (
        "metrics.json",
        '{"num_episodes": 9, "model": {"test/half_mse_query": {"value": 1.0}}, '
        '"rates": {"0.003": {"1": 0.5}, "7": {"1": 0.5}}}',
    ),
    "numbers that are none": (
        "metrics.json",
        '{"num_episodes": 9, "model": {"test/half_mse_query": {"value": NaN}}}',
    ),
    "no configuration": ("config.yaml", None),
    "a log of other bytes": ("csv/version_0/metrics.csv", b"step\n\xff\xfe"),
    "a log of no steps": ("csv/version_0/metrics.csv", "step\nabc\n"),
    "a log that is a directory": ("csv/version_0/metrics.csv/x", ""),
    "metrics that are a list": ("metrics.json", "[]"),
    "card cut off": ("checkpoint/card.json", "{"),
    "configuration cut off": ("config.yaml", "model: {"),
    "configuration of nothing": ("config.yaml", "{}"),
}


SAID = {"metrics without numbers": "no number", "rates that were not trained": "unknown rate '7'"}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_run_is_named_and_the_others_are_shown(
    name: str, make_run: MakeRun, table: Callable[..., tuple[int, str, str]]
) -> None:
    place = make_run("0", errors={0: 0.25}).parent
    damaged = make_run("1", "seed=1", errors={1: 0.5})
    file, content = DAMAGED[name]
    (damaged / file).unlink(missing_ok=True)
    if content is not None:
        (damaged / file).parent.mkdir(parents=True, exist_ok=True)
        (damaged / file).write_bytes(content.encode() if isinstance(content, str) else content)
    code, output, _ = table(place)
    assert code == 0
    said = re.search(r"^damaged: \S*runs/1: (.*); none of it is in the table$", output, re.M)
    assert said is not None
    assert file.removesuffix("/x") in said[1] or name in SAID
    assert SAID.get(name, "") in said[1]
    found = json.loads(table(place, "--json")[1])
    assert list(found["damaged"]) == [str(damaged)]
    assert not found["unfinished"]
    (row,) = found["rows"]
    assert row["seeds"] == [0]
    assert "damaged: " in table(place, "--csv")[2]
    code, output, errors = table(damaged)  # nothing else is there to show
    assert (code, output) == (1, "")
    assert errors.startswith("error: ")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("seed=1", "has seed 0, in a run of 1"),
        ("model.name=mamba", "has architecture gd_ssm, in a run of mamba"),
        ("seed=${oc.env:TASK}", ""),  # what that was is not known
    ],
)
def test_a_checkpoint_of_another_run_is_damage(setting: str, said: str, make_run: MakeRun) -> None:
    place = make_run("0", errors={0: 0.25}).parent
    make_run("1", setting, errors={0: 0.5})
    damage = read_runs(place)[1].damage
    assert damage.endswith(f"/1/checkpoint {said}") if said else not damage


def test_of_several_seeds_the_damaged_file_is_named(make_run: MakeRun) -> None:
    place = make_run("0", errors={0: 0.25}).parent
    stacked = make_run("1", "seeds=2", errors={0: 0.25, 1: 0.5})
    (stacked / "seed_1" / "metrics.json").write_text("{}")
    assert "1/seed_1/metrics.json is not what a run leaves: " in read_runs(place)[1].damage


def test_a_run_without_rights_is_named_and_the_others_are_shown(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, closed = make_run("0", errors={0: 0.25}).parent, make_run("1", "seed=1")
    plain_exists = Path.exists

    def exists(path: Path) -> bool:  # the tests may be run by root, who has all rights
        if path.parent == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return plain_exists(path)

    monkeypatch.setattr(Path, "exists", exists)
    (closed / "config.yaml").unlink()
    runs = read_runs(place)
    assert [bool(run.damage) for run in runs] == [False, True]


def test_a_later_run_of_the_same_seed_counts_and_the_other_is_named(
    make_run: MakeRun, table: Callable[..., tuple[int, str, str]]
) -> None:
    make_run("0", errors={0: 0.1})
    place = make_run("1", errors={0: 0.3}).parent
    (row,) = rows_of(read_runs(place))
    assert row.values("test/half_mse_query") == {0: 0.3}
    assert re.search(r"^left out: \S*runs/0, a later run", table(place)[1], re.M)


def test_seeds_that_scatter_are_shown_from_the_lowest_to_the_highest(
    make_run: MakeRun, table: Callable[..., tuple[int, str, str]]
) -> None:
    place = make_run("0", "seeds=3", errors={0: 0.222, 1: 0.666, 2: 0.646})
    line = table(place, "--markdown")[1].splitlines()[2]
    assert "| 0.51 (seeds 0.22 to 0.67) | 1 (seeds 0.44 to 1.3) (gradient_descent) |" in line
    metrics = place / "seed_1" / "metrics.json"
    metrics.write_text(metrics.read_text().replace('"tail_share": 0.01', '"tail_share": 0.5'))
    assert "| 0.51 (heavy tail, seeds 0.22 to 0.67) |" in table(place, "--markdown")[1]


@pytest.mark.parametrize("errors", [{0: 0.1234, 1: 0.1333}, {0: 0.1234, 1: 0.6333}])
def test_names_are_whole_at_80_columns(
    errors: dict[int, float], make_run: MakeRun, table: Callable[..., tuple[int, str, str]]
) -> None:
    for number, schedule in enumerate(("decay", "constant_then_decay")):
        words = (f"optim.schedule={schedule}", f"data.noise={number}", "seeds=2")
        rates = {f"{lr}": {"0": lr, "1": lr} for lr in (0.00011, 0.00033)}
        place = make_run(
            str(number),
            *words,
            "optim.lr=[0.00011,0.00033]",
            errors=errors,
            rates=rates,
        )
    _, output, _ = table(place.parent, "--by", "optim.schedule")
    lines = [line.rstrip() for line in output.splitlines()]
    assert max(map(len, lines)) <= 80
    assert re.search(r"^  schedule=constant_then_decay( |$)", output, re.M)
    assert len([line for line in lines if line.startswith("gd_ssm ")]) == 2
    assert "0.00011*" in output


def test_files_hold_the_rows_of_the_table(
    make_run: MakeRun, table: Callable[..., tuple[int, str, str]]
) -> None:
    place = make_run("0", "data.noise=0.5", errors={0: 0.25}).parent
    make_run("1", "data.noise=0.1", "seeds=2", errors={0: 0.5, 1: 0.75})
    one, two = csv.DictReader(io.StringIO(table(place, "--csv")[1]))
    assert (one["data.noise"], one["mean"], one["ratio"], one["seeds"]) == (
        *("0.1", "0.625", "1.25"),
        "2",
    )
    assert (two["data.noise"], two["mean"], two["ci95"]) == ("0.5", "0.25", "")
    lines = table(place, "--markdown")[1].splitlines()
    assert [line.count("|") for line in lines] == [lines[0].count("|")] * 4
    assert "0.5 (gradient_descent)" in lines[3]
    rows = json.loads(table(place, "--json")[1])["rows"]
    assert rows[0]["numbers"]["test/ratio_to_zero"]["values"] == {"0": 1.5, "1": 2.25}
    assert table(place, "--json", "--csv")[0] == 1


def test_files_have_no_interval_where_a_tail_is_heavy_and_say_what_it_carries(
    make_run: MakeRun, table: Callable[..., tuple[int, str, str]]
) -> None:
    place = make_run("0", "seeds=2", errors={0: 0.5, 1: 0.75})

    def found() -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        (row,) = csv.DictReader(io.StringIO(table(place, "--csv")[1]))
        return row, json.loads(table(place, "--json")[1])["rows"][0]["numbers"]

    row, numbers = found()
    assert (row["ci95"] != "", row["worst_share"]) == (True, "0.01")
    assert (row["ratio_ci95"] != "", row["ratio_worst_share"]) == (True, "")
    metrics = place / "seed_1" / "metrics.json"
    metrics.write_text(metrics.read_text().replace('"tail_share": 0.01', '"tail_share": 0.5'))
    row, numbers = found()
    assert (row["mean"], row["ci95"], row["worst_share"]) == ("0.625", "", "0.5")
    assert row["ratio_ci95"] != ""
    assert numbers["test/half_mse_query"]["ci95"] is None
    assert numbers["test/half_mse_query"]["worst_share"] == 0.5
    assert numbers["test/ratio_to_zero"]["ci95"] is not None


def test_a_run_by_itself_is_a_table_of_one_row(make_run: MakeRun) -> None:
    place = make_run("0", "seeds=2", errors={0: 0.5, 1: 0.75})
    (row,) = rows_of(read_runs(place))
    assert row.values("test/half_mse_query") == {0: 0.5, 1: 0.75}


def test_a_directory_without_runs_is_one_line(
    table: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, output, errors = table(tmp_path)
    assert (code, output) == (1, "")
    assert errors == (f"error: no run in {tmp_path}: none of its directories has a config.yaml\n")
