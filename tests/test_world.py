"""Every task at every level keeps the same promises; a world keeps its lanes apart."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray
from palaestra.generate.policies import Expert, Random
from palaestra.generate.registry import make_task, task_class, task_classes
from palaestra.generate.rollout import Completion, Policy
from palaestra.generate.scenes import arm
from palaestra.generate.slots import ACTION_SIZE, SLOTS
from palaestra.generate.world import Observation, Step, World, generators
from palaestra.shards.errors import ConfigError, RolloutError, UnknownNameError
from palaestra.shards.schema import EVALUATION_BIT, INSTRUCTION_BYTES, PROPRIOCEPTION

IMAGE = 32
SEEDS = range(100, 108)
CASES = [(name, level) for name, c in task_classes().items() for level in range(1, c.levels + 1)]


def over(cases: Sequence[tuple[str, int]]) -> pytest.MarkDecorator:
    """Parametrise; one worker runs all tests of a case, which share its episodes."""
    marks = [pytest.mark.xdist_group(f"{task}-{level}") for task, level in cases]
    params = [pytest.param(*case, marks=mark) for case, mark in zip(cases, marks, strict=True)]
    return pytest.mark.parametrize(("task", "level"), params)


every_task = over(CASES)
every_single = over([case for case in CASES if task_class(case[0]).players == 1])
every_match = over([case for case in CASES if task_class(case[0]).players == 2])


class Still:
    """Does nothing."""

    def reset(self, world: World, seeds: Sequence[int]) -> None:
        self.actions = np.zeros((world.nlane, ACTION_SIZE), np.float32)

    def act(self, observation: Observation) -> NDArray[np.float32]:
        return self.actions


class Replay:
    """Repeats stored actions (nlane, T, action_size), then holds the last."""

    def __init__(self, actions: NDArray[np.float32]) -> None:
        self.actions = actions

    def reset(self, world: World, seeds: Sequence[int]) -> None:
        self.world = world

    def act(self, observation: Observation) -> NDArray[np.float32]:
        return self.actions[:, min(self.world.time, self.actions.shape[1] - 1)]


@dataclass(frozen=True)
class Lane:
    """What one player of an episode saw, did and got, for as long as it lasted."""

    state: NDArray[np.float32]
    pixels: NDArray[np.uint8] | None
    action: NDArray[np.float32]
    reward: NDArray[np.float32]
    success: NDArray[np.uint8]
    terminated: bool
    truncated: bool
    completion_step: int
    final_state_xxh3: int

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Lane)
        mine, theirs = vars(self), vars(other)
        return all(np.array_equal(mine[name], theirs[name]) for name in mine)


def record(world: World, seeds: Sequence[int], policy: Policy) -> list[Lane]:
    """Play a wave by hand."""
    world.reset(seeds)
    policy.reset(world, seeds)
    completion = Completion(world.nlane)
    seen: list[Observation] = []
    done: list[NDArray[np.float32]] = []
    steps: list[Step] = []
    length, hashes = np.zeros(world.nlane, int), np.zeros(world.nlane, np.uint64)
    while len(world.ids) and world.time < world.horizon:
        lanes = np.repeat(np.isin(np.arange(world.nsim), world.ids), world.task.players)
        seen.append(world.observe())
        done.append(policy.act(seen[-1]).copy())
        steps.append(world.step(done[-1]))
        completion.update(steps[-1].success, steps[-1].terminated, world.time - 1)
        length += lanes
        hashes[lanes] = [
            world.final_state_xxh3(lane // world.task.players) for lane in lanes.nonzero()[0]
        ]
    return [
        Lane(
            np.stack([s.state[lane] for s in seen[:n]]),
            np.stack([s.pixels[lane] for s in seen[:n]]) if world.pixels else None,
            np.stack([a[lane] for a in done[:n]]),
            np.array([s.reward[lane] for s in steps[:n]]),
            np.array([s.success[lane] for s in steps[:n]]),
            bool(steps[n - 1].terminated[lane]),
            bool(steps[n - 1].truncated[lane]),
            int(completion.step[lane]),
            int(hashes[lane]),
        )
        for lane, n in enumerate(length)
    ]


@functools.cache
def expert_lanes(task: str, level: int) -> list[Lane]:
    """What slightly noisy experts did: shared by the tests below, which only read it."""
    return record(World(task, level, len(SEEDS), image_size=IMAGE), SEEDS, Expert(0.1))


def scripted(world: World) -> NDArray[np.float32]:
    """The expert's actions now, as a world takes them."""
    return np.clip(world.task.expert(), -1, 1)


