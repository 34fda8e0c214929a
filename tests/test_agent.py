"""The agent as a policy: drawn actions, provenance, Gymnasium, precision, what does not fit."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from palaestra.generate.adapter import env_id
from palaestra.generate.gym import PalaestraVectorEnv
from palaestra.generate.policies import Match, make_policy
from palaestra.generate.rollout import Label, play
from palaestra.generate.slots import ACTION_SIZE, make_schema
from palaestra.generate.world import STREAMS, World
from palaestra.shards import storage
from palaestra.shards.errors import ConfigError, RolloutError, SchemaMismatchError
from palaestra.shards.schema import EVALUATION_BIT, SEGMENT_STEPS
from palaestra.shards.segments import encode_instruction
from palaestra.train.agent import STREAM, Agent, load
from palaestra.train.config import TrainConfig, load_preset
from palaestra.train.export import export_metadata, shapes_of, write_weights
from palaestra.train.loss import (
    action_target,
    bin_centres,
    expected_value,
    mean_action,
    sample_action,
)
from palaestra.train.model import PolicyValueNetwork
from palaestra.train.places import MARKER, WEIGHTS, checkpoint_url

SCHEMA = make_schema(16, (0.0, 1.0))
MODEL = load_preset("tiny").model
BINS = MODEL.policy_bins
STATISTICS = ("state.mean", "state.scale")
CENTRES = bin_centres(BINS).numpy()
LAST = float(np.nextafter(np.float32(1), np.float32(0)))  # the largest uniform there is


def make_network(inputs: str, flat: bool) -> PolicyValueNetwork:
    """A tiny network; `flat`: its policy is the same whatever it sees."""
    network = PolicyValueNetwork(MODEL, shapes_of(SCHEMA), inputs.split("+"))
    generator = torch.Generator().manual_seed(3)
    network.initialise(generator)
    with torch.no_grad():
        for parameter in () if flat else network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=generator)
    return network.eval()


def export(path: Path, inputs: str = "state", flat: bool = False, precision: str = "fp32") -> str:
    """The network as a weights file; one trained in bf16 has its statistics in fp32."""
    config = TrainConfig(
        corpora=("none",), weights=(1,), preset="tiny", model=MODEL, inputs=inputs, updates=1,
        batch=1, peak_rate=1e-3, end_rate=1e-5, warm_up=1, precision=precision,
    )  # fmt: skip
    weights = make_network(inputs, flat).state_dict()
    if precision == "bf16":
        weights = {n: w if n in STATISTICS else w.bfloat16() for n, w in weights.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = export_metadata(config, SCHEMA, (("reach", 1),)) | {"update": 7}
    write_weights(path, weights, metadata)
    return str(path)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for one another on a busy machine made these tests 30 times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", name="url")
def weights_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a network whose policy depends on what it sees and did."""
    return export(tmp_path_factory.mktemp("agent") / "drawn.safetensors")


