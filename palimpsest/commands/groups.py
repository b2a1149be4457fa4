"""Arranges the commands: help panels in a fixed order, and a group with a default command."""

from typing import Any

from typer.core import TyperGroup

RUN = "Run"
JOBS = "Jobs"
BULK = "Bulk jobs and schedules"
SCORERS = "Scorers"
MONEY = "Costs and budgets"
ADMINISTRATION = "Administration"
PANELS = (RUN, JOBS, BULK, SCORERS, MONEY, ADMINISTRATION)
DEFAULT = "run"


class PanelGroup(TyperGroup):
    """Lists its commands by panel, in the order of `PANELS`."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order in which help shows them."""

        def panel(name: str) -> int:
            shown_in = getattr(self.commands[name], "rich_help_panel", None)
            return PANELS.index(shown_in) if shown_in in PANELS else len(PANELS)

        return sorted(self.commands, key=panel)


class DefaultCommandGroup(TyperGroup):
    """Runs its command `run` when the first argument names no subcommand; `--help` describes both."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Inserts the name of the default command where none is given."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The group's own help, then that of the default command."""
        super().format_help(ctx, formatter)
        command = self.commands[DEFAULT]
        command.format_help(type(ctx)(command, info_name=f"[{DEFAULT}]", parent=ctx), formatter)