def completions(lanes: list[Lane]) -> int:
    return sum(lane.completion_step >= 0 for lane in lanes)


@every_task
def test_a_task_declares_itself(task: str, level: int) -> None:
    cls = task_class(task)
    assert cls.name == task and cls.horizon in (256, 512, 1024) and cls.players in (1, 2)
    assert cls.reward_range == ((0.0, 1.0) if cls.players == 1 else (-1.0, 1.0))
    assert cls.__doc__ and all(f"evel {n}" in cls.__doc__ for n in range(1, cls.levels + 1))
    assert cls.family in ("arm", "locomotion", "match") and 1 <= cls.action_size <= ACTION_SIZE
    assert (cls.family == "match") == (cls.players == 2) == (len(cls.cameras) == 2)
    assert cls.held_out <= set(range(1, cls.levels + 1))
    instructions = make_task(task, level).instructions()
    assert len(instructions) == cls.players
    assert all(0 < len(text.encode()) <= INSTRUCTION_BYTES for text in instructions)
    world = World(task, level, 3, image_size=IMAGE)
    world.reset([1, 2, 3])
    observation = world.observe()
    assert [slot.name for slot in world.schema.slots] == [slot.name for slot in SLOTS]
    assert set(PROPRIOCEPTION) <= {slot.name for slot in SLOTS}
    assert observation.state.shape == (world.nlane, world.schema.state_size)
    assert observation.state.dtype == np.float32
    assert observation.pixels is not None
    assert observation.pixels.shape == (world.nlane, IMAGE, IMAGE, 3)
    assert observation.pixels.dtype == np.uint8
    assert tuple(observation.instruction) == instructions * 3
    assert world.task.expert().shape == (world.nlane, ACTION_SIZE)
    assert world.task.expert().dtype == np.float32
    step = world.step(np.zeros((world.nlane, ACTION_SIZE), np.float32))
    dtypes = [array.dtype for array in step]
    assert dtypes == [np.float32, np.uint8, np.bool_, np.bool_]
    assert all(array.shape == (world.nlane,) for array in step)


@every_task
def test_episodes_keep_their_ranges(task: str, level: int) -> None:
    cls = task_class(task)
    for lane in expert_lanes(task, level):
        assert len(lane.reward) <= cls.horizon
        assert lane.truncated == (len(lane.reward) == cls.horizon and not lane.terminated)
        assert lane.truncated != lane.terminated
        assert cls.reward_range[0] <= lane.reward.min() <= lane.reward.max() <= cls.reward_range[1]
        assert set(lane.success.tolist()) <= {0, 1}
        assert np.isfinite(lane.state).all() and np.abs(lane.state).max() < 100
        assert np.isfinite(lane.action).all() and np.abs(lane.action).max() <= 1


@every_task
def test_observations_change_with_time_and_seed(task: str, level: int) -> None:
    lanes = expert_lanes(task, level)
    first_frames = set()
    for lane in lanes:
        assert lane.pixels is not None
        first_frames.add(lane.pixels[0].tobytes())
        assert np.ptp(lane.state, axis=0).max() > 0.01
        assert (lane.pixels != lane.pixels[0]).any(axis=(1, 2, 3)).mean() > 0.5
        assert len(np.unique(lane.pixels[0].reshape(-1, 3), axis=0)) > 20
    assert len(first_frames) == len({lane.state[0].tobytes() for lane in lanes}) == len(lanes)
    assert len({lane.final_state_xxh3 for lane in lanes}) == len(lanes) // task_class(task).players


