"""A benchmark's figures are right, taken fairly, and never outlive the file."""

import html
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from catalogue import bench
from catalogue.bench import (
    BenchResult,
    Case,
    Ratio,
    compare,
    discover,
    load_results,
    main,
    to_markdown,
)
from catalogue.errors import CatalogueError

PATTERN = "telephony/call_log"
RESULT = Path("tests/telephony/bench_call_log.json")


class FakeTime:
    """Two clocks which stand still until work is done."""

    def __init__(self) -> None:
        """Start both at zero."""
        self.cpu = 0.0
        self.wall = 0.0
        self.order: list[str] = []

    def work(
        self, name: str, cpu: float, wall: float, result: object = "call"
    ) -> Callable[[], Awaitable[object]]:
        """Return a coroutine function that takes so many seconds."""

        async def run() -> object:
            self.order.append(name)
            self.cpu += cpu
            self.wall += wall
            return result

        return run


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(bench, "process_time", lambda: fake.cpu)
    monkeypatch.setattr(bench, "perf_counter", lambda: fake.wall)
    return fake


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "snippets" / "telephony").mkdir(parents=True)
    (tmp_path / "tests" / "telephony").mkdir(parents=True)
    (tmp_path / "snippets" / f"{PATTERN}.py").write_text("CALLS = []\n", "utf-8")
    project = '[project]\ndependencies = ["pydantic>=2", "not-loaded-here"]\n'
    (tmp_path / "pyproject.toml").write_text(project, "utf-8")
    return tmp_path


async def test_a_ratio_is_taken_within_a_round_and_then_the_quartiles(
    root: Path, fake_time: FakeTime
) -> None:
    def one_call_a_round(seconds: list[float]) -> Callable[[], Awaitable[object]]:
        upcoming = iter(seconds)

        async def run() -> object:
            second = next(upcoming)
            fake_time.cpu += second
            fake_time.wall += second
            return None

        return run

    # The check, the calibration (of the floor alone) and the warm-up come first. Then
    # the machine slows down tenfold; a ratio of the totals would be 4.8.
    floor = one_call_a_round([1, 1, 1, *[1, 1, 10, 10, 10]])
    ours = one_call_a_round([1, 1, *[2, 3, 40, 50, 60]])
    cases = [
        Case(group="g", name="floor", run=floor, floor=True),
        Case(group="g", name="ours", run=ours, ours=True),
    ]
    result = await compare(PATTERN, cases, rounds=5, root=root)
    group = result.groups[0]
    assert (group.rounds, group.calls) == (5, 1)
    assert group.cases[0].cpu == Ratio(q1=1, median=1, q3=1)
    assert group.cases[1].cpu == Ratio(q1=3, median=4, q3=5)
    assert group.cases[1].wall == group.cases[1].cpu


async def test_cpu_and_wall_are_kept_apart(root: Path, fake_time: FakeTime) -> None:
    result = await compare(
        PATTERN,
        [
            Case(group="g", name="f", run=fake_time.work("f", 0.01, 0.02), floor=True),
            Case(group="g", name="o", run=fake_time.work("o", 0.03, 0.01)),
        ],
        rounds=3,
        root=root,
    )
    group = result.groups[0]
    assert group.calls == 4  # four calls of 10 ms fill the 40 ms of a round
    assert group.cases[1].cpu.median == 3.0
    assert group.cases[1].wall.median == 0.5


async def test_a_floor_that_mostly_waits_does_not_take_for_ever(
    root: Path, fake_time: FakeTime
) -> None:
    run = fake_time.work("f", 0.000001, 0.1)
    cases = [Case(group="g", name="f", run=run, floor=True)]
    assert (await compare(PATTERN, cases, rounds=3, root=root)).groups[0].calls == 2


async def test_cases_take_turns_in_an_order_that_rotates(
    root: Path, fake_time: FakeTime
) -> None:
    names = ["f", "a", "b"]
    cases = [
        Case(group="g", name=n, run=fake_time.work(n, 0.02, 0.02), floor=n == "f")
        for n in names
    ]
    await compare(PATTERN, cases, rounds=4, root=root)

    rounds = fake_time.order[-4 * 3 * 2 :]  # two calls of 20 ms fill a round
    assert [rounds[i : i + 6] for i in range(0, 24, 6)] == [
        ["f", "f", "a", "a", "b", "b"],
        ["a", "a", "b", "b", "f", "f"],
        ["b", "b", "f", "f", "a", "a"],
        ["f", "f", "a", "a", "b", "b"],
    ]


