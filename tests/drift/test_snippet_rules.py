"""What a snippet must not be, hold, import or do is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.small_tree import NAIVE, PAGE, SNIPPET, TEST, USAGE

if TYPE_CHECKING:
    from tests.support.small_tree import SmallTree

FENCE = """    ```python
    from snippets.telephony.call_forwarding import Forwarding
"""


@pytest.mark.parametrize(
    ("old", "new", "at", "reason"),
    [
        (FENCE, FENCE.replace("python", "pycon"), "    from sn", "no test"),
        ("    ```\n", "", "Where calls to an", "a fence that is not closed"),
        ("    ```python\n", "    x ```python\n", "Where calls", "a fence that is not"),
        ("    ```python\n", "    >>> call()\n    ```python\n", ">>>", "never runs"),
        (
            "    ```python\n",
            "    ```sh\n    make\n    ```\n    ```python\n",
            "make",
            "",
        ),
        ("an extension go.\n", "an extension go.\n\n        call()\n", "call()", "no"),
        ("    targets: dict", "    <pre>call()</pre>\n    x: dict", "<pre>", ""),
    ],
)
def test_code_in_a_docstring_that_no_test_runs_is_named(
    small: SmallTree, old: str, new: str, at: str, reason: str
) -> None:
    if at == "<pre>":
        old, new = "    targets: dict", '    """<pre>call()</pre>"""\n    targets: dict'
    small.replace(SNIPPET, old, new)
    small.names(SNIPPET, at, reason or "code that no test runs")


def test_an_example_between_tildes_is_named(small: SmallTree) -> None:
    small.write(SNIPPET, small.read(SNIPPET).replace("```", "~~~"))
    small.names(SNIPPET, "    from snippets", "code that no test runs")


def test_an_example_in_a_docstring_of_single_quotes_is_named(small: SmallTree) -> None:
    text = small.read(SNIPPET).replace('"""Where calls', "'''Where calls")
    small.write(SNIPPET, text.replace('    ```\n    """', "    ```\n    '''"))
    small.names(SNIPPET, "    from snippets", "code that no test runs")


@pytest.mark.parametrize(
    ("old", "new", "at", "reason"),
    [
        ('if __name__ == "__main__":\n    main()\n', "", '"""Ada', "never runs"),
        ("    main()\n", "    pass\n", '"""Ada', "never runs"),
        ("def main()", "def follow()", '"""Ada', "never runs"),
        ("    # > 1002\n", "", '"""Ada', "shows no output"),
        ("    print(", "    assert forwarding\n    print(", "assert", "an assert in"),
        ("    print(", "    time.sleep(1)\n    print(", "time.sleep", "must not sleep"),
        ("    print(", "    sleep(delay=1)\n    print(", "sleep", "must not sleep"),
    ],
)
def test_an_example_that_shows_nothing_is_named(
    small: SmallTree, old: str, new: str, at: str, reason: str
) -> None:
    small.replace(USAGE, old, new)
    small.names(USAGE, at, reason)


@pytest.mark.parametrize("path", [SNIPPET, NAIVE, TEST, "tests/support/calls.py"])
def test_an_output_that_no_print_gave_is_named(small: SmallTree, path: str) -> None:
    text = small.read(path) if path != "tests/support/calls.py" else ""
    small.write(path, f"{text}\n\nRINGS = 3\n# > 4\n")
    small.names(path, "# > 4", "an output that no print gave")