@pytest.fixture(scope="module", name="flat")
def flat_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a network whose policy is always the same: actions tell the draws."""
    return export(tmp_path_factory.mktemp("agent") / "flat.safetensors", flat=True)


@dataclass(frozen=True)
class Seen:
    """An observation without a simulator."""

    state: NDArray[np.float32]
    pixels: NDArray[np.uint8] | None = None

    @property
    def instruction(self) -> Sequence[str]:
        return ["touch the ball"] * len(self.state)


def observe(lanes: int, step: int = 0) -> Seen:
    rng = np.random.default_rng(step)
    return Seen(rng.standard_normal((lanes, SCHEMA.state_size), np.float32))


def think(state: NDArray[np.float32], before: torch.Tensor) -> torch.Tensor:
    """Logits of the network in `url` for states (n, t, …) and the actions before them."""
    codes = torch.tensor(np.stack([encode_instruction("touch the ball")] * len(state)))
    history = torch.ones(len(state), dtype=torch.bool)
    with torch.no_grad():
        logits, _ = make_network("state", False)(torch.tensor(state), None, codes, before, history)
    return torch.as_tensor(logits)


def make_world(task: str, nsim: int) -> World:
    return World(task, 1, nsim, image_size=SCHEMA.image_size, pixels=False)


def play_steps(agent: Agent, world: World, seeds: Sequence[int], steps: int) -> NDArray[np.float32]:
    """(nlane, steps, action_size) actions of a wave."""
    world.reset(seeds)
    agent.reset(world, seeds)
    actions = []
    for _ in range(steps):
        actions.append(agent.act(world.observe()))
        world.step(actions[-1])
    return np.stack(actions, axis=1)


# Draws


@pytest.mark.parametrize("task", ["reach", "sumo"])
def test_a_wave_played_twice_repeats_bit_for_bit(task: str, url: str) -> None:
    agent, world, seeds = load(url, temperature=1.0), make_world(task, 4), [5, 6, 7, 8]
    first = play_steps(agent, world, seeds, 24)
    again = play_steps(agent, world, seeds, 24)
    fresh = play_steps(load(url, temperature=1.0), make_world(task, 4), seeds, 24)
    assert first.tobytes() == again.tobytes() == fresh.tobytes()
    used = first[..., : world.task.action_size]
    assert np.isin(used, CENTRES).all() and not first[..., world.task.action_size :].any()
    assert len(np.unique(used)) > BINS / 2
    others = play_steps(agent, world, [5, 6, 7, 9], 24)
    assert not np.array_equal(first[-world.task.players :], others[-world.task.players :])


@pytest.mark.parametrize("task", ["reach", "sumo"])
def test_an_episodes_draws_depend_on_its_own_seed(task: str, flat: str) -> None:
    agent, players = load(flat, temperature=1.0), make_world(task, 1).task.players
    seeds = [11, EVALUATION_BIT | 11, EVALUATION_BIT | 12, (1 << 63) - 1]
    wave = play_steps(agent, make_world(task, 4), seeds, 8).reshape(4, players, 8, -1)
    for place, seed in enumerate(seeds):
        alone = play_steps(agent, make_world(task, 1), [seed], 8)
        assert np.array_equal(alone, wave[place])
    other = play_steps(agent, make_world(task, 3), [99, *seeds[2::-2]], 8)
    assert np.array_equal(other.reshape(3, players, 8, -1)[1:], wave[2::-2])
    # of another seed, another player, another step: others
    lanes = wave.reshape(4 * players, 8, -1)
    for draws in (lanes.reshape(4 * players, -1), lanes.swapaxes(0, 1).reshape(8, -1)):
        assert len(np.unique(draws, axis=0)) == len(draws)


def test_every_segment_has_draws_of_its_own(flat: str) -> None:
    agent = load(flat, temperature=1.0)
    played = []
    for lanes, seeds in ((2, [1, 2]), (1, [2])):
        agent.reset(lanes, seeds)
        steps = 2 * SEGMENT_STEPS + 10
        played.append(np.stack([agent.act(observe(lanes)) for _ in range(steps)], axis=1))
    assert np.array_equal(played[0][1], played[1][0])
    first, second, _ = np.split(played[0][0], [SEGMENT_STEPS, 2 * SEGMENT_STEPS])
    assert np.mean(first == second) < 0.2  # two independent draws agree on 14 %
    agent.reset(2, [1, 2])
    assert np.array_equal(agent.act(observe(2)), played[0][:, 0])  # nothing left of the past


def test_draws_are_apart_from_the_worlds() -> None:
    assert STREAM not in STREAMS.values()


@pytest.mark.parametrize("temperature", [0.3, 1, 4.0])
def test_frequencies_match_the_policy(temperature: float, flat: str) -> None:
    lanes, agent = 4096, load(flat, temperature=temperature)
    agent.reset(lanes, range(lanes))
    actions = agent.act(observe(lanes))
    # what an untrained network has learned: a normal of deviation 0.25 around zero
    weights = np.exp(-8.0 * CENTRES.astype(np.float64) ** 2 / temperature)
    expected = lanes * weights / weights.sum()
    for dimension in range(ACTION_SIZE):
        counts = (actions[:, dimension, None] == CENTRES).sum(axis=0)
        assert counts.sum() == lanes
        common = expected > 5
        surprise = ((counts - expected)[common] ** 2 / expected[common]).sum()
        # χ² of n degrees: mean n, deviation √2n; right draws pass 5 deviations once in 10⁴
        degrees = common.sum() - 1
        assert surprise < degrees + 5 * math.sqrt(2 * degrees)
    correlation = np.corrcoef(actions, rowvar=False) - np.eye(ACTION_SIZE)
    assert np.abs(correlation).max() < 5 / math.sqrt(lanes)


def test_draws_have_the_policys_mean() -> None:
    logits = action_target(torch.tensor([-1.0, -0.93, 0.17, 1.0]), BINS, 0.2).log()
    uniforms = (torch.arange(10_000) + 0.5) / 10_000  # every quantile: the mean without noise
    drawn = sample_action(logits.expand(10_000, 4, BINS), uniforms[:, None].expand(-1, 4), 1.0)
    torch.testing.assert_close(drawn.mean(dim=0), mean_action(logits), atol=1e-4, rtol=0)
    assert set(drawn[:, 3].tolist()) <= set(bin_centres(BINS).tolist())


def test_impossible_bins_are_never_drawn() -> None:
    logits = torch.full((5, BINS), -math.inf)
    logits[:, [3, 7, 11]] = torch.tensor([0.1, 0.1, 0.1])
    uniforms = torch.tensor([0.0, 0.33, 0.34, 0.67, LAST])
    drawn = sample_action(logits, uniforms, 1.0)
    assert torch.equal(drawn, bin_centres(BINS)[[3, 3, 7, 11, 11]])


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 5e-324])
def test_a_small_temperature_plays_the_likeliest_bin(temperature: float, url: str) -> None:
    logits = torch.randn(512, BINS, generator=torch.Generator().manual_seed(1))
    uniforms = torch.linspace(0, LAST, 512)
    likeliest = bin_centres(BINS)[logits.argmax(dim=-1)]
    found = sample_action(logits, uniforms, temperature)
    # at 1e-3 a bin within 0.01 of the best would still be drawn now and then
    first, second = logits.topk(2).values.unbind(-1)
    clear = first - second > 20 * temperature
    assert clear.sum() > 450 and torch.equal(found[clear], likeliest[clear])
    agent, seen = load(url, temperature=temperature), observe(64)
    agent.reset(64, range(64))
    logits = think(seen.state[:, None], torch.zeros(64, 1, ACTION_SIZE))[:, 0]
    first, second = logits.topk(2).values.unbind(-1)
    clear = first - second > 20 * temperature + 1e-4
    likeliest = bin_centres(BINS)[logits.argmax(dim=-1)]
    assert clear.sum() > 450 and torch.equal(torch.tensor(agent.act(seen))[clear], likeliest[clear])


def test_a_temperature_of_zero_plays_the_mean_and_needs_no_seeds(url: str) -> None:
    agent, default = load(url, temperature=0), load(url)
    for lanes in (agent, default):
        lanes.reset(3)
    for step in range(4):
        action = agent.act(observe(3, step))
        assert np.array_equal(action, default.act(observe(3, step)))
        assert not np.isin(action, CENTRES).any()


def test_the_agent_sees_the_actions_it_drew(url: str) -> None:
    """Its steps equal the parallel pass over what it played."""
    agent, steps, lanes = load(url, temperature=1.0), 20, 8
    agent.reset(lanes, range(lanes))
    played = np.stack([agent.act(observe(lanes, step)) for step in range(steps)], axis=1)
    state = np.stack([observe(lanes, step).state for step in range(steps)], axis=1)
    actions = torch.tensor(played)
    before = torch.cat((torch.zeros_like(actions[:, :1]), actions[:, :-1]), dim=1)
    agreement, uniforms = [], agent.segments[0].uniforms
    for past in (before, before.flip(0)):
        expected = sample_action(think(state, past), uniforms[:, :steps].cpu(), 1.0)
        agreement.append((expected == actions).float().mean().item())
    assert agreement[0] > 0.995  # rounding may move a draw across a bin's edge
    assert agreement[1] < 0.95


def test_logits_that_are_not_finite_are_refused_by_the_world(url: str) -> None:
    agent, world = load(url, temperature=1.0), make_world("reach", 2)
    agent.network.policy.weight.fill_(math.nan)
    with pytest.raises(RolloutError, match="not finite"):
        play_steps(agent, world, [1, 2], 1)


# As a behaviour


def test_a_recipes_policy_plays_episodes(url: str) -> None:
    name, arguments = "palaestra.train.agent:load", {"url": url, "temperature": 1.0}
    world = World("reach", 1, 2, image_size=SCHEMA.image_size)
    episodes = []
    for _ in range(2):
        policy = make_policy(name, arguments=arguments)
        for episode in play(world, policy, [3, 4], Label("agent")):
            episode.validate(world.schema)
            episodes.append(episode.action.tobytes())
    assert len(episodes) == 4 and episodes[:2] == episodes[2:] and episodes[0] != episodes[1]


@pytest.mark.parametrize("temperature", [-0.5, math.nan, math.inf, -math.inf, "1.0", None])
def test_a_bad_temperature_is_refused_before_anything_is_read(temperature: Any) -> None:
    arguments = {"url": "nowhere", "temperature": temperature}
    with pytest.raises(ConfigError, match=r"nowhere: temperature should be in \[0, inf\), is"):
        make_policy("palaestra.train.agent:load", arguments=arguments)


@pytest.mark.parametrize(("lanes", "seeds"), [(4, []), (4, [1, 2, 3]), (2, [1, 2, 3, 4])])
def test_a_temperature_needs_every_episodes_seed(lanes: int, seeds: list[int], url: str) -> None:
    agent = load(url, temperature=1.0)
    message = f"{url}: a temperature needs every episode's seed: {len(seeds)} seeds for {lanes} la"
    with pytest.raises(RolloutError, match=message):
        agent.reset(lanes, seeds)


def test_another_worlds_schema_is_refused(url: str) -> None:
    world = World("reach", 1, 2, image_size=32, pixels=False)
    with pytest.raises(SchemaMismatchError, match="image_size: expected 16, found 32"):
        load(url).reset(world, [1, 2])


def test_an_agent_with_eyes_refuses_a_world_without_pixels(tmp_path: Path) -> None:
    agent = load(export(tmp_path / "eyes.safetensors", "pixels+state"), temperature=1.0)
    with pytest.raises(RolloutError, match="the agent needs pixels, the observation has none"):
        play_steps(agent, make_world("reach", 2), [1, 2], 1)
    seeing = World("reach", 1, 2, image_size=16)
    assert play_steps(agent, seeing, [1, 2], 2).shape == (2, 2, ACTION_SIZE)


# Provenance


def test_dependencies_are_the_bytes_that_were_read(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    for update in (3, 12):
        folder = checkpoint_url(run, update)
        file = export(Path(folder) / WEIGHTS, flat=update == 12)
        storage.write_json(storage.join(folder, MARKER), {})
    expected = {file: hashlib.sha256(Path(file).read_bytes()).hexdigest()}
    for url in (run, folder, file):
        assert load(url).dependencies() == expected
    older = load(checkpoint_url(run, 3)).dependencies()
    assert len(older) == 1 and not set(older.values()) & set(expected.values())
    remote = f"memory://agent-{tmp_path.name}"
    storage.write_bytes(storage.join(remote, WEIGHTS), Path(file).read_bytes())
    storage.write_json(storage.join(remote, MARKER), {})
    assert load(remote).dependencies() == {f"{remote}/{WEIGHTS}": expected[file]}


def test_versions_name_what_decides_the_floats(url: str) -> None:
    agent = load(url)
    found = agent.versions()
    assert found["torch"] == torch.__version__
    if agent.device.type == "cpu":
        assert found["device"] == "cpu"
        assert found["torch_threads"] == "1"  # of `_one_thread`
    else:
        assert found["device"] == f"cuda {torch.cuda.get_device_name()}"
        assert set(found) == {"torch", "device"}
    assert "precision" not in found
    assert load(url, precision="bf16").versions() == found | {"precision": "bf16"}


# In Gymnasium


@pytest.fixture(scope="module", name="eyes")
def eyes_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a network that sees frames too."""
    return export(tmp_path_factory.mktemp("agent") / "eyes.safetensors", "pixels+state")


