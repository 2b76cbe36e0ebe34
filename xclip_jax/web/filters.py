"""Filters that strangers may give: SQL of a few words.

LanceDB's filters know hundreds of functions, some of which take gigabytes for a dozen letters
(`repeat('a', 2000000000)`). Here only comparisons of columns and metadata are let through, and no
column that tells where files lie.
"""

import re

from xclip_jax.web.refusals import Refused

COLUMNS = {"size", "duration", "metadata"}
FUNCTIONS = {f"json_get_{kind}" for kind in ("string", "int", "float", "bool")} | {"lower", "upper"}
WORDS = {
    *("and", "or", "not", "in", "like", "ilike", "between", "is", "null", "true", "false"),
}
LETTERS = 1000
DEPTH = 20  # of parentheses, and of NOT
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\b)
    |(?P<word>[A-Za-z_]\w*)|(?P<sign><=|>=|<>|!=|[=<>(),+*/%-]))""",
    re.VERBOSE | re.ASCII,
)


def checked(where: str | None) -> str | None:
    """Returns the filter, None for an empty one; raises Refused where it is not of these words."""
    if where is None or not where.strip():
        return None
    at, depth, negations = 0, 0, 0
    where = where.strip()
    while at < len(where):
        match = _TOKEN.match(where, at)
        if not match:
            raise _refused(f"{where[at : at + 20]!r} is not understood")
        at = match.end()
        sign, word = match["sign"], (match["word"] or "").lower()
        if where[match.start() : at + 1].strip() in ("--", "/*"):
            raise _refused("a comment has no place here")
        called = word and where[at:].lstrip().startswith("(")
        if word and word not in WORDS and word not in (FUNCTIONS if called else COLUMNS):
            raise _refused(f"{match['word'][:40]} is not known here")
        depth += {"(": 1, ")": -1}.get(sign, 0)
        negations += word == "not"
        if max(depth, negations) > DEPTH:
            raise _refused(f"more than {DEPTH} levels deep")
    return where


def _refused(problem: str) -> Refused:
    return Refused(
        422,
        f"where: {problem}; expected comparisons of {', '.join(sorted(COLUMNS))} by"
        f" {', '.join(sorted(FUNCTIONS))}, such as json_get_int(metadata, 'year') > 2000 AND"
        " duration < 60.",
    )
