"""Sentences for what went wrong: what was given, and what would work."""

import difflib
from collections.abc import Iterable

_MANY = 30
"""Names that a sentence can hold."""


class UsageError(ValueError):
    """Something the user asked for cannot be done; the message is one sentence that says why.

    The command line prints the message alone and exits with status 2. Anything else that is raised is a defect.
    """


def unknown(kind: str, name: str, choices: Iterable[str]) -> UsageError:
    """The error for a name that is not among the choices, with the nearest as a suggestion; of many, only some."""
    names = sorted(choices)
    close = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    if len(names) > _MANY and close:
        return UsageError(f"unknown {kind} '{name}'.{hint} Like it: {', '.join(close)}; {len(names)} in all.")
    return UsageError(f"unknown {kind} '{name}'.{hint} Available: {', '.join(names) or 'none'}.")