def make_env(task: str, count: int, pixels: bool) -> Any:
    """A single environment for a count of 0."""
    options: dict[str, Any] = {"pixels": pixels, "image_size": SCHEMA.image_size}
    if count:
        return gymnasium.make_vec(env_id(task, 1), count, nthread=1, **options)
    return gymnasium.make(env_id(task, 1), **options)


@pytest.mark.parametrize(
    ("task", "count", "pixels", "temperature"),
    [
        ("reach", 0, False, 0.0),
        ("reach", 0, True, 1.0),
        ("reach", 3, True, 0.0),
        ("stack", 2, False, 1.0),
    ],
)
def test_an_environment_is_played_as_its_world(
    task: str, count: int, pixels: bool, temperature: float, url: str, eyes: str
) -> None:
    """Over 300 steps, to the last bit: a reacher's episode ends on the way, a stacker's not."""
    source = eyes if pixels else url
    agent, twin = load(source, temperature=temperature), load(source, temperature=temperature)
    env = make_env(task, count, pixels)
    world = World(task, 1, count or 1, image_size=SCHEMA.image_size, pixels=pixels)
    observation, info = env.reset(seed=3)
    agent.reset(env)
    ended, episodes = True, 0
    for _ in range(300):
        action = agent.act(observation, info)
        assert action.shape == env.action_space.shape and action.dtype == np.float32
        if ended:
            seeds = np.atleast_1d(np.array(info["seed"], np.uint64)).tolist()
            world.reset(seeds)
            twin.reset(world, seeds)
            episodes += 1
        expected = twin.act(world.observe())
        used = expected[:, : action.shape[-1]]
        assert action.tobytes() == np.ascontiguousarray(used).tobytes()
        assert np.array_equal(agent.value, twin.value)
        world.step(np.ascontiguousarray(np.pad(used, ((0, 0), (0, ACTION_SIZE - used.shape[1])))))
        observation, _, terminated, truncated, info = env.step(action)
        ended = bool(np.all(terminated | truncated))
        if ended and count:  # the next step, whose action is ignored, begins the next episode
            observation, *_, info = env.step(agent.act(observation, info))
        elif ended:
            observation, info = env.reset()
            agent.reset(env)
    assert episodes == (2 if task == "reach" else 1) and len(agent.segments) == 1
    env.close()


