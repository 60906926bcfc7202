"""Take the tags from tokens of code that have no colour of their own.

Pygments puts every name, sign and blank into a tag: more than half of a module's tags.
A browser styles each before the page can be used. The text stays, and so does every
token with a colour.
"""

import re
import sys
from pathlib import Path

# Names, operators, punctuation, blanks; `None` and the like; `and` and the like.
COLOURLESS = ("n", "o", "p", "w", "kc", "ow")
TOKEN = re.compile(rf'<span class="(?:{"|".join(COLOURLESS)})">([^<]*)</span>')


def without_tags(html: str) -> str:
    """Return a page's HTML without the tags of tokens that have no colour."""
    return TOKEN.sub(r"\1", html)


def main(site: Path) -> None:
    """Rewrite all pages of a built site."""
    for page in site.rglob("*.html"):
        page.write_text(without_tags(page.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