@every_single
def test_it_can_be_solved_but_not_by_chance(task: str, level: int) -> None:
    """How often, over 100 seeds, is in evaluate/baselines.json."""
    world = World(task, level, len(SEEDS), pixels=False)
    lanes = expert_lanes(task, level)
    idle = record(world, SEEDS, Still())
    assert completions(lanes) >= len(SEEDS) // 4
    assert completions(idle) == 0
    assert completions(record(world, SEEDS, Random())) <= 1
    assert sum(lane.reward.sum() for lane in lanes) > sum(lane.reward.sum() for lane in idle)


@every_match
def test_matches_have_at_most_one_winner(task: str, level: int) -> None:
    lanes = expert_lanes(task, level)
    decided = 0
    for first, second in zip(lanes[::2], lanes[1::2], strict=True):
        assert len(first.reward) == len(second.reward) and first.terminated == second.terminated
        assert not (first.success[-1] and second.success[-1])
        np.testing.assert_allclose(first.reward, -second.reward, atol=1e-6)  # zero-sum
        decided += int(first.success[-1] or second.success[-1])
    assert decided >= len(SEEDS) // 4


@every_match
def test_a_symmetric_match_favours_neither_side(task: str, level: int) -> None:
    if len(set(make_task(task, level).instructions())) == 2:
        return  # the players have different roles
    lanes = record(World(task, level, 48, pixels=False), range(48), Expert())
    wins = np.array([lane.success[-1] for lane in lanes]).reshape(-1, 2).sum(axis=0)
    # both sides' wins are binomial with p = 1/2 of the decided matches: four standard deviations
    assert abs(int(wins[0]) - int(wins[1])) <= 4 * np.sqrt(wins.sum())
    # and on average each player sees from its side what the other sees from the other
    places = World(task, level, 1, pixels=False).schema.slices()
    for slot in ("body_position", "to_opponent", "opponent_position"):
        seen = np.array([lane.state[0, places[slot]] for lane in lanes]).reshape(48, 2, -1)
        spread = seen.std(axis=(0, 1)) + 1e-3
        assert (np.abs(seen[:, 0].mean(axis=0) - seen[:, 1].mean(axis=0)) < 0.6 * spread).all()


@every_task
def test_an_episode_depends_on_its_seed_alone(task: str, level: int) -> None:
    """Not on the batch's width, the lane, the threads, or what the world played before."""
    players, sims = task_class(task).players, [5, 2, 0]
    world = World(task, level, len(sims), image_size=IMAGE, nthread=2)
    world.reset(range(len(sims)))
    for _ in range(9):
        world.step(np.ones((world.nlane, ACTION_SIZE), np.float32))
    found = record(world, [SEEDS[sim] for sim in sims], Expert(0.1))
    expected = expert_lanes(task, level)
    for place, sim in enumerate(sims):
        for player in range(players):
            assert found[place * players + player] == expected[sim * players + player]


@pytest.mark.parametrize("sims", [[5], [7, 3, 0, 1, 6, 2, 5, 4]], ids=len)
@pytest.mark.parametrize("nthread", [1, 2])
def test_width_and_threads_do_not_matter(sims: list[int], nthread: int) -> None:
    world = World("push", 1, len(sims), image_size=IMAGE, nthread=nthread)
    expected = expert_lanes("push", 1)
    found = record(world, [SEEDS[sim] for sim in sims], Expert(0.1))
    assert found == [expected[sim] for sim in sims]