async def test_setup_is_awaited_before_each_stretch_and_not_timed(
    root: Path, fake_time: FakeTime
) -> None:
    case = Case(
        group="g",
        name="a",
        run=fake_time.work("a", 0.04, 0.04),
        setup=fake_time.work("setup", 100, 100),
    )
    floor = Case(group="g", name="f", run=fake_time.work("f", 0.04, 0.04), floor=True)
    result = await compare(PATTERN, [floor, case], rounds=3, root=root)

    assert result.groups[0].cases[1].cpu.median == 1.0
    turns = [name for name in fake_time.order if name != "f"]
    assert turns == ["setup", "a"] * (2 + 3)  # the check, the warm-up, three rounds


async def test_a_call_of_a_concurrent_case_is_a_gather(
    root: Path, fake_time: FakeTime
) -> None:
    run = fake_time.work("f", 0.04, 0.04)
    crowd = fake_time.work("a", 0.01, 0.01)
    cases = [
        Case(group="g", name="f", run=run, floor=True),
        Case(group="g", name="a", run=crowd, concurrency=200, ours=True),
    ]
    result = await compare(PATTERN, cases, rounds=3, root=root)
    assert result.groups[0].cases[1].cpu.median == 50.0
    assert "a, 200 callers at once (ours)" in to_markdown(result)


async def test_a_case_that_raises_ends_the_run_with_its_name(
    root: Path, fake_time: FakeTime
) -> None:
    async def broken() -> object:
        raise ConnectionRefusedError("port 6379")

    cases = [
        Case(group="hit", name="f", run=fake_time.work("f", 0.04, 0.04), floor=True),
        Case(group="hit", name="aiocache", run=broken),
    ]
    with pytest.raises(CatalogueError) as caught:
        await compare(PATTERN, cases, rounds=3, root=root)
    assert str(caught.value) == (
        "telephony/call_log: hit: aiocache: raised ConnectionRefusedError('port 6379')"
    )
    assert not (root / RESULT).exists()


async def test_a_case_that_returns_something_else_is_not_measured(
    root: Path, fake_time: FakeTime
) -> None:
    floor = fake_time.work("f", 0.04, 0.04, result=[1, 2])
    wrong = fake_time.work("a", 0.01, 0.01, result=[])

    def two(value: list[int]) -> bool:
        return len(value) == 2

    cases = [
        Case(group="page", name="f", run=floor, floor=True, expect=two),
        Case(group="page", name="fast", run=wrong, expect=two),
    ]
    with pytest.raises(
        CatalogueError, match=r"page: fast: returned what is not .*\[\]"
    ):
        await compare(PATTERN, cases, rounds=3, root=root)
    assert "a" not in fake_time.order[fake_time.order.index("a") + 1 :]


@pytest.mark.parametrize(
    ("cases", "rounds", "problem"),
    [
        ([("f", False), ("a", False)], 3, "exactly one case"),
        ([("f", True), ("a", True)], 3, "exactly one case"),
        ([("f", True), ("f", False)], 3, "same name"),
        ([("f", True), ("a", False)], 2, "2 rounds are too few"),
        ([], 3, "no case"),
    ],
)
async def test_a_comparison_without_meaning_is_refused(
    root: Path, cases: list[tuple[str, bool]], rounds: int, problem: str
) -> None:
    run = FakeTime().work("f", 0.04, 0.04)
    meaningless = [Case(group="g", name=n, run=run, floor=floor) for n, floor in cases]
    with pytest.raises(CatalogueError, match=problem):
        await compare(PATTERN, meaningless, rounds=rounds, root=root)


async def test_an_unknown_pattern_is_refused(root: Path, fake_time: FakeTime) -> None:
    run = fake_time.work("f", 0.04, 0.04)
    with pytest.raises(CatalogueError, match=r"there is no snippets/telephony/fax\.py"):
        await compare(
            "telephony/fax", [Case(group="g", name="f", run=run, floor=True)], root=root
        )


async def measured(root: Path, fake_time: FakeTime) -> BenchResult:
    cases = [
        Case(
            group="log <one> call",
            name="peer",
            run=fake_time.work("p", 0.06, 0.02),
            package="pydantic",
        ),
        Case(
            group="log <one> call",
            name="CallLog",
            ours=True,
            run=fake_time.work("o", 0.044, 0.05),
        ),
        Case(
            group="log <one> call",
            name="hand-written",
            floor=True,
            run=fake_time.work("f", 0.04, 0.04),
        ),
    ]
    return await compare(
        PATTERN, cases, rounds=3, servers={"Redis": "7.0.15"}, root=root
    )


async def test_what_was_stored_is_what_is_loaded(
    root: Path, fake_time: FakeTime
) -> None:
    result = await measured(root, fake_time)
    assert load_results(root, PATTERN) == result
    first = (root / RESULT).read_text("utf-8")
    await measured(root, fake_time)
    assert (root / RESULT).read_text("utf-8") == first
    stored = json.loads(first)
    assert list(stored) == sorted(stored)
    assert stored["libraries"].keys() == {"pydantic"}
    assert stored["command"] == "make bench only=telephony/call_log"
    assert "stale" not in stored


