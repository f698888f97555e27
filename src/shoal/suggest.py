"""Names that users mistyped: the nearest known one."""

from __future__ import annotations

from collections.abc import Iterable

_SHOWN_MAX = 40  # names in an error


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like ``name``; None if none does."""
    import difflib  # only needed when something is wrong

    # A leading underscore and capitals are the commonest difference.
    plain = {each.strip("_").lower(): each for each in known}
    found = difflib.get_close_matches(name.strip("_").lower(), plain, n=1, cutoff=0.6)
    return plain[found[0]] if found else None


class UnknownNameError(TypeError, ValueError):
    """An option, argument or setting that does not exist. Of both kinds: Python raises one, Ray the other."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        guess = nearest(name, known)
        if guess is not None:
            text = f"unknown {what} {name!r}; did you mean {guess!r}?"
        else:
            public = [each for each in known if not each.startswith("_")]
            more = len(public) - _SHOWN_MAX
            text = f"unknown {what} {name!r}; known are {', '.join(public[:_SHOWN_MAX])}"
            text += f" and {more} more" if more > 0 else ""
        super().__init__(text)