def test_an_output_beside_code_is_named(small: SmallTree) -> None:
    small.replace(USAGE, "    print(", "    rings = 3  # > 4\n    print(")
    small.names(USAGE, "    rings", "an output beside code is not compared")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("import requests", "requests is not declared"),
        ("from os import environ", "os.environ is not a snippet's to read"),
        ("from os import path, getenv as get", "os.getenv is not a snippet's to"),
        ("from sys import modules", "sys.modules is not a snippet's to read"),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    ring()", "runs at import"),
        ("import fakeredis", "fakeredis is for examples only"),
        ("import pytest", "pytest is not declared"),
        ("import pydantic_core", "pydantic_core is not declared"),
        ("from catalogue import errors", "catalogue is not declared"),
        ("from tests.support import counters", "tests is not declared"),
        ("from . import call_waiting", "a relative import"),
        ("from .call_waiting import ring", "a relative import"),
        ("from pydantic import *", "a star import"),
        ("from snippets.telephony.call_waiting import ring", "there is no snippets/"),
        ("from snippets.telephony import call_waiting", "there is no snippets/"),
        (
            "from snippets.telephony import call_forwarding_naive",
            "is not for use",
        ),
        ("import importlib", "importlib imports what nobody sees"),
        ("from importlib import import_module", "importlib.import_module imports what"),
        ("import importlib.util", "importlib.util imports what nobody sees"),
        ("import builtins", "builtins imports what nobody sees"),
        ("import runpy", "runpy imports what nobody sees"),
        ("REQUESTS = __import__('requests')", "__import__ runs what nobody sees"),
        ("exec('import requests')", "exec runs what nobody sees"),
        ("RING = eval('1')", "eval runs what nobody sees"),
        ("if True:\n    import requests", "'if True:' runs at import"),
        ("try:\n    import requests\nexcept ImportError:\n    pass", "runs at import"),
        ("print('ring')", "runs at import"),
        ("assert BaseModel", "runs at import"),
        ("RINGS = sum([1, 2])", "sum() runs at import"),
        ("RINGS = [open('ring') for _ in '12']", "open() runs at import"),
        ("RINGS: int = int('3')", "int() runs at import"),
        ("STARTED = datetime.now()", "now() runs at import"),
        ("ENGINE = sqlalchemy.create_engine('x')", "create_engine() runs at import"),
        ("for ring in '12':\n    pass", "runs at import"),
        ("with ring:\n    pass", "runs at import"),
        ("RINGS = os.environ['RINGS']", "os.environ is not a snippet's to read"),
        ("class Ring:\n    print('ring')", "runs at import"),
        ("if __name__ == '__main__':\n    ring()", "runs at import"),
    ],
)
def test_what_a_snippet_must_not_import_or_do_is_named(
    small: SmallTree, line: str, reason: str
) -> None:
    small.write(SNIPPET, f"{small.read(SNIPPET)}\n\n{line}\n")
    first, _, rest = line.partition("\n")
    small.names(SNIPPET, rest if line.startswith("class") else first, reason)


def test_an_import_within_a_function_is_seen(small: SmallTree) -> None:
    late = "\n\ndef ring() -> None:\n    import requests\n"
    small.write(SNIPPET, small.read(SNIPPET) + late)
    small.names(SNIPPET, "    import requests", "requests is not declared")


def test_an_example_may_use_fakeredis(small: SmallTree) -> None:
    small.replace(USAGE, "from snippets", "import fakeredis\n\nfrom snippets")
    assert small.problems() == []


@pytest.mark.parametrize(
    "line",
    [
        "import logging\nLOG = logging.getLogger(__name__)",
        "from typing import TypeVar\nT = TypeVar('T')",
        "from contextvars import ContextVar\nC: ContextVar[int] = ContextVar('c')",
        "import re\nFORM = re.compile('a')",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from os import path",
        "KEEP = lambda: sum([1])",
        "NOBODY = Forwarding()",
        "RANG = partial(mapped_column, DateTime(), default=sa.func.now())",
        "Extension = Annotated[str, Field(max_length=int(9))]",
        "from importlib.metadata import version",
        "from importlib import metadata, resources",
        "class Ring(BaseModel):\n    rings: list[int] = list((1, 2))",
    ],
)
def test_a_declaration_is_no_work(small: SmallTree, line: str) -> None:
    small.write(SNIPPET, f"{small.read(SNIPPET)}\n\n{line}\n")
    assert small.problems() == []


@pytest.mark.parametrize(("path", "limit"), [(SNIPPET, 150), (USAGE, 150), (NAIVE, 40)])
def test_a_file_that_is_too_long_is_named(
    small: SmallTree, path: str, limit: int
) -> None:
    text = small.read(path)
    missing = limit - text.count("\n")
    small.write(path, text + "#\n" * missing)
    assert small.problems() == []
    small.write(path, text + "#\n" * missing + "# one more\n")
    small.names(path, "# one more", f"{limit + 1} lines, more than {limit}")


def test_a_file_that_is_no_python_is_named(small: SmallTree) -> None:
    small.write(SNIPPET, "def ring(:\n")
    small.names(SNIPPET, "def", "not readable as Python")


def test_a_snippet_of_no_pattern_is_named(small: SmallTree) -> None:
    small.write("snippets/telephony/deep/ring.py", '"""Ring."""\n')
    small.names("snippets/telephony/deep/ring.py", '"""', "belongs to no pattern")


@pytest.mark.parametrize(
    "path",
    [
        "tests/telephony/test_call_forwarding_faults.py",
        "tests/telephony/deep/test_call_forwarding.py",
        "tests/test_call_forwarding.py",
        "tests/support/test_call_forwarding.py",
    ],
)
def test_a_test_file_that_make_test_would_not_run_is_named(
    small: SmallTree, path: str
) -> None:
    test = "def test_it_rings() -> None:\n    assert sorted('ba') == ['a', 'b']\n"
    small.write("tests/telephony/test_call_forwarding__faults.py", test)
    small.write("tests/site/test_pages.py", test)
    assert small.problems() == []
    small.write(path, test)
    small.names(path, "def test_it_rings", "make test never runs this")