async def test_a_changed_snippet_makes_its_figures_stale(
    root: Path, fake_time: FakeTime
) -> None:
    result = await measured(root, fake_time)
    plain = "taken from an earlier version of the file"
    assert not result.stale
    assert plain not in to_markdown(result)

    snippet = root / "snippets" / f"{PATTERN}.py"
    snippet.write_text("CALLS = ()\n", "utf-8")
    changed = load_results(root, PATTERN)
    assert changed is not None
    assert changed.stale
    assert plain in to_markdown(changed)

    companion = root / "snippets" / "telephony" / "line.py"
    snippet.write_text("from snippets.telephony.line import LINES\n", "utf-8")
    companion.write_text("LINES = []\n", "utf-8")
    assert not (await measured(root, fake_time)).stale
    companion.write_text("LINES = ()\n", "utf-8")
    imported = load_results(root, PATTERN)
    assert imported is not None
    assert imported.stale

    snippet.unlink()
    gone = load_results(root, PATTERN)
    assert gone is not None
    assert gone.stale


def test_a_pattern_without_a_benchmark_has_no_result(root: Path) -> None:
    assert load_results(root, PATTERN) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 2}'])
def test_an_unreadable_result_is_one_clear_line(root: Path, text: str) -> None:
    (root / RESULT).write_text(text, "utf-8")
    with pytest.raises(CatalogueError) as caught:
        load_results(root, PATTERN)
    message = str(caught.value)
    assert message.startswith("tests/telephony/bench_call_log.json:1: ")
    assert message.endswith("run `make bench only=telephony/call_log`")
    assert "\n" not in message


async def test_the_table_has_a_caption_and_says_in_words_which_is_ours(
    root: Path, fake_time: FakeTime
) -> None:
    result = await measured(root, fake_time)
    markdown = to_markdown(result)
    assert "<one>" not in markdown
    text = html.unescape(markdown)
    assert "<caption>log <one> call: cost as a multiple of the floor" in text
    version = result.libraries["pydantic"]
    rows = [line for line in text.splitlines() if "</tr>" in line]
    cells = [[cell for cell in re.split("<[^>]+>", row) if cell] for row in rows]
    assert cells[1:] == [
        ["hand-written (the floor)", "1", "1"],
        ["CallLog (ours)", "1.1 (1.1 to 1.1)", "1.25 (1.25 to 1.25)"],
        [f"peer {version}", "1.5 (1.5 to 1.5)", "0.5 (0.5 to 0.5)"],
    ]
    assert "Taken with `make bench only=telephony/call_log` on " in text
    assert "Redis 7.0.15" in text


async def test_real_clocks_tell_more_work_from_less(root: Path) -> None:
    async def once() -> int:
        return sum(range(2000))

    async def many() -> list[int]:
        return [sum(range(2000)) for _ in range(8)]

    cases = [
        Case(group="g", name="once", run=once, floor=True),
        Case(group="g", name="eight times", run=many),
    ]
    result = await compare(PATTERN, cases, rounds=3, root=root)
    assert result.groups[0].cases[1].cpu.median > 2


WRITES = """
from pathlib import Path
Path("tests/telephony/bench_call_log.json").write_text("{}")
"""


@pytest.mark.parametrize(
    ("source", "status", "problem"),
    [
        (WRITES, 0, ""),
        ("raise SystemExit(3)", 1, "failed with exit status 3"),
        ("", 1, "wrote no tests/telephony/bench_call_log.json"),
    ],
)
def test_the_command_tells_a_benchmark_that_failed(
    root: Path,
    capfd: pytest.CaptureFixture[str],
    source: str,
    status: int,
    problem: str,
) -> None:
    path = root / "tests" / "telephony" / "bench_call_log.py"
    path.write_text(source, "utf-8")
    assert discover(root) == {PATTERN: path}
    assert main([], root) == status
    assert problem in capfd.readouterr().err


def test_a_failing_benchmark_does_not_keep_the_next_from_running(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tests = root / "tests" / "telephony"
    (tests / "bench_another.py").write_text("raise SystemExit(1)", "utf-8")
    (tests / "bench_call_log.py").write_text(WRITES, "utf-8")
    assert main([], root) == 1
    assert (root / RESULT).exists()
    assert "1 benchmark done, 1 failed" in capfd.readouterr().out


def test_the_command_refuses_a_benchmark_that_does_not_exist(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--only", "telephony/fax"], root) == 2
    assert "telephony/fax: no such benchmark" in capsys.readouterr().err
