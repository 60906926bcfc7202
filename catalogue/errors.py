"""The one error the catalogue shows to a person."""


class CatalogueError(Exception):
    """Something in the tree is wrong.

    The message is one line, `path:line: what is wrong and how to mend it`.
    """
