"""`train plan`: FLOPs and bytes against real networks and engines, times by hand."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_runs import activation_bytes, make_inputs, measure
from palaestra.shards.corpus import Corpus
from palaestra.shards.errors import ConfigError, PalaestraError
from palaestra.train import engine
from palaestra.train.config import TrainConfig, load_preset
from palaestra.train.execution import Execution
from palaestra.train.model import PolicyValueNetwork
from palaestra.train.plan import memory as sizes
from palaestra.train.plan.command import PlanArguments, plan_command
from palaestra.train.plan.communication import communication, transfer_s
from palaestra.train.plan.fit import fit_or_raise, least_recompute, usable
from palaestra.train.plan.flops import (
    MODULES,
    attention_flops,
    forward_flops,
    parameter_counts,
    parameters_by_component,
    recomputed_flops,
    train_flops,
)
from palaestra.train.plan.hardware import DEVICES, peak_flops
from palaestra.train.plan.memory import memory
from palaestra.train.plan.plan import SUITE, Plan, Workload, inference, plan
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

TINY, LARGE = load_preset("tiny").model, load_preset("30b").model
BOTH, STATE = ("pixels", "state"), ("state",)
EXECUTION = Execution(ranks=128, micro_batch=2, accumulation=8)
STEPS = 24  # of the segments whose FLOPs torch counts


def plan_30b(device: str = "h100", ranks: int = 128, **execution: Any) -> Plan:
    accumulation = -(-2048 // (2 * ranks))
    shared = Execution(ranks=ranks, micro_batch=2, accumulation=accumulation, **execution)
    return plan(Workload(LARGE), shared, DEVICES[device])


def counted(preset: str, inputs: tuple[str, ...]) -> tuple[dict[str, int], int, int]:
    """FLOPs of two segments by torch's count: forwards by component and in all, backwards."""
    network = PolicyValueNetwork(load_preset(preset).model, SUITE, inputs)
    network.initialise(torch.Generator().manual_seed(0))
    with sdpa_kernel(SDPBackend.MATH):  # torch does not count its fused attention on a CPU
        with FlopCounterMode(display=False) as forward:
            policy, value = network(*make_inputs("pixels" in inputs, STEPS))
        with FlopCounterMode(display=False) as backward:
            (policy.sum() + value.sum()).backward()
    by_module = {name: sum(counts.values()) for name, counts in forward.get_flop_counts().items()}
    found = {
        component: sum(
            flops for name, flops in by_module.items()
            if (parts := name.split("."))[1:2] and parts[1] in modules
            and (len(parts) == 2 or (len(parts) == 3 and parts[2].isdigit()))
        )
        for component, modules in MODULES.items()
    }  # fmt: skip
    return found, forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("inputs", [BOTH, STATE])
@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_flops_are_those_of_the_real_network(preset: str, inputs: tuple[str, ...]) -> None:
    model = load_preset(preset).model
    by_component, forward, backward = counted(preset, inputs)
    predicted = forward_flops(model, SUITE, inputs, STEPS)
    assert {name: 2 * flops for name, flops in predicted.items()} == by_component
    assert 2 * sum(predicted.values()) == forward
    assert 2 * train_flops(model, SUITE, inputs, STEPS) == forward + backward


def test_attention_by_hand() -> None:
    # q and out 2·4·4 each, k and v 2·4·2 each for 3 tokens, scores and sums 2·4 each for 5 keys
    assert attention_flops(width=4, key_width=2, context=3, keys=5) == 64 + 96 + 80


def test_recomputed_blocks_count_once_more() -> None:
    flops = forward_flops(TINY, SUITE, BOTH)
    assert recomputed_flops(TINY, SUITE, BOTH, 0) == 0
    assert recomputed_flops(TINY, SUITE, BOTH, 1) == flops["encoder"]
    assert recomputed_flops(TINY, SUITE, BOTH, 2) == flops["encoder"] + flops["decoder"]


@pytest.mark.parametrize("inputs", [BOTH, STATE])
def test_components_sum_to_all_parameters(inputs: tuple[str, ...]) -> None:
    network = PolicyValueNetwork(TINY, SUITE, inputs)
    found = parameters_by_component(TINY, SUITE, inputs)
    assert sum(found.values()) == sum(p.numel() for p in network.parameters())
    assert found["encoder"] == TINY.block_parameters + TINY.width
    assert (found["perception"] > 0) == (inputs == BOTH)


@pytest.mark.parametrize("recompute", [0, 2])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("inputs", [BOTH, STATE])
def test_activations_are_those_that_autograd_saves(
    inputs: tuple[str, ...], dtype: torch.dtype, fused: bool, recompute: int
) -> None:
    predicted, measured = activation_bytes("tiny", inputs, dtype, fused, recompute)
    assert predicted == pytest.approx(measured, rel=0.06)


