"""The command line. Each sub-command is a module of this package, `NAME_command` for a name in `main.COMMANDS`, that has

- `add_parser(subparsers)`, which adds its parser, and
- `run(args)`, which does the work with the parsed arguments and returns nothing, or an exit code.

Those that change a model share `model_run`, those that work on a saved one `saved_run`; all of them print through `terminal`.
What they raise becomes one line on the standard error and an exit code, see `main.main`.
"""
