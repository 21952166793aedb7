"""What a run is going to take, as it is printed."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from oboro.base.amounts import amount
from oboro.base.counted import counted
from oboro.plan import Plan
from oboro.report.table import WIDE

SHARE = 0.9  # of the memory: more of it will not do, what libraries and the system need comes on top


def print_plan(plan: Plan, facts: Mapping[str, Any]) -> None:
    """Tables of time and memory, and advice, on stdout."""
    console = Console()
    wide = None if console.is_terminal else WIDE
    table = Table("", "each", "times", "in all")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("until the first step", "", "", duration(plan.startup_seconds))
    table.add_row("steps", duration(plan.step_seconds), f"{plan.steps:,}", duration(plan.training_seconds))
    for item in plan.items:
        table.add_row(
            item.name,
            duration(item.whole(plan.devices) / item.times),
            f"{item.times:,}",
            duration(item.whole(plan.devices)),
        )
    table.add_row("the run", "", "", duration(plan.seconds))
    console.print(table, width=wide)
    console.print(memory_table(facts["bytes"]), width=wide)
    for line in lines(plan, facts):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for sentence in [*plan.advice, *memory_advice(facts)]:
        console.print("[yellow]note:[/] " + escape(sentence), soft_wrap=True)


def memory_table(sizes: Mapping[str, int]) -> Table:
    table = Table("memory of a device", "")
    table.columns[1].justify = "right"
    for name, size in sizes.items():
        table.add_row(name, amount(size))
    table.add_row("in all", amount(sum(sizes.values())))
    return table


def lines(plan: Plan, facts: Mapping[str, Any]) -> list[str]:
    """What is no row of a table."""
    made = [
        f"{facts['parameters']:,} weights are trained, with {facts['operations_per_sample'] / 1e9:,.3g} GFLOP for each "
        f"sample and step; {plan.batch_size:,} samples a step are {plan.images_per_second:,.4g} a second on "
        f"{counted(plan.devices, 'devices')}."
    ]
    if plan.cost is not None:
        made.append(f"{counted(plan.devices, 'devices')} for {duration(plan.seconds)} cost {plan.cost:,.2f}.")
    return made


def memory_advice(facts: Mapping[str, Any]) -> list[str]:
    needed, whole = sum(facts["bytes"].values()), facts["memory"]
    if not whole or needed < SHARE * whole:
        return []
    return [
        f"{amount(needed)} are needed and the device has {amount(whole)}: raise trainer.accumulate_grad_batches, or "
        "set model.checkpointing=true where the model has it."
    ]


def duration(seconds: float) -> str:
    """``35 ms``, ``4.1 s``, ``5 min 12 s``, ``3 h 5 min``."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours < 1:
        return f"{minutes} min {rest} s"
    return f"{hours:,} h {minutes_left} min"
