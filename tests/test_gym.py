"""Environments for Gymnasium and PettingZoo are the worlds they stand for, to the last bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from palaestra.generate.adapter import env_id
from palaestra.generate.gym import PalaestraEnv, PalaestraVectorEnv, parallel_env
from palaestra.generate.policies import Expert
from palaestra.generate.registry import task_class, task_classes
from palaestra.generate.rollout import Completion
from palaestra.generate.slots import ACTION_SIZE, SLOTS
from palaestra.generate.view import control_period
from palaestra.generate.world import World
from palaestra.shards.errors import ConfigError, RolloutError, UnknownNameError
from palaestra.shards.schema import EVALUATION_BIT
from pettingzoo.test import parallel_api_test, parallel_seed_test

CASES = [(name, level) for name, c in task_classes().items() for level in range(1, c.levels + 1)]
ALONE = [case for case in CASES if task_class(case[0]).players == 1]
MATCHES = [case for case in CASES if task_class(case[0]).players == 2]
# a state has no bounds worth stating, and Gymnasium's own MuJoCo environments state none either
unbounded = pytest.mark.filterwarnings("ignore:.*infinity. This is probably too")


def equal(a: Any, b: Any) -> bool:
    """Whether two nests of dicts, tuples and arrays hold the same."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return np.array_equal(a, b)


def actions(shape: tuple[int, ...], number: int) -> NDArray[np.float32]:
    """Uniform and a little beyond the bounds."""
    return np.random.default_rng(number).uniform(-1.2, 1.2, shape).astype(np.float32)