def play_apart(agent: Agent, env: Any, steps: int) -> list[list[tuple[Any, ...]]]:
    """(seed, state, action, value) of every step, by lane; lanes break down at steps of their own.

    A step that only begins an episode is left out.
    """
    observation, info = env.reset(seed=8)
    agent.reset(env)
    lanes: list[list[tuple[Any, ...]]] = [[] for _ in range(env.num_envs)]
    ended = np.zeros(env.num_envs, bool)
    for step in range(steps):
        action = agent.act(observation, info)
        for lane in np.flatnonzero(~ended):
            entry = (info["seed"][lane], observation[lane], action[lane], agent.value[lane])
            lanes[lane].append(entry)
        for lane in np.flatnonzero([step in (20, 33), step == 33, step == 270]):
            env.unwrapped.world.batch.qvel[lane, 0] = np.nan
        observation, _, terminated, truncated, info = env.step(action)
        ended = terminated | truncated
    return lanes


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_lanes_that_end_apart_begin_apart(temperature: float, url: str) -> None:
    """Every episode of a lane is played as by an agent that plays nothing else."""
    agent, alone = load(url, temperature=temperature), load(url, temperature=temperature)
    lanes = play_apart(agent, make_env("stack", 4, False), 320)
    info = {"instruction": World("stack", 1, 1, pixels=False).instruction[0]}
    episodes = 0
    for lane in lanes:
        seeds = [seed for seed, *_ in lane]
        for seed in dict.fromkeys(seeds):
            alone.reset(Foreign(gymnasium.spaces.Box(-1, 1, (7,))), [int(seed)])
            same = []
            for _, state, action, value in (entry for entry in lane if entry[0] == seed):
                found = alone.act(state, info)
                same.append(np.abs(found - action).max())
                # of one row or of several, a product's last bits may differ
                np.testing.assert_allclose(alone.value[0], value, atol=1e-5)
            # rounding may move a draw across a bin's edge, and what follows sees another past
            assert max(same) < 2e-5 or (temperature and np.mean(np.array(same) > 1e-6) < 0.02)
            episodes += 1
    assert episodes == 8  # lane 0 has three, 1 and 2 two, 3 one
    parts = [segment.lanes.tolist() for segment in agent.segments]
    assert parts == [[3], [2], [0, 1]]  # by age: since steps 256, 272 and 291


