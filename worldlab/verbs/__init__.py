"""The verbs of the command line: a frozen dataclass each, a thin call of a function.

Everything heavy is imported inside `run`, so that `worldlab --help` answers at once.
"""
