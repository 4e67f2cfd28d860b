"""`scissorhands push DIR REPO`: pushes a saved run, also one whose push failed before."""

import argparse
from typing import Any

from .saved_run import add_command, card_choices, terminal_of


def add_parser(subparsers: Any) -> None:
    parser = add_command(
        subparsers,
        "push",
        help="push a saved run to the Hub",
        description="Push what a trainer or pipeline saved: configurations, tokenizer, safetensors weights, card, and the part "
        "of the report that may be seen; nothing else in the folder. Files that are on the Hub already are not sent again. The "
        "token is that of `hf auth login` or HF_TOKEN.",
    )
    parser.add_argument("repo_id", metavar="REPO", help="owner/name, or name in your own namespace")
    parser.add_argument("--revision", help="branch, created if need be")
    parser.add_argument("--private", action="store_true", default=None, help="create it private; refuse a public one")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request")
    parser.add_argument("--commit_message", default="Upload unlearned model", help="first line of the commit")
    parser.add_argument("--new", action="store_true", help="refuse a repository that exists")


def run(args: argparse.Namespace) -> None:
    with terminal_of(args) as terminal:
        from ..hub import push_folder

        commit = push_folder(
            args.directory,
            args.repo_id,
            revision=args.revision,
            private=args.private,
            create_pr=args.create_pr,
            commit_message=args.commit_message,
            exist_ok=not args.new,
            probes=args.probes,
            **card_choices(args),
        )
        terminal.say(commit.pr_url or commit.commit_url)
