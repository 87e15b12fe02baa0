"""What commands print where, and how they end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipesim import api, catalog
from pipesim.schedules import names


def test_run_prints_the_summary(run: Any, config: Path, simulated: list[Any]) -> None:
    assert run("run", config) == (0, "step time 2 s\n", "")


def test_overrides_and_engine_reach_the_simulation(run: Any, config: Path, simulated: list[Any]) -> None:
    run("run", config, "--set", "pipeline.ranks=2", "--set", "schedule=1f1b", "--engine", "compiled")
    (called,) = simulated
    assert (called.ranks, called.schedule.name, called.simulation.engine) == (2, "1f1b", "compiled")


def test_json_on_standard_output_is_alone_there(run: Any, config: Path, simulated: list[Any]) -> None:
    code, out, err = run("run", config, "--json", "-")
    assert (code, json.loads(out)["step_time_s"], err) == (0, 2.0, "step time 2 s\n")


def test_files_are_written(run: Any, config: Path, simulated: list[Any]) -> None:
    here = config.parent
    names_of = {"--json": "a.json", "--gantt": "b.svg", "--trace": "c.json.gz", "--html": "d.html", "--out": "results"}
    code, _, err = run("run", config, *(str(part) for flag, name in names_of.items() for part in (flag, here / name)))
    assert (code, err) == (0, "")
    assert sorted(entry.name for entry in here.iterdir()) == [
        "a.json",
        "b.svg",
        "c.json.gz",
        "config.yaml",
        "d.html",
        "results",
    ]


def test_a_plan_that_does_not_fit_is_printed_and_exits_with_1(run: Any, config: Path, does_not_fit: None) -> None:
    code, out, _ = run("run", config, "--json", config.parent / "a.json")
    assert (code, out) == (1, "step time 2 s\n")
    assert (config.parent / "a.json").exists()


@pytest.mark.parametrize("command", ["run", "show", "validate", "compare"])
def test_bad_configs_exit_with_2_and_say_everything(run: Any, tmp_path: Path, command: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("pipeline: {rank: 4, microbatches: 0}\nschedule: gpip\n")
    code, out, err = run(command, path)
    assert (code, out) == (2, "")
    assert f"{path}: 4 problems in the config" in err
    assert "pipeline.rank: unknown key; found 4; allowed: ranks, microbatches; did you mean ranks?" in err
    assert "schedule: unknown schedule; found 'gpip'" in err


@pytest.mark.parametrize("command", ["run", "show", "validate", "compare"])
def test_missing_configs_name_the_nearest(run: Any, config: Path, command: str) -> None:
    code, out, err = run(command, config.parent / "confg.yaml")
    assert (code, out) == (2, "")
    assert f"no such file; did you mean {config}?" in err


def test_validate_says_what_it_saw(run: Any, config: Path) -> None:
    assert run("validate", config) == (0, f"{config}: ok (abstract form, gpipe, 4 ranks, 8 micro-batches)\n", "")


def test_validate_goes_on_after_a_bad_config(run: Any, config: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("[1]")
    code, out, err = run("validate", bad, config)
    assert (code, out.count("ok"), err.count("not a config")) == (2, 1, 1)


def test_show_prints_the_program(run: Any, config: Path) -> None:
    code, grid, _ = run("show", config, "--set", "pipeline={ranks: 2, microbatches: 2}")
    assert (code, grid) == (0, "0 | 0F0 0F1 0B0 0B1\n1 | 1F0 1F1 1B0 1B1\n")
    code, csv, _ = run("show", config, "--set", "pipeline={ranks: 2, microbatches: 2}", "--format", "csv")
    assert (code, csv) == (0, "0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1B1\n")


def test_show_refuses_what_nobody_would_read(run: Any, config: Path) -> None:
    """Before it is generated, with how the size comes about and what to reduce."""
    code, out, err = run("show", config, "--set", "pipeline={ranks: 4000, microbatches: 8000}")
    assert (code, out) == (2, "")
    assert "4000 stages x 8000 micro-batches x F, I and W = 9.6e+07 ops" in err
    assert "allowed: at most 2e+07 ops: fewer micro-batches" in err


@pytest.mark.parametrize(
    ("flag", "name", "message"),
    [
        ("--json", "nowhere/a.json", "--json: there is no directory"),
        ("--gantt", "nowhere/a.svg", "--gantt: there is no directory"),
        ("--trace", "nowhere/a.json", "--trace: there is no directory"),
        ("--html", "nowhere/a.html", "--html: there is no directory"),
        ("--out", "nowhere/deeper", "--out: there is no directory"),
        ("--json", ".", "is a directory; allowed: a file"),
        ("--json", "config.yaml/a.json", "is not a directory"),
        ("--out", "config.yaml", "is not a directory"),
    ],
)
def test_an_unwritable_place_is_refused_before_simulating(
    run: Any, config: Path, simulated: list[Any], flag: str, name: str, message: str
) -> None:
    code, out, err = run("run", config, flag, config.parent / name)
    assert (code, out, simulated) == (2, "", [])
    assert message in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_refused(run: Any, config: Path, simulated: list[Any]) -> None:
    config.parent.chmod(0o500)
    try:
        code, _, err = run("run", config, "--json", config.parent / "a.json")
    finally:
        config.parent.chmod(0o700)
    assert (code, simulated) == (2, [])
    assert "cannot write into" in err


def test_two_results_in_one_file_are_refused(run: Any, config: Path, simulated: list[Any]) -> None:
    same = config.parent / "same.json"
    code, _, err = run("run", config, "--json", same, "--trace", same)
    assert (code, simulated) == (2, [])
    assert f"both write {same}" in err


@pytest.mark.parametrize(
    "arguments",
    [("run", "--json"), ("compare", "--json"), ("explain", "--json"), ("export", ""), ("calibrate", "--out")],
)
def test_a_config_is_not_overwritten_by_what_comes_of_it(
    run: Any, config: Path, simulated: list[Any], arguments: tuple[str, str]
) -> None:
    command, flag = arguments
    (alias := config.parent / "alias.yaml").symlink_to(config)
    before = config.read_bytes()
    code, out, err = run(command, config, *([flag] if flag else []), alias)
    assert (code, out, simulated, config.read_bytes()) == (2, "", [], before)
    assert "is read as input; it would be overwritten" in err


def test_a_config_in_the_directory_of_the_results_is_not_overwritten(
    run: Any, config: Path, simulated: list[Any]
) -> None:
    """A config may be JSON and be called like a result."""
    (named := config.parent / "result.json").write_bytes(before := config.read_bytes())
    code, out, err = run("run", named, "--out", config.parent)
    assert (code, out, simulated, named.read_bytes()) == (2, "", [], before)
    assert err == f"pipesim: --out: '{named}' is read as input; it would be overwritten\n"


def test_an_empty_directory_name_is_refused(run: Any, config: Path, simulated: list[Any]) -> None:
    code, _, err = run("run", config, "--out", "")
    assert (code, simulated) == (2, [])
    assert "--out: an empty name" in err


def test_a_file_that_fails_half_way_leaves_the_old_one(
    run: Any, config: Path, simulated: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = config.parent / "a.json"
    target.write_text("old")

    def fail(path: Path, text: str, **_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", fail)
    code, _, err = run("run", config, "--json", target)
    assert (code, target.read_text()) == (2, "old")
    assert "No space left on device" in err
    assert sorted(entry.name for entry in config.parent.iterdir()) == ["a.json", "config.yaml"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 2, "not enough memory"),
        (OSError(5, "Input/output error", "x"), 2, "x: Input/output error"),
        (BrokenPipeError(), 141, ""),
        (ZeroDivisionError("division by zero"), 70, "internal error, please report it: ZeroDivisionError"),
        (RecursionError("too deep"), 70, "internal error"),
    ],
)
def test_nothing_ends_in_a_traceback(
    run: Any, config: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("pipesim.cli._discard_output", lambda: None)
    monkeypatch.setattr(api, "simulate", fail)
    found, out, err = run("run", config)
    assert (found, out) == (code, "")
    assert message in err


def test_a_bug_shows_its_traceback_when_asked(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipesim.cli import main

    monkeypatch.setenv("PIPESIM_TRACEBACK", "1")
    monkeypatch.setattr(api, "simulate", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["run", str(config)])


@pytest.mark.parametrize("kind", ["hardware", "models"])
def test_listings_in_a_pipe_are_aligned_lines(run: Any, kind: str) -> None:
    code, out, err = run(kind)
    assert (code, err) == (0, "")
    header, first, *_ = out.splitlines()
    column = header.index("source")
    assert first[column - 1] == " "
    assert first[column] != " "
    assert "\x1b" not in out


def test_schedules_are_listed_with_all_that_one_needs_to_choose(run: Any) -> None:
    code, out, err = run("schedules")
    assert (code, err) == (0, "")
    paragraphs = {text.split(" ")[0].split(":")[0]: text for text in out.split("\n\n")}
    assert list(paragraphs) == names()
    for label in (
        "option    chunks = 2",
        "requires  P <= group_size",
        "bubble    (P-1)",
        "memory    min(2(P-r-1)",
        "source ",
    ):
        assert label in paragraphs["interleaved-1f1b"]


def test_listings_as_json(run: Any) -> None:
    schedules = json.loads(run("schedules", "--json", "-")[1])["schedules"]
    assert [entry["name"] for entry in schedules] == names()
    interleaved = next(entry for entry in schedules if entry["name"] == "interleaved-1f1b")
    assert interleaved["aliases"] == ["depth-first"]
    assert interleaved["options"]["chunks"]["default"] == 2
    assert "2104.04473" in interleaved["source"]
    hardware = json.loads(run("hardware", "--json", "-")[1])
    assert hardware["gpus"]["a100-sxm-80gb"]["memory_bandwidth"] == "2039 GB/s"
    assert all(entry["source"] for entry in [*hardware["gpus"].values(), *hardware["links"].values()])
    assert json.loads(run("models", "--json", "-")[1])["models"]["gpt3-175b"]["layers"] == 96


def test_software_is_listed_with_its_settings(run: Any) -> None:
    code, out, err = run("software")
    assert (code, err) == (0, "")
    paragraphs = {text.split(":")[0]: " ".join(text.split()) for text in out.split("\n\n")}
    assert list(paragraphs) == catalog.names("software")
    assert "training.flash_attention: false" in paragraphs["megatron-lm-2022"]
    assert "simulation.p2p: blocking" in paragraphs["megatron-lm-2022"]
    entries = json.loads(run("software", "--json", "-")[1])["software"]
    assert entries["nemo"]["training"]["tensor_overlap"] == "full"
    assert all(entry["for"] and entry["source"] for entry in entries.values())


def test_schema_is_json(run: Any) -> None:
    code, out, _ = run("schema")
    assert (code, json.loads(out)["title"]) == (0, "pipesim config")
