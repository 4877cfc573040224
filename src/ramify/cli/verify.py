"""`ramify verify`: prove a method's output law by enumeration."""

from __future__ import annotations

from typing import Annotated

import typer

from ramify.cli.options import method_named, method_options, parse_settings
from ramify.cli.output import say, say_json, screen
from ramify.types import check


def verify(
    method: Annotated[str, typer.Option(help="The search to verify.")] = "best_of_n",
    n: Annotated[int, typer.Option("--n", "-n", help="Candidates.")] = 2,
    draft: Annotated[str, typer.Option(help="table (another random one), ngram or suffix: drafts ahead.")] = "none",
    settings: Annotated[list[str] | None, typer.Option(
        "--set", metavar="KEY=VALUE", show_default=False,
        help="An option of the method, of sampling or of speculation.")] = None,
    vocabulary: Annotated[int, typer.Option(help="Tokens, 2 to 8, end of sequence included.")] = 3,
    length: Annotated[int, typer.Option(help="Longest answer in tokens, 1 to 6.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the first table.")] = 0,
    tables: Annotated[int, typer.Option(help="Random tables.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Walk every random choice of a method on small random models and compare its law with the stated one.

    Nothing is sampled: all outcomes are visited with their probabilities, on the engine that serves real
    models. With a draft, the same while it speculates, and the accepted length against its closed form.
    Exit code 1 if a check fails; a lossy verifier tells its loss and does not fail.
    """
    search = method_named(method)
    check(2 <= vocabulary <= 8, "a vocabulary of 2 to 8 tokens", vocabulary, "the number of paths grows with it")
    check(1 <= length <= 6, "a length of 1 to 6 tokens", length, "the number of paths grows with it")
    check(n >= 1, "n of at least 1", n, "raise it")
    check(tables >= 1, "at least 1 table", tables, "raise it")
    options = {"n": n, **parse_settings(settings or [], search, flags={"n"})}
    if "children" in method_options(search):
        options.setdefault("children", min(2, n))
    from ramify.exact.verify import verify as run

    report = run(search, options, draft=draft, vocabulary=vocabulary, length=length, seed=seed, tables=tables)
    if as_json:
        say_json(report.to_dict())
    else:
        from rich import box
        from rich.table import Table

        grid = Table("check", "largest error", "allowed", "", box=box.SIMPLE_HEAD)
        for row in report.rows:
            allowed, verdict = f"{row.limit:.0e}" if row.limit else "0", "ok" if row.ok else "FAILS"
            if row.limit is None:
                allowed, verdict = "" if row.predicted is None else f"predicted {row.predicted:.2g}", "lossy"
            grid.add_row(row.check, f"{row.error:.2g}", allowed, verdict, style="" if row.ok else "red")
        screen().print(grid)
        for row in report.rows:
            if row.found is not None:
                say(f"{row.check}: {row.found:.6f} and {row.predicted:.6f}.")
        say(report.verdict)
    raise typer.Exit(0 if report.ok else 1)