@pytest.mark.parametrize(
    "missing", [PAGE, PAGE.replace(".md", ".mmd"), SNIPPET, USAGE, NAIVE, TEST]
)
def test_a_file_that_a_pattern_lacks_is_named(small: SmallTree, missing: str) -> None:
    (small.root / missing).unlink()
    present = SNIPPET if missing == PAGE else PAGE
    problems = [str(one) for one in small.problems()]
    assert f"{present}:1: telephony/call_forwarding has no {missing}; write it" in (
        problems
    )


@pytest.mark.parametrize("path", [SNIPPET, USAGE, NAIVE, TEST])
def test_a_file_that_its_page_does_not_show_is_named(
    small: SmallTree, path: str
) -> None:
    lines = small.read(PAGE).split("\n")
    at = next(number for number, line in enumerate(lines) if f'-- "{path}"' in line)
    small.write(PAGE, "\n".join(lines[: at - 1] + lines[at + 2 :]))
    small.names(path, '"""', f"{PAGE} does not show this file")


def test_a_file_shown_only_in_part_or_in_a_comment_is_not_shown(
    small: SmallTree,
) -> None:
    small.write(NAIVE, f"# --8<-- [start:a]\n{small.read(NAIVE)}# --8<-- [end:a]\n")
    small.replace(PAGE, f'--8<-- "{NAIVE}"', f'--8<-- "{NAIVE}:a"')
    small.names(NAIVE, "# --8", "does not show this file")


@pytest.mark.parametrize("path", [SNIPPET, NAIVE])
def test_a_module_that_no_test_imports_is_named(small: SmallTree, path: str) -> None:
    name = path.removesuffix(".py").rpartition("/")[2]
    lines = small.read(TEST).split("\n")
    ends = (f"import {name}", f"{name} import Forwarding, ForwardingLoopError")
    small.write(TEST, "\n".join(line for line in lines if not line.endswith(ends)))
    small.names(TEST, '"""', f"imports {path}")


def test_a_pattern_whose_naive_version_breaks_nowhere_is_named(
    small: SmallTree,
) -> None:
    small.replace(TEST, "proof.breaks", "print")
    small.names(TEST, '"""', "no test says how the naive version breaks")
    faults = "def test_faults(proof):\n    assert proof\n    proof.breaks('x', 'y')\n"
    small.write(TEST.replace(".py", "__faults.py"), faults)
    assert small.problems() == []


def test_a_wiring_that_no_test_imports_is_named(small: SmallTree) -> None:
    wiring = SNIPPET.replace(".py", "_wiring.py")
    small.write(wiring, '"""Wire it."""\n')
    small.names(TEST, '"""', f"imports {wiring}")


def test_a_file_of_proof_without_a_test_is_named(small: SmallTree) -> None:
    small.write(TEST, small.read(TEST).replace("def test_", "def check_"))
    small.names(TEST, '"""', "there is no test in this file")


def test_a_composition_that_a_test_shows_is_allowed(small: SmallTree) -> None:
    for path in (PAGE, PAGE.replace(".md", ".mmd"), SNIPPET, USAGE, NAIVE, TEST):
        names = {"call_forwarding": "call_waiting", "call-forwarding": "call-waiting"}
        text, copy = small.read(path), path
        for old, new in names.items():
            text, copy = text.replace(old, new), copy.replace(old, new)
        small.write(copy, text)
    test = f"{TEST}::test_a_loop_is_refused"
    entry = f'composes_with: [{{pattern: telephony/call_waiting, test: "{test}"}}]'
    small.replace(PAGE, "composes_with: []", entry)
    small.names(PAGE, entry, "does not import both patterns")
    small.replace(
        TEST,
        "import pytest\n",
        "import pytest\nfrom snippets.telephony import call_waiting\n",
    )
    assert small.problems() == []


@pytest.mark.parametrize(
    ("pattern", "test", "reason"),
    [
        ("telephony/voicemail", f"{TEST}::test_a_loop_is_refused", "no pattern"),
        ("telephony/call_forwarding", f"{TEST}::test_ring", "there is no test"),
        ("telephony/call_forwarding", "tests/a.py::test_ring", "there is no test"),
        ("telephony/other", f"{TEST}::test_a_loop_is_refused", "import both patterns"),
    ],
)
def test_a_composition_that_no_test_shows_is_named(
    small: SmallTree, pattern: str, test: str, reason: str
) -> None:
    small.write("snippets/telephony/other.py", '"""Another."""\n')
    entry = f'composes_with:\n  - {{pattern: {pattern}, test: "{test}"}}'
    small.replace(PAGE, "composes_with: []", entry)
    small.names(PAGE, "  - {pattern", reason)
