"""A user's own schedule: by decorator, by file, by entry point; mistakes in it are said clearly."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from replay import replay

from pipesim.config import load_config
from pipesim.errors import ConfigError, ProgramError, ScheduleError
from pipesim.ir.placement import vee
from pipesim.schedules import Setting, create, get, names, registry, schedule

ALL_FORWARDS_FIRST = '''
from pipesim.schedules import schedule

@schedule("{name}", citation="nowhere")
def my_gpipe(rank, ranks, microbatches):
    """All forwards first."""
    yield from (f"{{rank}}F{{i}}" for i in range(microbatches))
    yield from (f"{{rank}}B{{i}}" for i in range({last}))
'''


def write(path: Path, name="my-gpipe", last="microbatches") -> Path:
    path.write_text(ALL_FORWARDS_FIRST.format(name=name, last=last))
    return path


def gpipe_csv(p=2, m=3) -> str:
    return create("gpipe").program(Setting(p, m)).to_csv()


def test_common_placements_have_names():
    """The V shape needs no import; a misspelt name is answered with the right one."""

    @schedule("named-vee", placement="vee")
    def order(rank, ranks, microbatches):
        return ()

    assert get("named-vee")().placement(3).rank_of.tolist() == vee(3).rank_of.tolist()
    with pytest.raises(ScheduleError, match=r"allowed: linear, vee.*did you mean 'vee'"):
        schedule("other", placement="veee")


def test_a_decorated_function_is_a_schedule():
    """It is found by name and keeps its docstring, citation and placement."""

    @schedule("one-vee", placement=vee, citation="a paper")
    def one_vee(rank, ranks, microbatches):
        """One micro-batch at a time through a V."""
        first, second = rank, 2 * ranks - 1 - rank
        for i in range(microbatches):
            yield from (f"{first}F{i}", f"{second}F{i}", f"{second}B{i}", (first, 3, i))

    cls = get("one-vee")
    assert (cls.name, cls.summary, cls.citation) == ("one-vee", "One micro-batch at a time through a V.", "a paper")
    assert "one-vee" in names()
    assert cls().chunks_per_rank() == 2
    assert replay(cls().program(Setting(3, 2))).makespan == 2 * 3 * 6
    assert one_vee.__name__ == "one_vee"


@pytest.mark.parametrize("wanted", ["my-gpipe", "my_gpipe"])
def test_a_file_is_named_with_its_schedule_or_function(tmp_path, wanted):
    """``file.py:name`` runs the file."""
    made = create(f"{write(tmp_path / 'mine.py')}:{wanted}")
    assert made.name == "my-gpipe"
    assert made.program(Setting(2, 3)).to_csv() == gpipe_csv()


def test_a_file_runs_once_until_it_changes(tmp_path):
    """The same class for the same version of a file, a new one after an edit."""
    file = write(tmp_path / "mine.py")
    first, again = get(f"{file}:my-gpipe"), get(f"{file}:my-gpipe")
    write(file, last="0")
    os.utime(file, ns=(1, 1))
    assert first is again
    assert get(f"{file}:my-gpipe") is not first


def test_two_files_may_use_one_name(tmp_path):
    """Each reference leads to its own file, in any order."""
    one, other = write(tmp_path / "a.py"), write(tmp_path / "b.py")
    classes = [get(f"{file}:my-gpipe") for file in (one, other, one)]
    assert classes[0] is classes[2] is not classes[1]


def test_a_schedule_class_in_a_file_has_options(tmp_path):
    """A registered dataclass works from a file as it does in the package."""
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "from pipesim.schedules import Schedule, register\n"
        "@register\n"
        "@dataclass(frozen=True)\n"
        "class Mine(Schedule):\n"
        "    name: ClassVar[str] = 'mine'\n"
        "    depth: int = 3\n"
    )
    assert create(f"{tmp_path}/mine.py:Mine", depth=5).depth == 5
    with pytest.raises(ScheduleError, match=r"has no option 'dept'; allowed: depth; did you mean 'depth'\?"):
        create(f"{tmp_path}/mine.py:Mine", dept=5)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1", r"registers no schedule; decorate a function in it with @schedule\('my-gpipe'\)"),
        ("def f(:", "line 1: SyntaxError: invalid syntax"),
        ("import pipesim\n\n1 / 0", "line 3: ZeroDivisionError: division by zero"),
        ("import nothing_like_this", "line 1: ModuleNotFoundError: No module named 'nothing_like_this'"),
        (ALL_FORWARDS_FIRST.format(name="1f1b", last=1), "'1f1b' is a built-in schedule; choose another name"),
        (ALL_FORWARDS_FIRST.format(name="zb-1p", last=1), "'zb-1p' is a built-in schedule; choose another name"),
        (ALL_FORWARDS_FIRST.format(name="my-gpip", last=1), "it has: my-gpip; did you mean 'my-gpip'?"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, code, message):
    """No traceback: the file, the line, and what was expected."""
    file = tmp_path / "mine.py"
    file.write_text(code)
    with pytest.raises(ScheduleError, match=message) as error:
        get(f"{file}:my-gpipe")
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py:mine", "cannot read the schedule file nowhere.py: No such file or directory"),
        ("nowhere.py:", "write nowhere.py:NAME"),
        ("nowhere.py", "write nowhere.py:NAME"),
        ("a\0b.py:mine", "cannot read the schedule file"),
        ("gpip", "did you mean 'gpipe'?"),
    ],
)
def test_what_is_wrong_with_a_reference_is_said(name, message):
    """Missing files, missing names, and names that are nearly right."""
    with pytest.raises(ScheduleError, match=message):
        get(name)


def test_wrong_programs_are_refused(tmp_path):
    """A user's program is verified as it is generated."""
    made = create(f"{write(tmp_path / 'mine.py', last=1)}:my-gpipe")
    with pytest.raises(ProgramError, match="stage 0, micro-batch 1: needs exactly one B"):
        made.program(Setting(2, 3))


