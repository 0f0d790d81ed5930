"""The command line: which verbs there are, and how they end."""

import errno
import json
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from worldlab.errors import UsageError
from worldlab.verbs.data import Collect, Export, Import, List, View
from worldlab.verbs.models import Bakeoff, Compare, Demo, Eval, Imagine, Play, Train
from worldlab.verbs.verb import Verb

type Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Collect, tyro.conf.subcommand("collect")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Eval, tyro.conf.subcommand("eval")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Bakeoff, tyro.conf.subcommand("bakeoff")]
    | Annotated[Imagine, tyro.conf.subcommand("imagine")]
    | Annotated[Play, tyro.conf.subcommand("play")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[View, tyro.conf.subcommand("view")]
    | Annotated[List, tyro.conf.subcommand("list")]
)


def parse(argv: Sequence[str] | None = None) -> Verb:
    """The command that the arguments ask for; exits with a message if they ask for none."""
    return tyro.cli(  # pyright: ignore[reportCallIssue, reportReturnType, reportUnknownVariableType]
        Command.__value__,  # pyright: ignore[reportArgumentType]
        prog="worldlab",
        description="Robot policies and world models, with the simulator as the ground truth for the dream.",
        args=argv,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends with one sentence on stderr and exit status 2."""
    command = parse(argv)
    if command.seed < 0:
        fail(f"a seed is 0 or more; got {command.seed}.")
    try:
        outcome = command.run()
    except UsageError as error:
        fail(str(error))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fail(f"the disk is full: could not write {error.filename or 'a file'}. Free some space and run this again.")
        if error.filename is None:
            raise
        fail(f"could not read or write '{error.filename}': {error.strerror}.")
    except KeyboardInterrupt:
        sys.exit(130)
    else:
        if os.environ.get("RANK", "0") == "0":  # of several processes that torchrun starts, one speaks for all
            print(json.dumps(outcome.values) if command.json else outcome.line)  # noqa: T201
        command.leave()


def fail(sentence: str) -> None:
    """End with one sentence and status 2."""
    print(f"worldlab: {sentence}", file=sys.stderr)  # noqa: T201
    sys.exit(2)
