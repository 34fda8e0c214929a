"""A plan as tables on the console."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table

from ...shards.console import console, fit
from .flops import forward_flops
from .plan import WEEK_S, Plan

KINDS = {
    "parameters": "bf16: a share, small ones whole",
    "gradients": "fp32 sums over micro-batches: a share",
    "optimizer": "fp32 weights and two moments: a share",
    "buffers": "in which gradients are reduced",
    "gathered": "of blocks at work and fetched ahead",
    "activations": "kept by the forward pass",
    "working": "recomputing, reducing; or the update",
}


def print_plan(preset: str, plan: Plan) -> None:
    """Parameters, memory, work and time, then the verdict."""
    device, execution, w = plan.device, plan.execution, plan.workload
    console.print(
        f"{preset} on {execution.ranks} × {device.name} "
        f"({device.memory_gb:g} GB, {device.bf16_flops / 1e12:g} TFLOP/s), {'+'.join(w.inputs)}",
        markup=False,
    )
    blocks = w.model.encoder_blocks + w.model.decoder_blocks
    console.print(
        f"batch {w.batch:,} in {execution.ranks} × {execution.accumulation} × "
        f"{execution.micro_batch} segments, ZeRO-{execution.zero_stage}, {execution.recompute} of "
        f"{blocks} blocks recomputed",
        markup=False,
    )
    for table in (_model(plan), _memory(plan), _work(plan)):
        console.print(fit(table))
    console.print(plan.verdict, markup=False)
    if plan.alternatives:
        console.print(f"would fit: {' or '.join(plan.alternatives)}", markup=False)


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number and name != "" else "left")
    return table


def _model(plan: Plan) -> Table:
    w = plan.workload
    flops = forward_flops(w.model, w.shapes, w.inputs)
    total, all_flops = sum(plan.parameters.values()), sum(flops.values())
    table = _table("component", "parameters", "share", "of the FLOPs")
    for name, count in plan.parameters.items():
        table.add_row(name, f"{count:,}", f"{count / total:.1%}", f"{flops[name] / all_flops:.1%}")
    table.add_section()
    table.add_row("all", f"{total:,}", "", f"{_scaled(all_flops)}FLOP a segment forwards")
    return table


def _memory(plan: Plan) -> Table:
    table = _table("GPU memory at its fullest", "GB", "")
    for name, what in KINDS.items():
        table.add_row(name, _gb(getattr(plan.memory, name)), what)
    table.add_section()
    free = (plan.usable - plan.memory.total) / 1e9
    note = f"of {plan.usable / 1e9:.1f} usable: {free:.1f} to spare" if plan.fits else (
        f"of {plan.usable / 1e9:.1f} usable: {-free:.1f} too much"
    )  # fmt: skip
    table.add_row("all", _gb(plan.memory.total), note)
    if plan.memory.host:
        table.add_row("in the host's", _gb(plan.memory.host), "for each GPU")
    return table


def _work(plan: Plan) -> Table:
    table = _table("work", "", "")
    for row in _rows(plan):
        table.add_row(*row)
    return table


def _rows(plan: Plan) -> Iterator[tuple[str, str, str]]:
    w, sent, peak = plan.workload, plan.communication, plan.device.bf16_flops
    yield "update", f"{plan.steps:,.0f} steps", f"{_scaled(plan.tokens)} tokens of the encoder"
    yield "", f"{_scaled(plan.model_flops)}FLOP", f"{_scaled(plan.hardware_flops)}FLOP computed"
    yield "micro-batch", _seconds(plan.compute_s), f"computing, at {w.mfu:.0%} MFU (assumed)"
    wait = "hidden behind computing" if plan.hidden else "longer than computing: it decides"
    if sent.micro_batch_bytes:
        yield "", _seconds(sent.micro_batch_s), f"{_gb(sent.micro_batch_bytes)} GB sent, {wait}"
    if sent.update_bytes:
        yield "communication", _seconds(sent.update_s), f"{_gb(sent.update_bytes)} GB an update"
    if plan.empty_slots > 0:
        yield "empty places", f"{plan.empty_slots:.1%}", "GPUs do not divide the batch"
    if plan.padded_steps > 0:
        yield "padding", f"{plan.padded_steps:.1%}", f"segments of {w.segment_steps:.0f} steps"
    yield "time of an update", _seconds(plan.update_s), f"MFU {plan.mfu:.1%}, HFU {plan.hfu:.1%}"
    yield (
        f"in {w.weeks:g} weeks", f"{plan.updates:,.0f} updates",
        f"{plan.updates / plan.epoch_updates:,.1f} epochs of {_scaled(w.corpus_steps)} steps",
    )  # fmt: skip
    days = plan.epoch_updates * plan.update_s / (WEEK_S / 7)
    yield "an epoch", f"{plan.epoch_updates:,.0f} updates", f"{days:.3g} days"
    play = plan.inference
    read = f"of weights: {play.step_s:.2g} s to read them"
    yield "inference, bf16", f"{_gb(play.weights)} GB", read
    yield "", f"{_gb(play.lane)} GB", f"of keys and values a lane: {play.lanes:,} fit"
    yield "peak", f"{_scaled(peak * plan.execution.ranks)}FLOP/s", "of all GPUs, as stated"


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f}" if size >= 1e10 else f"{size / 1e9:.3g}"


def _seconds(time: float) -> str:
    return f"{time:,.0f} s" if time >= 1000 else f"{time:.3g} s"


def _scaled(number: float) -> str:
    """A number with its prefix, to which a unit may be joined."""
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:,.0f}"