@every_task
def test_a_simulation_restarts_by_itself(task: str, level: int) -> None:
    """In mid-wave, and the others go on as if nothing had been."""
    players = task_class(task).players
    world, other = (World(task, level, 3, pixels=False) for _ in range(2))
    world.reset([1, 2, 3])
    other.reset([1, 4, 3])
    actions = np.zeros((world.nlane, ACTION_SIZE), np.float32)
    for _ in range(4):
        world.step(actions)
    world.reset([4], np.array([1], np.int32))
    rows = slice(players, 2 * players)
    np.testing.assert_array_equal(world.observe().state[rows], other.observe().state[rows])
    undisturbed = World(task, level, 3, pixels=False)
    undisturbed.reset([1, 2, 3])
    for step in range(10):
        if step >= 4:
            world.step(actions)
        undisturbed.step(actions)
        other.step(actions) if step < 6 else None
    assert world.elapsed.tolist() == [10, 6, 10] and other.elapsed.tolist() == [6] * 3
    assert world.final_state_xxh3(1) == other.final_state_xxh3(1)
    for sim in (0, 2):
        assert world.final_state_xxh3(sim) == undisturbed.final_state_xxh3(sim)


def test_held_out_tasks_speak_of_what_training_has_seen() -> None:
    """A slot that only they filled would be unlearnt noise to a policy trained on the others."""
    varied: dict[bool, set[str]] = {True: set(), False: set()}
    for task, level in CASES:
        world = World(task, level, 4, pixels=False)
        policy, seen = Expert(0.3), []
        world.reset(SEEDS[:4])
        policy.reset(world, SEEDS[:4])
        for time in range(150):
            observation = world.observe()
            seen += [observation.state] if time % 5 == 0 else []
            world.step(policy.act(observation))
        deviation = np.concatenate(seen).std(axis=0)
        filled = {n for n, place in world.schema.slices().items() if deviation[place].max() > 1e-3}
        varied[level in task_class(task).held_out] |= filled
    assert varied[True] <= varied[False]
    assert varied[False] == {slot.name for slot in SLOTS}, "a slot that no task fills"


@every_task
def test_an_episode_replays_from_its_actions(task: str, level: int) -> None:
    players, lanes = task_class(task).players, expert_lanes(task, level)
    sim = 7
    episode = lanes[sim * players : (sim + 1) * players]
    actions = np.stack([lane.action for lane in episode])
    world = World(task, level, 1, image_size=IMAGE)
    assert record(world, [SEEDS[sim]], Replay(actions)) == episode


@every_task
def test_every_seed_of_64_bits_is_another_episode(task: str, level: int) -> None:
    low = [0, 1, 2, (1 << 62) + 1, EVALUATION_BIT - 1]
    seeds = [*low, *(seed | EVALUATION_BIT for seed in low)]
    world = World(task, level, len(seeds), pixels=False)
    world.reset(seeds)
    assert len({world.final_state_xxh3(sim) for sim in range(len(seeds))}) == len(seeds)
    mixed = [generator.random() for generator in generators(seeds, "policy")]
    alone = [generators([seed], "policy")[0].random() for seed in seeds]
    assert mixed == alone and len(set(mixed)) == len(seeds)
    assert not set(mixed) & {generator.random() for generator in generators(seeds, "world")}


DIVERGENCES = [(*case, np.nan) for case in CASES] + [("push", 1, np.inf), ("push", 1, 1e12)]