def test_an_old_past_would_change_the_actions(url: str) -> None:
    """What the test above would find if lanes did not begin anew."""
    agent, deaf = load(url), load(url)
    info = {"instruction": "push", "seed": [1, 1]}
    for lanes in (agent, deaf):
        lanes.reset(2)
        for step in range(20):
            lanes.act(observe(2, step).state, info)
    kept = deaf.act(observe(2, 20).state, info)
    anew = agent.act(observe(2, 20).state, info | {"seed": [1, 2]})
    assert np.allclose(anew[0], kept[0], atol=2e-5) and np.abs(anew[1] - kept[1]).max() > 1e-3


def test_gymnasiums_own_vectors_are_played_too(url: str) -> None:
    """Also where only some environments are reset, and info has no entry for the others."""
    options = {"image_size": SCHEMA.image_size, "max_episode_steps": 7}
    fast = gymnasium.make_vec(env_id("reach", 1), 3, nthread=1, **options)
    slow = gymnasium.make_vec(env_id("reach", 1), 3, vectorization_mode="sync", **options)
    assert isinstance(fast, PalaestraVectorEnv)
    played = []
    for env in (fast, slow):
        agent = load(url)
        observation, info = env.reset(seed=1)
        agent.reset(env)
        actions = []
        for step in range(20):
            if step == 3:
                mask = {"reset_mask": np.array([True, False, True])}
                observation, info = env.reset(options=mask)
            actions.append(agent.act(observation, info))
            if step == 3:
                assert [s.lanes.tolist() for s in agent.segments] == [[1], [0, 2]]
            observation, *_, info = env.step(actions[-1])
        played.append(np.stack(actions))
    assert np.array_equal(*played)