def test_activations_of_a_larger_network() -> None:
    """Frames of more than 32 patches, whose attention is fused; some blocks recomputed."""
    predicted, measured = activation_bytes("small", BOTH, torch.bfloat16, True, 3)
    assert predicted == pytest.approx(measured, rel=0.02)


def test_states_are_those_of_a_real_engine() -> None:
    found = measure(1, "tiny", "state", "bf16")
    for kind, tolerance in (("parameters", 0), ("gradients", 0), ("optimizer", 1e-4)):
        assert found[kind][0] == pytest.approx(found[kind][1], rel=tolerance)
    assert found["peak"][0] == pytest.approx(found["peak"][1], rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "ranks"), [("bf16", 2), ("fp32", 2), ("bf16", 4)])
def test_states_of_several_ranks(precision: str, ranks: int) -> None:
    for kind, (predicted, measured) in measure(ranks, "small", "state", precision).items():
        assert predicted == pytest.approx(measured, rel=0.1 if kind == "peak" else 1e-3), kind


def test_states_by_hand() -> None:
    """16 bytes a parameter and 2 more of weights, of which each stage shares more."""
    elements = list(parameter_counts(TINY, SUITE, STATE).values())
    whole, share = sum(elements), sum(math.ceil(n / 4) for n in elements)
    expected = {  # of all those of tiny none is too large to stay whole
        1: (2 * whole, 4 * whole, 12 * share),
        2: (2 * whole, 4 * share, 12 * share),
        3: (2 * (share + whole), 4 * share, 12 * share),
    }
    for stage, states in expected.items():
        found = memory(TINY, SUITE, STATE, Execution(ranks=4, zero_stage=stage))
        assert (found.parameters, found.gradients, found.optimizer) == states


def test_partitions_fall_as_one_over_ranks() -> None:
    one, many = (
        memory(LARGE, SUITE, BOTH, dataclasses.replace(EXECUTION, ranks=ranks))
        for ranks in (2, 256)
    )
    for kind in ("gradients", "optimizer"):
        assert getattr(one, kind) / getattr(many, kind) == pytest.approx(128, rel=1e-3)
    assert one.activations == many.activations


def test_offloaded_states_lie_in_the_host() -> None:
    here = memory(LARGE, SUITE, BOTH, EXECUTION)
    away = memory(LARGE, SUITE, BOTH, dataclasses.replace(EXECUTION, offload="all"))
    assert away.parameters == away.gradients == away.optimizer == 0
    assert away.host == here.parameters + here.gradients + here.optimizer
    assert away.activations == here.activations


def test_hpz_keeps_a_second_share() -> None:
    plain = memory(LARGE, SUITE, BOTH, EXECUTION)
    second = memory(LARGE, SUITE, BOTH, dataclasses.replace(EXECUTION, hpz=8))
    whole = sum(parameter_counts(LARGE, SUITE, BOTH).values())
    assert second.parameters - plain.parameters == pytest.approx(2 * whole / 8, rel=1e-6)


def test_the_engine_runs_with_the_sizes_that_were_planned() -> None:
    config = TrainConfig(
        corpora=(), weights=(), preset="30b", model=LARGE, inputs="state", updates=1, batch=2048,
        peak_rate=3e-4, end_rate=0.0, warm_up=1, precision="bf16",
    )  # fmt: skip
    zero = engine.deepspeed_config(config, EXECUTION)["zero_optimization"]
    assert zero["stage3_max_live_parameters"] == sizes.MAX_LIVE
    assert zero["stage3_param_persistence_threshold"] == sizes.PERSISTENT
    assert zero["stage3_model_persistence_threshold"] == sizes.ALL_PERSISTENT
    assert zero["sub_group_size"] == sizes.SUB_GROUP
    bucket = max(LARGE.block_parameters, sizes.SMALLEST_BUCKET)
    assert zero["reduce_bucket_size"] == zero["stage3_prefetch_bucket_size"] == bucket


def test_a_lane_holds_its_keys_and_values() -> None:
    network = PolicyValueNetwork(TINY, SUITE, STATE).requires_grad_(False)
    cache = network.new_cache(256)
    state, _, words, action, history = make_inputs(pixels=False)
    network(state[:1, :1], None, words[:1], action[:1, :1], history[:1], cache)
    held = [*cache.encoder, *cache.decoder]
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in held)
    assert inference(TINY, STATE, 0, DEVICES["a100"], item=4).lane == real
    # 30b, bf16: 42 blocks × 18 tokens and 9 more, each keys and values of 8 heads of 128, 256 times
    lane = 2 * 256 * (42 * 18 + 9) * 2 * 8 * 128
    found = inference(LARGE, BOTH, 30 * 10**9, DEVICES["a100"])
    assert (found.weights, found.lane, found.lanes) == (60 * 10**9, lane, int(13.6e9 / lane))
    assert found.step_s == pytest.approx(60 / 2039)


