"""The command line. Each sub-command is a module of this package, named in `main.COMMANDS`, that has

- `add_parser(subparsers)`, which adds its parser, and
- `run(args)`, which does the work with the parsed arguments and returns nothing, or an exit code.

What it raises becomes one line on the standard error and an exit code, see `main.main`.
"""