@pytest.mark.parametrize("shape", [(SCHEMA.state_size,), (1, SCHEMA.state_size)])
def test_one_lane_may_lack_its_axis(shape: tuple[int, ...], url: str) -> None:
    agent, seen = load(url), observe(1)
    agent.reset(1)
    expected = agent.act(seen)
    for state in (seen.state.reshape(shape), seen.state.reshape(shape).astype(np.float64)):
        for told in (state, {"state": state}):
            agent.reset(1)
            action = agent.act(told, {"instruction": "touch the ball"})
            assert action.shape == (*shape[:-1], ACTION_SIZE)
            assert np.array_equal(action.reshape(expected.shape), expected)
    assert agent.value.shape == (1,)


def test_an_instruction_holds_until_the_next_episode(url: str) -> None:
    agent = load(url)
    agent.reset(2)
    for step in range(SEGMENT_STEPS + 1):
        agent.act(observe(2, step).state, {"instruction": "go", "seed": [1, 2]} if not step else {})
    with pytest.raises(RolloutError, match="lane 1 has no instruction"):
        agent.act(observe(2).state, {"seed": [1, 3]})


def test_what_an_agent_cannot_play_is_refused(url: str, eyes: str) -> None:
    told = {"instruction": "touch the ball"}
    state, frames = observe(2).state, np.zeros((2, 16, 16, 3), np.uint8)
    agent, seeing = load(url), load(eyes)
    with pytest.raises(RolloutError, match=f"{url}: act before reset"):
        agent.act(state, told)
    with pytest.raises(RolloutError, match="no value before the first act"):
        print(agent.value)
    agent.reset(2)
    seeing.reset(2)
    size = SCHEMA.state_size
    cases: list[tuple[Agent, Any, Any, type[Exception], str]] = [
        (agent, observe(3), None, RolloutError, rf"state should be of shape \(2, {size}\), is \(3"),
        (agent, state[:1], told, RolloutError, rf"should be of shape \(2, {size}\), is \(1, "),
        (agent, state[0], told, RolloutError, rf"should be of shape \(2, {size}\), is \(1, "),
        (agent, state[:, 1:], told, SchemaMismatchError, rf"float32\({size},\) of each lane, f"),
        (agent, {"pixels": frames}, told, RolloutError, "needs state, the observation has none"),
        (agent, state, None, RolloutError, "lane 0 has no instruction: act needs"),
        (agent, state, {"instruction": ["go", None]}, RolloutError, "lane 1 has no instruction"),
        (agent, state, {"instruction": ["go"]}, RolloutError, "1 instructions for 2 lanes"),
        (agent, state, told | {"seed": 5}, RolloutError, "1 seeds for 2 lanes"),
        (seeing, state, told, RolloutError, "needs pixels, the observation has none"),
        (seeing, {"state": state, "pixels": frames[:, :8]}, told, SchemaMismatchError,
         r"pixels: expected uint8\(16, 16, 3\) of each lane, found uint8\(2, 8, 16, 3\)"),
        (seeing, {"state": state, "pixels": frames / 255}, told, SchemaMismatchError, "float64"),
        (seeing, {"state": state, "pixels": frames[:1]}, told, RolloutError, r"is \(1, 16, 16, 3"),
    ]  # fmt: skip
    for player, observation, info, error, message in cases:
        with pytest.raises(error, match=message):
            player.act(observation, info)
    assert agent.act(state, told).shape == (2, ACTION_SIZE)  # none the worse for it