def test_transfers_by_hand() -> None:
    device = dataclasses.replace(DEVICES["a100"], link_gb_s=100, network_gb_s=10)
    assert transfer_s(8 * 10**9, 8, device) == pytest.approx(7 / 100 / 0.8)
    # 3 of 4 nodes' shares come by 8 adapters: 6 GB at 80 GB/s; the links need longer, 0.0775 s
    assert transfer_s(8 * 10**9, 32, device) == pytest.approx(7.75 / 100 / 0.8)
    slow = dataclasses.replace(device, network_gb_s=1)
    assert transfer_s(8 * 10**9, 32, slow) == pytest.approx(6 / 8 / 0.8)


def test_communication_by_stage() -> None:
    device, one = DEVICES["a100"], transfer_s(2 * 10**9, 16, DEVICES["a100"])
    found = {
        stage: communication(10**9, Execution(ranks=16, zero_stage=stage), device)
        for stage in (1, 2, 3)
    }
    assert found[3].micro_batch_bytes == 6 * 10**9
    assert found[3].micro_batch_s == pytest.approx(3 * one) and found[3].update_s == 0
    assert found[2].micro_batch_s == found[2].update_s == pytest.approx(one)
    assert found[1].micro_batch_s == 0 and found[1].update_s == pytest.approx(5 * one)
    assert communication(10**9, Execution(), device).micro_batch_bytes == 0
    near = communication(10**9, Execution(ranks=16, hpz=8), device)
    assert near.micro_batch_s < found[3].micro_batch_s


@pytest.mark.parametrize(("device", "update_s"), [("a100", 91.6), ("h100", 28.9)])
def test_the_reference_run_fits(device: str, update_s: float) -> None:
    """954 updates are an epoch; time is FLOPs over 128 peaks at 40 %."""
    found = plan_30b(device)
    assert found.fits and found.hidden and found.memory.total <= 0.92 * 80e9
    flops = 2048 * train_flops(LARGE, SUITE, BOTH)
    assert found.update_s == pytest.approx(flops / (0.4 * 128 * DEVICES[device].bf16_flops))
    assert found.update_s == pytest.approx(update_s, abs=0.1)
    assert found.epoch_updates == pytest.approx(953.67, abs=0.01)
    assert found.updates == pytest.approx(7 * 7 * 86400 / found.update_s)
    assert found.mfu == pytest.approx(0.4)
    assert found.hfu == pytest.approx(found.hardware_flops / found.model_flops * 0.4)


def test_no_fewer_blocks_could_be_recomputed() -> None:
    chosen = plan_30b().execution
    fewer = dataclasses.replace(chosen, recompute=chosen.recompute - 1)
    assert chosen.recompute > 0
    assert memory(LARGE, SUITE, BOTH, fewer).total > usable(80e9)


def test_ranks_share_no_more_than_they_need() -> None:
    model, shared = load_preset("1b").model, Execution(ranks=8, zero_stage=1)

    def chosen(needed: float) -> Execution:
        device = dataclasses.replace(DEVICES["h100"], memory_gb=needed / usable(1e9))
        return plan(Workload(model), shared, device, stage=True).execution

    for stage in (1, 2):
        needed = memory(model, SUITE, BOTH, dataclasses.replace(shared, zero_stage=stage)).total
        assert chosen(needed + 1e6) == dataclasses.replace(shared, zero_stage=stage)
        assert chosen(needed - 1e6).zero_stage == stage + 1
    assert chosen(needed - 1e6).recompute > 0


def test_ranks_that_do_not_divide_the_batch_leave_places_empty() -> None:
    found = plan_30b(ranks=120)  # 9 micro-batches of 2 on each: 2160 places
    assert found.empty_slots == pytest.approx(112 / 2160)
    assert found.mfu == pytest.approx(0.4 * 2048 / 2160)


def test_a_slow_network_decides() -> None:
    slow = dataclasses.replace(DEVICES["h100"], network_gb_s=1)
    found = plan(Workload(LARGE), EXECUTION, slow)
    assert not found.hidden
    assert found.update_s == pytest.approx(8 * found.communication.micro_batch_s)
    assert found.mfu < 0.4