def padded(action: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a world takes, of what an environment was given: (n, ACTION_SIZE)."""
    lanes = np.atleast_2d(np.clip(action, -1, 1))
    return np.pad(lanes, ((0, 0), (0, ACTION_SIZE - lanes.shape[1])))


# one environment


def test_every_level_for_one_player_is_registered() -> None:
    ours = {name for name in gymnasium.registry if name.startswith("palaestra/")}
    assert ours == {env_id(*case) for case in ALONE}
    assert env_id("pick_place", 2) == "palaestra/PickPlace-2-v0"
    for task, level in ALONE:
        assert gymnasium.spec(env_id(task, level)).max_episode_steps == task_class(task).horizon


@unbounded
@pytest.mark.parametrize(("task", "level"), ALONE)
def test_gymnasium_finds_no_fault(task: str, level: int) -> None:
    env = gymnasium.make(env_id(task, level))
    check_env(env.unwrapped)
    world = World(task, level, 1, pixels=False)
    assert env.unwrapped.metadata["render_fps"] == round(1 / control_period(world))


@unbounded
def test_gymnasium_finds_no_fault_with_pixels() -> None:
    for mode in (None, "rgb_array"):
        check_env(gymnasium.make("palaestra/Push-1-v0", pixels=True, render_mode=mode).unwrapped)


@pytest.mark.parametrize(("task", "level"), [("push", 1), ALONE[0], ALONE[-1]])
def test_an_environment_is_its_world(task: str, level: int) -> None:
    env = gymnasium.make(env_id(task, level), pixels=True, image_size=16)
    world = World(task, level, 1, image_size=16)
    observation, info = env.reset(seed=5)
    world.reset([info["seed"]])
    for t in range(12):
        expected = world.observe()
        assert expected.pixels is not None
        assert equal(observation, {"pixels": expected.pixels[0], "state": expected.state[0]})
        assert observation["state"].dtype == np.float32
        action = actions(env.action_space.shape, t)
        step = world.step(padded(action))
        observation, reward, terminated, truncated, info = env.step(action)
        assert (reward, terminated, truncated) == (step.reward[0], step.terminated[0], False)
        assert type(reward) is float and type(terminated) is bool and type(truncated) is bool
        assert info["success"] is bool(step.success[0]) and info["cause"] == ""
        assert info["instruction"] == world.instruction[0]
    assert env.unwrapped.world.final_state_xxh3(0) == world.final_state_xxh3(0)


def test_spaces_hold_what_the_task_uses() -> None:
    env = gymnasium.make("palaestra/Push-1-v0")
    size = sum(slot.size for slot in SLOTS)
    assert env.observation_space.shape == (size,) and env.action_space.shape == (7,)
    state, _ = env.reset(seed=0)
    world = env.unwrapped.world
    assert equal(state[env.unwrapped.slots["to_goal"]], np.zeros(3)) is False
    np.testing.assert_allclose(
        state[env.unwrapped.slots["hand_position"]], world.task.arm.hand[0], rtol=1e-6
    )


def test_seeds_follow_gymnasiums_rules() -> None:
    env, other = (gymnasium.make("palaestra/Reach-1-v0") for _ in range(2))
    seeds = [env.reset(seed=3)[1]["seed"], *(env.reset()[1]["seed"] for _ in range(3))]
    again = [other.reset(seed=3)[1]["seed"], *(other.reset()[1]["seed"] for _ in range(3))]
    assert seeds == again and len(set(seeds)) == 4 and max(seeds) < EVALUATION_BIT
    assert env.reset(seed=4)[1]["seed"] != seeds[0]
    assert gymnasium.make("palaestra/Reach-1-v0").reset()[1]["seed"] not in seeds


def test_an_episode_is_played_again_by_its_seed() -> None:
    env = gymnasium.make("palaestra/Reach-1-v0")
    first, info = env.reset(seed=9)
    env.reset()
    again, told = env.reset(options={"seed": info["seed"]})
    assert equal(first, again) and told == info
    observation, told = env.reset(options={"seed": EVALUATION_BIT + 7})
    world = World("reach", 1, 1, pixels=False)
    world.reset([EVALUATION_BIT + 7])
    assert told["seed"] == EVALUATION_BIT + 7 and equal(observation, world.observe().state[0])
    for seed in (-1, 1 << 64):
        with pytest.raises(RolloutError, match=r"Reach-1-v0: seed should be in \[0, 2\^64\)"):
            env.reset(options={"seed": seed})


def test_an_expert_succeeds_and_time_runs_out() -> None:
    env = gymnasium.make("palaestra/Reach-1-v0")
    _, info = env.reset(seed=1)
    world, completion = env.unwrapped.world, Completion(1)
    expert, truncated, told = Expert(), False, []
    expert.reset(world, [info["seed"]])
    while not truncated:
        observation = world.observe()
        _, _, terminated, truncated, info = env.step(expert.act(observation)[0, :7])
        succeeded = np.array([info["success"]], np.uint8)
        completion.update(succeeded, np.array([terminated]), len(told))
        told.append(info["is_success"])
    assert len(told) == world.horizon and not terminated
    assert told.index(True) == completion.step[0] + 9 and all(told[told.index(True) :])
    with pytest.raises(ResetNeeded, match="Reach-1-v0: no episode is running"):
        env.unwrapped.step(np.zeros(7))
    assert info["success"] is True and env.reset()[1]["success"] is False
    assert env.step(np.zeros(7))[4]["is_success"] is False


def test_actions_are_clipped_and_wrong_ones_refused() -> None:
    env = PalaestraEnv("reach", 1)
    ends = []
    for action in ([3.0] * 7, np.ones(7, np.float64), np.full(7, 1e30, np.float32)):
        env.reset(seed=2)
        env.step(action)
        ends.append(env.world.final_state_xxh3(0))
    assert len(set(ends)) == 1
    before = env.world.time
    for bad in (np.zeros(8), np.zeros((1, 7)), 0.0):
        with pytest.raises(RolloutError, match=r"Reach-1-v0: action should be of shape \(7,\)"):
            env.step(bad)
    for value in (np.nan, np.inf):
        with pytest.raises(RolloutError, match="Reach-1-v0: action is not finite"):
            env.step(np.full(7, value))
    assert env.world.time == before


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="'raech'; did you mean 'reach'"):
        PalaestraEnv("raech")
    with pytest.raises(ConfigError, match="reach has levels"):
        gymnasium.make("palaestra/Reach-1-v0", level=99)
    for name in ("image_size", "render_size"):
        with pytest.raises(ConfigError, match=f"{name} should be at least 2, is 1"):
            gymnasium.make("palaestra/Reach-1-v0", **{name: 1})
    with pytest.raises(ConfigError, match="render_mode should be None or 'rgb_array', is 'ansi'"):
        PalaestraEnv("reach", render_mode="ansi")
    for name in ("num_envs", "nthread"):
        with pytest.raises(ConfigError, match=f"{name} should be positive, is 0"):
            PalaestraVectorEnv("reach", **{name: 0})
    for task in {task for task, _ in MATCHES}:
        for kind in (PalaestraEnv, PalaestraVectorEnv):
            with pytest.raises(ConfigError, match=f"{task} is a match: .*parallel_env"):
                kind(task)


def test_frames_are_the_rasterizers() -> None:
    env = gymnasium.make(
        "palaestra/Reach-1-v0", render_mode="rgb_array", pixels=True, image_size=96, render_size=96
    )
    observation, _ = env.reset(seed=1)
    frames = [env.render()]
    assert equal(frames[0], observation["pixels"]) and frames[0].dtype == np.uint8
    observation = env.step(np.ones(7))[0]
    assert equal(env.render(), observation["pixels"]) and not equal(env.render(), frames[0])
    plain = gymnasium.make("palaestra/Reach-1-v0", render_mode="rgb_array")
    plain.reset(seed=1)
    assert plain.render().shape == (256, 256, 3)
    assert PalaestraEnv("reach").render() is None
    listed = gymnasium.make("palaestra/Reach-1-v0", render_mode="rgb_array_list", render_size=8)
    listed.reset(seed=1)
    listed.step(np.ones(7))
    assert len(listed.render()) == 2


# many at once


def vectors(name: str, count: int, **options: Any) -> tuple[Any, Any]:
    """Ours, and Gymnasium's of as many single environments."""
    fast = gymnasium.make_vec(name, count, nthread=2, **options)
    assert isinstance(fast, PalaestraVectorEnv)
    slow = gymnasium.make_vec(name, count, vectorization_mode="sync", **options)
    assert fast.observation_space == slow.observation_space
    assert fast.action_space == slow.action_space
    return fast, slow


def sicken(fast: Any, slow: Any, lane: int) -> None:
    """Break one simulation in both, so that its episode ends."""
    fast.world.batch.qvel[lane, 0] = np.nan
    slow.envs[lane].unwrapped.world.batch.qvel[0, 0] = np.nan


@pytest.mark.parametrize(("task", "level"), [("push", 1), ALONE[0]])
def test_a_lane_plays_what_an_environment_plays(task: str, level: int) -> None:
    """Over time limits, endings at different moments and resets by mask."""
    options = {"pixels": True, "image_size": 8, "render_mode": "rgb_array", "render_size": 8}
    fast, slow = vectors(env_id(task, level), 3, max_episode_steps=7, **options)
    assert fast.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert equal(fast.reset(seed=11), slow.reset(seed=11))
    ends = set()
    for t in range(40):
        if t in (3, 20):
            sicken(fast, slow, t % 3)
        if t == 12:
            mask = {"reset_mask": np.array([True, False, True])}
            found, wanted = fast.reset(options=mask), slow.reset(options=dict(mask))
            assert equal(found[0], wanted[0])
            assert equal(found[1]["_seed"], mask["reset_mask"])
        action = actions(fast.action_space.shape, t)
        found, wanted = fast.step(action), slow.step(action)
        assert equal(found, wanted), t
        assert equal(np.array(fast.render()), np.array(slow.render()))
        assert (found[0]["pixels"].std(axis=(1, 2, 3)) > 1).all()  # also of what has just ended
        ends.add(tuple((found[2] | found[3]).tolist()))
    assert len(ends) > 3  # all lanes at once, and some alone


def test_lanes_begin_anew_at_the_step_after_their_end() -> None:
    env = gymnasium.make_vec("palaestra/Reach-1-v0", 2)
    _, first = env.reset(seed=[5, None])
    env.world.batch.qvel[1, 0] = np.nan
    quiet = np.zeros(env.action_space.shape)
    _, reward, terminated, truncated, infos = env.step(quiet)
    assert terminated.tolist() == [False, True] and not truncated.any()
    assert reward[0] > 0 == reward[1] and reward.dtype == np.float64
    assert infos["cause"][1].startswith("diverged") and infos["cause"][0] == ""
    assert env.world.ids.tolist() == [0]
    observation, reward, terminated, _, infos = env.step(quiet)
    assert not terminated.any() and reward[1] == 0 and infos["cause"].tolist() == ["", ""]
    assert infos["seed"][0] == first["seed"][0] and infos["seed"][1] != first["seed"][1]
    assert env.world.elapsed.tolist() == [2, 0]
    world = World("reach", 1, 1, pixels=False)
    world.reset([int(infos["seed"][1])])
    assert equal(observation[1], world.observe().state[0])


def test_all_lanes_run_out_of_time_together() -> None:
    fast, _ = vectors("palaestra/Reach-1-v0", 2, max_episode_steps=2)
    fast.reset(seed=0)
    quiet = np.zeros(fast.action_space.shape)
    limits = [fast.step(quiet)[3].tolist() for _ in range(7)]
    assert limits == [[False] * 2, [True] * 2, [False] * 2] * 2 + [[False] * 2]


def test_wrong_calls_of_a_vector_are_refused() -> None:
    env = gymnasium.make_vec("palaestra/Reach-1-v0", 2, nthread=1)
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(np.zeros((2, 7)))
    with pytest.raises(RolloutError, match="3 seeds for 2 environments"):
        env.reset(seed=[1, 2, 3])
    env.reset(seed=1)
    for mask in (np.zeros(2, bool), np.ones(3, bool), np.ones(2)):
        with pytest.raises(RolloutError, match=r"reset_mask should be bool\(2,\) with some true"):
            env.reset(options={"reset_mask": mask})
    with pytest.raises(RolloutError, match=r"action should be of shape \(2, 7\), is \(7,\)"):
        env.step(np.zeros(7))


# matches


@pytest.mark.parametrize(("task", "level"), [*MATCHES, ("push", 1)])
def test_pettingzoo_finds_no_fault(task: str, level: int) -> None:
    parallel_api_test(parallel_env(task, level), num_cycles=30)
    parallel_seed_test(lambda: parallel_env(task, level), num_cycles=10)


@pytest.mark.parametrize(("task", "level"), [MATCHES[0], ("push", 1)] if MATCHES else [])
def test_a_match_is_its_world(task: str, level: int) -> None:
    options = {"pixels": True, "image_size": 16, "render_mode": "rgb_array", "render_size": 24}
    env, world = parallel_env(task, level, **options), World(task, level, 1, image_size=16)
    observations, infos = env.reset(seed=1)
    players = [f"player_{i}" for i in range(world.task.players)]
    assert env.agents == env.possible_agents == players
    world.reset([infos["player_0"]["seed"]])
    for t in range(6):
        expected = world.observe()
        assert expected.pixels is not None
        for i, agent in enumerate(players):
            mine = {"pixels": expected.pixels[i], "state": expected.state[i]}
            assert equal(observations[agent], mine)
            assert infos[agent]["instruction"] == world.instruction[i]
        if t == 5:
            for both in (world, env.world):
                both.batch.qvel[0, 0] = np.nan
        action = {a: actions(env.action_space(a).shape, 9 * t + i) for i, a in enumerate(players)}
        step = world.step(padded(np.stack(list(action.values()))))
        observations, reward, terminated, truncated, infos = env.step(action)
        assert list(reward.values()) == step.reward.tolist()
        assert list(terminated.values()) == step.terminated.tolist() == [t == 5] * len(players)
        assert not any(truncated.values())
        assert env.render().shape == (24, 24 * len(players), 3)
    assert env.agents == [] and infos["player_0"]["cause"].startswith("diverged")
    with pytest.raises(ResetNeeded, match="no match is running"):
        env.step({})


def test_an_agent_without_an_action_is_named() -> None:
    env = parallel_env("reach")
    env.reset(seed=1)
    with pytest.raises(RolloutError, match="actions should be of player_0, are of nobody"):
        env.step({})
    with pytest.raises(RolloutError, match=r"action of player_0 should be of shape \(7,\)"):
        env.step({"player_0": np.zeros(2)})


# imports

IMPORT_WITHOUT = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys(("gymnasium", "pettingzoo")))  # their import fails
import palaestra.generate as room
for info in pkgutil.walk_packages(room.__path__, "palaestra.generate."):
    # minari needs gymnasium
    if not info.name.endswith((".gym", ".adapter", ".minari_writer", ".minari_source")):
        importlib.import_module(info.name)
"""
MAKE_BY_MODULE = """
import sys, gymnasium
env = gymnasium.make("palaestra.generate.gym:palaestra/Push-1-v0", render_mode="rgb_array")
env.reset(seed=0)
assert env.render().shape == (256, 256, 3)
"""


@pytest.mark.parametrize("code", [IMPORT_WITHOUT, MAKE_BY_MODULE], ids=["without", "by module"])
def test_only_the_adapters_need_gymnasium(code: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