def test_an_environment_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(SchemaMismatchError, match=r"at most 8 entries, found shape \(17,\)"):
        load(url).reset(Foreign(gymnasium.spaces.Box(-1, 1, (17,))))
    with pytest.raises(SchemaMismatchError, match=r"action_space: .* found shape \(\)"):
        load(url).reset(Foreign(gymnasium.spaces.Discrete(3)))
    agent = load(url, temperature=1.0)
    agent.reset(Foreign(gymnasium.spaces.Box(-1, 1, (2,))))
    with pytest.raises(RolloutError, match="every episode's seed: the environment's info has no"):
        agent.act(observe(1).state[0], {"instruction": "go"})
    assert agent.act(observe(1).state[0], {"instruction": "go", "seed": 1 << 63}).shape == (2,)


@dataclass(frozen=True)
class Foreign:
    """Somebody's environment."""

    action_space: gymnasium.Space[Any]


def test_two_agents_play_a_match(url: str, flat: str) -> None:
    """Each decides for its own player, and sees only its own lanes' past."""
    world, agents = make_world("sumo", 2), [load(url), load(flat)]
    alone = [load(url), load(flat)]
    match = Match(agents)
    world.reset([1, 2])
    for policy in (match, *alone):
        policy.reset(world, [1, 2])
    for _ in range(20):
        seen = world.observe()
        action, own = match.act(seen), [policy.act(seen) for policy in alone]
        for player in (0, 1):  # to the rounding of a narrower batch
            np.testing.assert_allclose(action[player::2], own[player][player::2], atol=1e-4)
        world.step(action)


