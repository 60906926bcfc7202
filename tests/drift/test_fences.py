"""Code that somebody types into a page is named, however it is typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.small_tree import INDEX, PAGE, SNIPPET

if TYPE_CHECKING:
    from tests.support.small_tree import SmallTree

TYPED = {
    "a fence": "```python\nringing = True\n```",
    "a fence in no language": "```\nringing = True\n```",
    "a fence in another language": "```json\nringing = True\n```",
    "a fence of tildes": "~~~python\nringing = True\n~~~",
    "a fence of five ticks": "`````python\nringing = True\n`````",
    "a fence with attributes": "``` {.python linenums=1}\nringing = True\n```",
    "a diagram": "```mermaid\nringing = True\n```",
    "indented code": "Text.\n\n    ringing = True",
    "code indented by a tab": "Text.\n\n\tringing = True",
    "a fence in a list": "- one\n\n    ```python\n    ringing = True\n    ```",
    "a fence in a list in a list": (
        "- one\n\n    - two\n\n        ```python\n        ringing = True\n        ```"
    ),
    "indented code in a list": "1. one\n\n        ringing = True",
    "a fence in an admonition": "!!! note\n\n    ```py\n    ringing = True\n    ```",
    "a fence in a fold": "??? note\n\n    ```python\n    ringing = True\n    ```",
    "a fence in a tab": '=== "A"\n\n    ```python\n    ringing = True\n    ```',
    "a fence in a quotation": "> ```python\n> ringing = True\n> ```",
    "indented code in a quotation": ">     ringing = True",
    "a fence in a definition": "A\n:   B\n\n    ```py\n    ringing = True\n    ```",
    "a preformatted element": "<pre>\nringing = True\n</pre>",
    "a preformatted element in capitals": "<PRE><CODE>ringing = True</CODE></PRE>",
    "an element with a class": '<pre class="a"><code>ringing = True</code>',
    "a preformatted element in a cell": "|a|\n|-|\n|<pre>ringing = True</pre>|",
    "a preformatted element in a block": "<div><pre>ringing = True</pre></div>",
    "a fence in a block": "<div markdown>\n\n```py\nringing = True\n```\n\n</div>",
    "a preformatted element in a fold": "<details><pre>ringing = True</pre></details>",
    "entities": "<pre>ringing &#61; True</pre>",
    "a fence beside an include": (
        '```python\n--8<-- "snippets/telephony/call_forwarding.py"\nringing = True\n```'
    ),
}


@pytest.mark.parametrize("typed", TYPED.values(), ids=TYPED.keys())
@pytest.mark.parametrize("page", [PAGE, INDEX])
def test_typed_code_is_named(small: SmallTree, page: str, typed: str) -> None:
    small.write(page, f"{small.read(page)}\n{typed}\n")
    at = "--8<--" if "--8<--" in typed else "ringing"
    line = small.read(page).count("\n") - typed[typed.index(at) :].count("\n")
    found = [problem for problem in small.problems() if problem.path == page]
    assert ("code typed by hand", line) in {
        (problem.message.partition(" (")[0], problem.line) for problem in found
    }, list(map(str, found))


DISGUISED = {
    "an assertion in a paragraph": ("assert ringing == 3", "code typed as prose"),
    "a condition in a list": ("- if ringing: call.answer()", "code typed as prose"),
    "a deletion in a cell": ("|a|\n|-|\n|del ringing[0:1]|", "code typed as prose"),
    "a typed constant in a paragraph": ("ringing: int = 3", "code typed as prose"),
    "a call in a paragraph": ('ringing.call("1001")', "code typed as prose"),
    "an await in a list": ("- await ringing.call(user)", "code typed as prose"),
    "a heading": ("## ringing = call()", "code typed as prose"),
    "the title of a note": ('!!! note "ringing = call()"\n    x', "typed as prose"),
    "the label of a tab": ('=== "ringing = call()"\n\n    x', "typed as prose"),
    "a loop of two lines": ("for call in ringing:\n  call()", "code typed as prose"),
    "a command in a paragraph": ("pip install ringing", "code typed as prose"),
    "a prompt in a paragraph": ("$ ringing --now", "code typed as prose"),
    "a class that looks it": ('<p class="highlight">ringing</p>', "look like code"),
    "a list that looks it": ("x\n{ .ringing-mono }", "look like code"),
    "an element of two lines": ("<code>ringing = 1\nx = 2</code>", "neither a name"),
    "ticks around two lines": ("`ringing = 1\nx`", "neither a name"),
    "a text to copy": ('<p data-clipboard-text="ringing">x</p>', "cannot be checked"),
    "a field with a value": ('<input value="ringing()">', "value cannot be checked"),
    "a fence that is never closed": ("```python\nringing = True", "typed as prose"),
    "a terminal": ("<samp>ringing</samp>", "<samp> cannot be checked"),
    "keys": ("<kbd>ringing</kbd>", "<kbd> cannot be checked"),
    "teletype": ("<tt>ringing</tt>", "<tt> cannot be checked"),
    "a field of text": ("<textarea>ringing</textarea>", "<textarea> cannot be"),
    "an example of 1993": ("<xmp>ringing</xmp>", "<xmp> cannot be checked"),
    "a script": ("<script>ringing</script>", "<script> cannot be checked"),
    "a frame": ('<iframe src="#ringing"></iframe>', "<iframe> cannot be checked"),
    "a picture of text": ("<svg><text>ringing</text></svg>", "<text> cannot be"),
    "a style": ('<p style="font-family: monospace">ringing</p>', "style cannot be"),
    "a style by attributes": ('x\n{ style="font: ringing" }', "style cannot be"),
    "a handler": ('<p onclick="ringing()">x</p>', "onclick cannot be checked"),
    "something hidden": ("<p hidden>ringing</p>", "hidden cannot be checked"),
    "a function in a paragraph": ("def ringing(call):", "code typed as prose"),
    "a statement in a cell": ("|a|\n|-|\n|ringing = True|", "code typed as prose"),
    "an import in a list": ("- from ringing import call", "code typed as prose"),
    "lines held apart": ("x<br>\nringing = call()", "code typed as prose"),
    "spaces that do not break": ("&nbsp;&nbsp;ringing = call()", "typed as prose"),
    "a statement between ticks": ("`ringing = call.answer()`", "code typed into"),
    "a statement of many words": ("`await ringing(call) or 3`", "code typed into"),
    "a long expression": (
        "`[ringing(call) for call in calls if call.state is not None and call.user]`",
        "code typed into",
    ),
    "an include between ticks": ('`--8<-- "ringing"`', "cannot be read as an include"),
}


@pytest.mark.parametrize(("typed", "reason"), DISGUISED.values(), ids=DISGUISED.keys())
def test_code_in_disguise_is_named(small: SmallTree, typed: str, reason: str) -> None:
    small.write(INDEX, f"{small.read(INDEX)}\n{typed}\n")
    small.names(INDEX, "ringing", reason)


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ('```python hl_lines="2"', "```"),
        ('```python linenums="1"', "```"),
        ('```python title="a" hl_lines="1"', "```"),
        ("``` python", "```"),
        ("```{.python .ringing}", "```"),
        ("~~~python", "~~~"),
        ("```python", "``` "),
        ("````python", "````\n"),
    ],
)
def test_an_include_in_anything_but_a_plain_fence_is_named(
    small: SmallTree, opening: str, closing: str
) -> None:
    text = small.read(INDEX)
    small.write(INDEX, f'{text}\n{opening}\n--8<-- "{SNIPPET}"\n{closing}\n')
    if closing == "````\n":
        assert small.problems() == []
    else:
        small.names(INDEX, "--8<--", "not a plain fence")


def test_an_include_in_a_fence_of_a_quotation_is_named(small: SmallTree) -> None:
    quoted = f'\n> ```python\n> --8<-- "{SNIPPET}"\n> ```\n'
    small.write(INDEX, small.read(INDEX) + quoted)
    small.names(INDEX, "> --8<--", "cannot be read as an include")


def test_an_include_in_an_element_is_named(small: SmallTree) -> None:
    text = f'\n<code>\n--8<-- "{SNIPPET}"\n</code>\n'
    small.write(INDEX, small.read(INDEX) + text)
    small.names(INDEX, "--8<--", "an include in a line of text")


def test_markup_that_hides_nothing_is_allowed(small: SmallTree) -> None:
    text = (
        "\n| a | b |\n|:--|--:|\n| 1 | 2 |\n\n!!! note\n    x\n\n??? note\n    x\n\n"
        '=== "A"\n\n    x\n\nx\n{ .ring #ring }\n\n<div class="ring">\nx\n</div>\n'
        "\nCalls (active) ring. Note: they end. It costs 3 = 2 + 1 statements.\n"
        "\nReturn to it with care: import nothing.\n"
    )
    small.write(INDEX, small.read(INDEX) + text)
    assert small.problems() == []


@pytest.mark.parametrize("sign", ["\u2028", "\x0c", "\x85"])
def test_a_sign_that_only_looks_like_the_end_of_a_line_is_none(
    small: SmallTree, sign: str
) -> None:
    small.replace(PAGE, "## When", f"Calls{sign}ring.\n\n## When")
    assert small.problems() == []


def test_a_title_that_is_another_file_is_named(small: SmallTree) -> None:
    small.replace(PAGE, f'title="{SNIPPET}"', 'title="snippets/telephony/ring.py"')
    small.names(PAGE, "```python title", "is not the file")


@pytest.mark.parametrize(
    "field",
    [
        "title: '```ringing```'",
        "title: 'Call <code>ringing</code>'",
        "title: |\n  Call\n\n      ringing()",
    ],
)
def test_code_in_the_front_matter_is_named(small: SmallTree, field: str) -> None:
    small.replace(INDEX, "title: Catalogue", field)
    problems = [one for one in small.problems() if one.path == INDEX]
    assert "markup in the front matter" in "".join(map(str, problems))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("overrides/main.html", "<pre>ringing()</pre>"),
        ("overrides/partials/ring.txt", "<code>ringing()</code>"),
        ("docs/assets/ring.js", "main.innerHTML = '<pre>ringing()'"),
        ("docs/assets/ring.js", "const ring = document.createElement('code')"),
    ],
)
def test_code_in_a_template_or_a_script_is_named(
    small: SmallTree, path: str, line: str
) -> None:
    small.write(path, f"// one\n{line}\n")
    small.names(path, line, "code made by a template or a script")
