"""Tables of the results pages on numerics, damage, kills, isolation and scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from figures import view
from result_tables import NOTHING, markdown


def numerics(name: str) -> str:
    """A row for each way of decoding."""
    found = view(name)
    rows = [
        [
            row["attention"],
            f"{row['threads']}",
            f"{row['batch']}",
            f"{row['identical']} of {found['records']}",
            f"{row['wrong']}",
            NOTHING if row["moved"] is None else f"{row['moved']:.2g}",
        ]
        for row in found["outcomes"]
    ]
    head = [
        "attention",
        "threads",
        "batch",
        "identical at the first attempt",
        "wrong",
        "greatest move of a margin (logits)",
    ]
    return markdown(head, rows)


def leads(name: str) -> str:
    """How many tokens have a margin under each bound, in float64."""
    rows = [[bound, f"{count:,}"] for bound, count in view(name)["leads_under"].items()]
    return markdown(["margin under (logits)", "tokens"], rows)


def damage(name: str) -> str:
    """A row for each kind of damage."""
    found = view(name)
    rows = [
        [
            kind,
            f"{row['cases']:,}",
            f"{row['refused']:,}",
            f"{row['identical']:,}",
            f"{row['given']:.0%}",
            f"{row['failed']}",
        ]
        for kind, row in {**found["by_damage"], "**all**": found}.items()
    ]
    head = ["damage", "cases", "refused", "every document identical", 'documents read with `on_error="skip"`']
    return markdown([*head, "failed"], rows)


def damage_ends(name: str) -> str:
    """What `verify` and reading said."""
    rows = [[f"`{end['verify']}`", f"`{end['reading']}`", f"{end['cases']:,}"] for end in view(name)["by_end"]]
    return markdown(["`verify` says", "reading gives", "cases"], rows)


def damage_files(name: str) -> str:
    """Which file was damaged."""
    rows = [[f"`{file}`", f"{row['cases']:,}", f"{row['refused']:,}"] for file, row in view(name)["by_file"].items()]
    return markdown(["damaged file", "cases", "refused"], rows)


def kills(name: str) -> str:
    """A row for each verb, a column for each moment of the kill."""
    found: dict[str, dict[str, int]] = view(name)["by_verb_and_moment"]
    moments = sorted({moment for counts in found.values() for moment in counts})
    rows = [
        [f"`{verb}`", *(f"{counts.get(moment, 0)}" for moment in moments), f"{sum(counts.values())}"]
        for verb, counts in found.items()
    ]
    return markdown(["killed verb", *moments, "kills"], rows)


def isolation(name: str) -> str:
    """Answers by the way the memory was put in front."""
    return markdown(["way", "answers"], [[way, f"{count}"] for way, count in view(name)["by_way"].items()])


def scale(name: str) -> str:
    """Seconds and memory of each command, a column for each store."""
    stores = view(name)["stores"]

    def cost(run: dict[str, float]) -> str:
        first = f"{run['first']:.2f} / " if "first" in run else ""
        said = f"{first}{run['seconds']:.2f} s", f"{run['bytes'] / 1e6:.0f} MB"
        return ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in said)

    def line(said: str, runs: list[Any]) -> list[str]:
        return [said, *map(cost, runs)]

    rows = [
        ["documents", *(f"{store['documents']:,}" for store in stores)],
        ["bytes of the store", *(f"{store['store_bytes']:,}" for store in stores)],
    ]
    rows += [line(command, [store["commands"][command] for store in stores]) for command in stores[0]["commands"]]
    rows.append(line("opening alone", [store["open"] for store in stores]))
    rows.append(line("writing the catalogue", [store["refresh"] for store in stores]))
    without = stores[0]["without_catalogue"]
    rows += [line(f"{what}, no catalogue", [store["without_catalogue"][what] for store in stores]) for what in without]
    return markdown(["records", *(f"{store['records']:,}" for store in stores)], rows)


def documents(name: str) -> str:
    """Seconds and peak memory of commands on stores of many documents, a column for each number of them."""
    runs = view(name)["found"]
    commands = {  # whether the seconds beyond those of a pack of one are shown for each document
        "one": ("pack one, into a new store", False),
        "new": ("pack them", True),
        "again": ("pack them again", True),
        "one more": ("pack one more", False),
        "unpack": ("unpack to JSON lines", False),
        "list": ("list 20", False),
        "cat": ("read one", False),
    }

    def cost(run: dict[str, Any], what: str, each: bool) -> str:
        taken = run["commands"][what]
        beyond = max(0.0, taken["seconds"] - run["commands"]["one"]["seconds"])
        said = [f"{taken['seconds']:.1f} s", f"{taken['bytes'] / 2**20:,.0f} MiB"]
        if each:
            said.insert(1, f"{1000 * beyond / run['documents']:.2f} ms each")
        return ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in said)

    rows = [[said, *(cost(run, what, each) for run in runs)] for what, (said, each) in commands.items()]
    rows.append(["bytes of the store for each", *(f"{run['store_bytes'] / run['documents']:,.0f}" for run in runs)])
    return markdown(["documents", *(f"{run['documents']:,}" for run in runs)], rows)


TABLES: dict[str, Callable[..., str]] = {
    "numerics": numerics,
    "leads": leads,
    "damage": damage,
    "damage-ends": damage_ends,
    "damage-files": damage_files,
    "kills": kills,
    "isolation": isolation,
    "scale": scale,
    "documents": documents,
}