def test_what_does_not_fit_names_what_does() -> None:
    found = plan_30b("a100", ranks=8)
    assert not found.fits and found.execution.recompute == 51
    assert found.verdict.startswith("does not fit: a GPU needs 1")
    assert "GB of optimizer" in found.verdict
    assert found.alternatives[0].startswith("32 GPUs with --recompute ")
    assert found.alternatives[1].startswith("--preset 7b --recompute ")
    enough = plan_30b("a100", ranks=32)
    assert enough.fits and not plan_30b("a100", ranks=16).fits


def test_fit_or_raise() -> None:
    room = ("30b", LARGE, SUITE, BOTH)
    with pytest.raises(ConfigError, match=r"^preset 30b does not fit: .* --preset 7b .* \d+$"):
        fit_or_raise(*room, dataclasses.replace(EXECUTION, ranks=8), 80e9)
    with pytest.raises(ConfigError, match=r"would fit: --recompute 3\d$"):
        fit_or_raise(*room, EXECUTION, 80e9)
    fit_or_raise(*room, least_recompute(LARGE, SUITE, BOTH, EXECUTION, 80e9), 80e9)
    fit_or_raise("tiny", TINY, SUITE, BOTH, Execution(), 2e9)
    with pytest.raises(ConfigError, match=r"^preset tiny does not fit: [^;]*; of its 0.1 GB"):
        fit_or_raise("tiny", TINY, SUITE, BOTH, Execution(), 0.1e9)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12), ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA GeForce RTX 3090", None), ("cpu", None),
    ],
)  # fmt: skip
def test_peaks_by_device_name(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


def test_it_prints_what_it_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_command(PlanArguments()) == 0
    out = capsys.readouterr().out
    assert out.startswith("30b on 128 × h100 (80 GB, 989 TFLOP/s), pixels+state\n")
    assert "30,049,100,032" in out and "954 updates" in out
    assert out.splitlines()[-1].startswith("fits: a GPU needs ")
    assert plan_command(PlanArguments(gpus=8)) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("would fit: ")


def test_it_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = PlanArguments(
        preset="tiny", gpus=3, memory=16, flops=1e12, network=1, link=10, gpus_per_node=1,
        batch=64, recompute="none", json=True,
    )  # fmt: skip
    assert plan_command(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] and found["execution"]["recompute"] == 0
    assert found["device"] == {
        "name": "h100 with other numbers", "memory_gb": 16, "bf16_flops": 1e12,
        "bandwidth_gb_s": 3350, "link_gb_s": 10, "network_gb_s": 1, "gpus_per_node": 1,
    }  # fmt: skip
    assert found["empty_slots"] == pytest.approx(2 / 66)
    kinds = [size for kind, size in found["memory"].items() if kind not in ("host", "total")]
    assert found["memory"]["total"] == sum(kinds)


def test_it_plans_for_a_corpus(
    make_corpus: Callable[..., Corpus], capsys: pytest.CaptureFixture[str]
) -> None:
    """Four episodes of 304 steps: segments of 256 and 48, 152 in the mean."""
    given = {"preset": "tiny", "gpus": 1, "batch": 4, "corpus": make_corpus().url}
    assert plan_command(PlanArguments(**given, inputs="state", json=True)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["workload"]["shapes"]["state_size"] == 5
    assert found["workload"]["corpus_steps"] == 1216
    assert found["padded_steps"] == pytest.approx(1 - 152 / 256)
    assert found["epoch_updates"] == pytest.approx(2)
    with pytest.raises(ConfigError, match="patch 16 does not divide the image size 8"):
        plan_command(PlanArguments(**given))


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ({"gpus": 0}, "--gpus"), ({"mfu": 1.5}, "--mfu"), ({"memory": -3}, "--memory"),
        ({"gpus_per_node": 0}, "--gpus-per-node"), ({"link": 0}, "--link"),
        ({"device": "v100"}, "--device"), ({"inputs": "sound"}, "--inputs"),
        ({"batch": 64}, "--batch"), ({"hpz": 3}, "--hpz"), ({"zero_stage": "4"}, "--zero-stage"),
        ({"offload": "disk"}, "--offload"), ({"recompute": "some"}, "--recompute"),
        ({"preset": "40b"}, "40b"), ({"steps": 0}, "--steps"), ({"weeks": float("nan")}, "--weeks"),
    ],
)  # fmt: skip
def test_bad_input_names_the_flag(given: dict[str, Any], flag: str) -> None:
    with pytest.raises(PalaestraError, match=flag):
        plan_command(PlanArguments(**given))


@pytest.mark.parametrize("device", ["h100", "a100"])
def test_the_page_shows_what_is_printed(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text()
    plan_command(PlanArguments(device=device))
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    start = 0 if device == "h100" else printed.index("  work")  # above it all is the same
    wanted = [line for line in printed[start:] if line]
    shown = [line for line in page.splitlines() if line]
    assert any(shown[i : i + len(wanted)] == wanted for i in range(len(shown)))