# Values and precision


def steps_of(network: PolicyValueNetwork, lanes: int, steps: int) -> Iterator[tuple[Any, Any]]:
    """Actions and value logits of a network, step by step, of what `observe` tells."""
    codes = torch.tensor(np.stack([encode_instruction("touch the ball")] * lanes))
    cache, past = network.new_cache(SEGMENT_STEPS), torch.zeros(lanes, 1, ACTION_SIZE)
    history = torch.ones(lanes, dtype=torch.bool)
    for step in range(steps):
        state = torch.tensor(observe(lanes, step).state)[:, None]
        with torch.inference_mode():
            logits, value = network(state, None, codes, past, history, cache)
            past = mean_action(logits)
        yield past[:, 0].clamp(-1, 1), value[:, 0]


@pytest.mark.parametrize("trained", ["fp32", "bf16"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", None])
def test_it_computes_as_training_did(trained: str, precision: str | None, tmp_path: Path) -> None:
    """Bit for bit the network whose parameters are cast, and whose statistics are not."""
    agent = load(export(tmp_path / "w.safetensors", precision=trained), precision=precision)
    computed = precision or (trained if agent.device.type == "cuda" else "fp32")
    network = make_network("state", False)
    for dtype in (trained, computed):
        network.to(torch.bfloat16 if dtype == "bf16" else torch.float32)
    for name, statistics in network.state.named_buffers():
        setattr(network.state, name, statistics.float())
    kinds = {x.dtype for x in agent.network.parameters()}
    assert kinds == {torch.bfloat16 if computed == "bf16" else torch.float32}
    assert {x.dtype for x in agent.network.buffers()} == {torch.float32}
    assert agent.precision == computed and agent.exported.weights == {}
    agent.reset(4)
    for step, (action, value) in enumerate(steps_of(network.to(agent.device), 4, 30)):
        assert np.array_equal(agent.act(observe(4, step)), action.numpy())
        assert np.array_equal(agent.value, expected_value(value, *SCHEMA.reward_range).numpy())


def test_bf16_plays_nearly_what_fp32_plays(url: str) -> None:
    """Measured: this network's actions, of deviation 0.53, move by 0.007 on average, by 0.09 at
    most; its values by 0.0006 at most."""
    exact, coarse = load(url), load(url, precision="bf16")
    for agent in (exact, coarse):
        agent.reset(16)
    apart = []
    for step in range(SEGMENT_STEPS):
        seen = observe(16, step)
        apart.append(np.abs(exact.act(seen) - coarse.act(seen)))
        assert np.abs(exact.value - coarse.value).max() < 0.002
    assert 0 < np.mean(apart) < 0.012 and np.max(apart) < 0.15


@pytest.mark.parametrize("precision", ["fp16", "", 16, ["bf16"]])
def test_an_unknown_precision_is_refused(precision: Any) -> None:
    with pytest.raises(ConfigError, match="nowhere: precision should be fp32 or bf16, is"):
        load("nowhere", precision=precision)


def test_values_are_the_critics(url: str) -> None:
    agent = load(url)
    agent.reset(5)
    for step, (_, logits) in enumerate(steps_of(make_network("state", False), 5, 3)):
        agent.act(observe(5, step))
        assert agent.value.shape == (5,) and agent.value.dtype == np.float32
        expected = expected_value(logits, 0.0, 1.0).numpy()
        np.testing.assert_allclose(agent.value, expected, atol=1e-6)
        assert ((agent.value > 0) & (agent.value < 1)).all() and agent.value.std() > 1e-3
    agent.reset(5)
    with pytest.raises(RolloutError, match="no value before the first act"):
        print(agent.value)