@pytest.mark.parametrize(("task", "level", "value"), DIVERGENCES)
def test_a_divergence_ends_its_own_lane_only(
    task: str, level: int, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    players, sick = task_class(task).players, 2
    world, healthy = (World(task, level, 4, image_size=IMAGE) for _ in range(2))
    for both in (world, healthy):
        both.reset(SEEDS[:4])
    for time in range(6):
        if time == 3:
            world.batch.qvel[sick, 0] = value
        action = scripted(healthy)
        own = scripted(world) if time != 3 else action  # 3: nobody has seen it yet
        expected, step = healthy.step(action), world.step(own)
        others = np.repeat(np.arange(4) != sick, players)
        for array, wanted in zip(step, expected, strict=True):
            np.testing.assert_array_equal(array[others], wanted[others])
        if time >= 3:
            assert step.terminated[~others].all() and not step.truncated.any()
            assert not step.reward[~others].any() and not step.success[~others].any()
            assert world.causes[sick].startswith("diverged: ")
            assert world.ids.tolist() == [0, 1, 3]
        seen, wanted_seen = world.observe(), healthy.observe()
        assert np.isfinite(seen.state).all()
        np.testing.assert_array_equal(seen.state[others], wanted_seen.state[others])
    assert world.causes.count("") == 3
    for sim in (0, 1, 3):
        assert world.final_state_xxh3(sim) == healthy.final_state_xxh3(sim)

    world.reset(SEEDS[:4])
    healthy.reset(SEEDS[:4])
    world.step(action)
    healthy.step(action)
    assert world.causes == [""] * 4 and world.ids.tolist() == [0, 1, 2, 3]
    assert [world.final_state_xxh3(i) for i in range(4)] == [
        healthy.final_state_xxh3(i) for i in range(4)
    ]
    assert list(tmp_path.iterdir()) == []  # MuJoCo's log
    assert capfd.readouterr() == ("", "")


def test_a_diverged_state_is_hashed_as_it_was() -> None:
    """Not as it was put back to rest, which is the same in every episode."""
    found = []
    for seed in (1, 2, 2):
        world = World("reach", 1, 1, pixels=False)
        world.reset([seed])
        world.batch.qvel[0, 0] = 1e12
        world.step(np.zeros((1, ACTION_SIZE), np.float32))
        assert world.causes != [""]
        found.append(world.final_state_xxh3(0))
    assert found[0] != found[1] == found[2]


@every_task
def test_wrong_actions_are_refused(task: str, level: int) -> None:
    world = World(task, level, 2, pixels=False)
    world.reset([1, 2])
    good = np.zeros((world.nlane, ACTION_SIZE), np.float32)
    before = world.final_state_xxh3(0)
    for value in (np.nan, np.inf, -np.inf, 1.0000001, -2.0):
        bad = good.copy()
        bad[-1, 3] = value
        with pytest.raises(RolloutError, match=f"{task}: action outside"):
            world.step(bad)
    for bad in (good[:, :-1], good[:-1], good[0], good[..., None]):
        with pytest.raises(RolloutError, match=f"{task}: action should be float32"):
            world.step(bad)
    with pytest.raises(RolloutError, match=f"{task}: action should be float32.*is float64"):
        world.step(good.astype(np.float64))
    assert world.time == 0 and world.final_state_xxh3(0) == before
    world.step(good)


def test_seeds_must_match_the_simulations() -> None:
    with pytest.raises(RolloutError, match="3 seeds for 2 simulations"):
        World("reach", 1, 2, pixels=False).reset([1, 2, 3])


def test_observe_fills_given_arrays_whatever_they_held() -> None:
    world = World("push", 1, 3, image_size=IMAGE)
    world.reset([1, 2, 3])
    fresh = world.observe()
    states = np.full((3, 5, world.schema.state_size), np.nan, np.float32)
    pixels = np.full((3, 5, IMAGE, IMAGE, 3), 77, np.uint8)
    world.observe(states[:, 2], pixels[:, 2])
    assert fresh.pixels is not None
    np.testing.assert_array_equal(states[:, 2], fresh.state)
    np.testing.assert_array_equal(pixels[:, 2], fresh.pixels)
    assert np.isnan(states[:, [0, 1, 3, 4]]).all() and (pixels[:, [0, 1, 3, 4]] == 77).all()


def test_a_world_without_pixels_is_the_same_world() -> None:
    world = World("reach", 1, 2, pixels=False)
    assert world.observe().pixels is None
    for lane, expected in zip(
        record(world, SEEDS[:2], Expert(0.1)), expert_lanes("reach", 1)[:2], strict=True
    ):
        assert lane.pixels is None
        assert lane.final_state_xxh3 == expected.final_state_xxh3
        np.testing.assert_array_equal(lane.state, expected.state)


def test_unknown_tasks_and_levels_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown task 'raech'; did you mean 'reach'"):
        World("raech", 1, 1)
    for level in (0, -1, 99):
        with pytest.raises(ConfigError, match=f"reach has levels 1 to .*, not {level}"):
            make_task("reach", level)


def test_the_arms_jacobian_is_mujocos() -> None:
    world = World("reach", 1, 5, pixels=False)
    world.reset(range(5))
    for _ in range(20):
        world.step(scripted(world))
    hand = arm.Arm(world.batch)
    world.batch.forward()
    jacp, jacr = world.batch.jac(world.batch.model.site("hand").bodyid[0], hand.hand)
    expected = np.concatenate((jacp, jacr), axis=1)[:, :, : len(arm.JOINTS)]
    np.testing.assert_allclose(hand.jacobian(), expected, atol=1e-12)


@pytest.mark.parametrize("task", ["push", "reach", "quadruped", "runner", "swingup", "maze"])
def test_a_world_is_plain_mujoco(task: str) -> None:
    """`mj_step` on the same model, substep by substep, and what it derives is of the state now."""
    world = World(task, 1, 1, pixels=False)
    world.reset([4])
    model, data = world.batch.get_model(0), world.batch.get_data(0)
    model.opt.disableflags &= ~mujoco.mjtDisableBit.mjDSBL_ISLAND.value  # as by default
    for _ in range(30):
        world.step(scripted(world))
        data.ctrl[:], data.mocap_pos[:] = world.batch.ctrl[0], world.batch.mocap_pos[0]
        for _ in range(world.task.substeps):
            mujoco.mj_step(model, data)
        np.testing.assert_array_equal(data.qpos, world.batch.qpos[0])
        np.testing.assert_array_equal(data.qvel, world.batch.qvel[0])
        now = copy.copy(data)
        mujoco.mj_forward(model, now)
        for name in ("xmat", "geom_xpos", "site_xpos", "xaxis"):
            np.testing.assert_array_equal(getattr(now, name), world.batch.bind(name)[0])


def test_a_cubes_friction_is_its_contacts() -> None:
    """MuJoCo takes the larger of two frictions unless one geom has priority."""
    world = World("push", 1, 3, pixels=False)
    world.reset([1, 2, 3])
    for _ in range(5):
        world.step(np.zeros((3, ACTION_SIZE), np.float32))
    cube, found = world.batch.model.geom("cube").id, set()
    for sim in range(3):
        contacts = [c for c in world.batch.get_data(sim).contact if cube in c.geom]
        frictions = {contact.friction[0] for contact in contacts}
        assert frictions == {world.batch.expanded("geom_friction")[sim, cube, 0]}
        found |= frictions
    assert len(found) == 3


@pytest.mark.parametrize("policy", [Random(), Expert(0.5)], ids=["random", "expert"])
def test_noise_follows_the_seed_not_the_lane(policy: Policy) -> None:
    actions = []
    for seeds in ([1, 2, 3], [3, 1, 2]):
        world = World("reach", 1, 3, pixels=False)
        world.reset([7, 7, 7])
        policy.reset(world, seeds)
        actions.append(policy.act(world.observe()).copy())
        again = policy.act(world.observe())
        np.testing.assert_array_equal(again, actions[-1])  # the same moment
        world.step(actions[-1])
        assert not np.array_equal(policy.act(world.observe()), actions[-1])
    np.testing.assert_array_equal(actions[0][[2, 0, 1]], actions[1])
    assert len(np.unique(actions[0], axis=0)) == 3