def test_failing_functions_are_named(tmp_path):
    """An exception inside the user's function says for which rank, and which exception."""
    made = create(f"{write(tmp_path / 'mine.py', last='1 // (rank - 1)')}:my-gpipe")
    with pytest.raises(ScheduleError, match=r"'my-gpipe' failed for rank 1 of 2 .* ZeroDivisionError"):
        made.program(Setting(2, 3))


def test_a_config_names_a_file_relative_to_itself(tmp_path):
    """And its resolved form leads there again, from where we are."""
    write(tmp_path / "mine.py")
    path = tmp_path / "step.yaml"
    path.write_text("pipeline: {ranks: 2, microbatches: 3}\nschedule: {name: 'mine.py:my-gpipe'}\n")
    config = load_config(path)
    again = load_config(config.resolved())
    assert again.schedule.name == f"{tmp_path}/mine.py:my-gpipe"
    assert [c.schedule.build().program(Setting(2, 3)).to_csv() for c in (config, again)] == [gpipe_csv()] * 2


def test_a_config_with_a_bad_file_is_a_config_error(tmp_path):
    """The problem is at schedule.name."""
    path = tmp_path / "step.yaml"
    path.write_text("pipeline: {ranks: 2, microbatches: 3}\nschedule: {name: 'mine.py:my-gpipe'}\n")
    with pytest.raises(ConfigError, match=r"schedule\.name: .*cannot read the schedule file .*No such file"):
        load_config(path)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution with one entry point into a folder on sys.path."""

    def install(entry_point: str, **modules: str) -> None:
        info = tmp_path / "tiny_schedules-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-schedules\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[pipesim.schedules]\n{entry_point}\n")
        for name, code in modules.items():
            (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        registry._plugins.cache_clear()

    yield install
    registry._plugins.cache_clear()


@pytest.mark.parametrize("point", ["my-gpipe = tiny_decorated", "my-gpipe = tiny_decorated:my_gpipe"])
def test_an_installed_schedule_is_found_by_name(install, monkeypatch, point):
    """An entry point may name the module or the function; it is listed, and loaded when asked for."""
    monkeypatch.delitem(sys.modules, "tiny_decorated", raising=False)
    install(point, tiny_decorated=ALL_FORWARDS_FIRST.format(name="my-gpipe", last="microbatches"))
    assert "my-gpipe" in names()
    assert create("my-gpipe").program(Setting(2, 3)).to_csv() == gpipe_csv()


def test_an_installed_class_needs_no_decorator(install):
    """An entry point may also name a Schedule class."""
    code = (
        "from pipesim.schedules import Schedule\nclass Mine(Schedule):\n    name = 'mine'\n"
        "    def order(self, rank, setting):\n        return [f'{rank}F0', f'{rank}B0']\n"
    )
    install("mine = tiny_class:Mine", tiny_class=code)
    assert create("mine").program(Setting(2, 1)).to_csv() == gpipe_csv(2, 1)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("mine = tiny_nothing", "the entry point mine = tiny_nothing registers no schedule of that name"),
        ("mine = tiny_missing", "schedule 'mine' cannot be loaded from tiny_missing: No module named 'tiny_missing'"),
        ("mine = tiny_nothing:absent", "schedule 'mine' cannot be loaded from tiny_nothing:absent"),
    ],
)
def test_what_is_wrong_with_an_entry_point_is_said(install, point, message):
    """Modules that are missing, fail, or register something else."""
    install(point, tiny_nothing="")
    with pytest.raises(ScheduleError, match=message):
        get("mine")
