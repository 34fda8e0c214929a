"""PPO of stable-baselines3 on one of our tasks, from the state.

Run: python docs/examples/stable_baselines3_ppo.py [--task reach] [--level 1] [--steps 300000]

`gymnasium.make` gives environments that stable-baselines3 takes as they are: their observation is a
Box, and `is_success` in `info` is what its logs count. `Lanes` is for speed: it hands it all
simulations of one `PalaestraVectorEnv`, stepped on C threads.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from palaestra.generate.gym import PalaestraVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize

Found = tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], list[dict[str, Any]]]


class Lanes(VecEnv):
    """A vector environment in the form of stable-baselines3.

    That form begins a lane's next episode in the very step that ends one, and keeps the last
    observation in `terminal_observation`; a time limit is told from an ending, so that its value
    is bootstrapped.
    """

    def __init__(self, envs: PalaestraVectorEnv, seed: int = 0) -> None:
        self.envs, self.first_seed, self.render_mode = envs, seed, envs.render_mode
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> NDArray[np.float32]:
        observation: NDArray[np.float32] = self.envs.reset(seed=self.first_seed)[0]
        return observation

    def step_async(self, actions: NDArray[np.float32]) -> None:
        self.actions = actions

    def step_wait(self) -> Found:
        observation, reward, terminated, truncated, told = self.envs.step(self.actions)
        done = terminated | truncated
        infos = [{"is_success": bool(success)} for success in told["is_success"]]
        for lane in np.flatnonzero(done):
            infos[lane]["terminal_observation"] = observation[lane]
            infos[lane]["TimeLimit.truncated"] = bool(truncated[lane] and not terminated[lane])
        if done.any():
            observation, _ = self.envs.reset(options={"reset_mask": done})
        return observation, reward.astype(np.float32), done, infos

    def close(self) -> None:
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError("one environment has no attributes of its own")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        raise NotImplementedError("one environment has no methods of its own")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))


def train(arguments: argparse.Namespace) -> tuple[PPO, VecNormalize]:
    """The policy, and the environments with the statistics by which it sees."""
    lanes = Lanes(PalaestraVectorEnv(arguments.task, arguments.level, arguments.lanes))
    envs = VecNormalize(VecMonitor(lanes), gamma=0.97, clip_obs=5.0)
    batch = min(512, arguments.rollout * arguments.lanes)
    policy = PPO(
        "MlpPolicy", envs, n_steps=arguments.rollout, batch_size=batch, n_epochs=5, gamma=0.97,
        learning_rate=3e-4, seed=0, device="cpu",
        policy_kwargs={"log_std_init": -1.0, "net_arch": [128, 128]},
    )  # fmt: skip
    return policy.learn(arguments.steps), envs


def success(policy: PPO, seen_by: VecNormalize, arguments: argparse.Namespace) -> float:
    """Share of new episodes, one a lane, that the policy's mean completes."""
    envs = PalaestraVectorEnv(arguments.task, arguments.level, arguments.episodes)
    observation, _ = envs.reset(seed=1_000_000)
    ended, completed = np.zeros((2, arguments.episodes), bool)
    while not ended.all():
        action, _ = policy.predict(seen_by.normalize_obs(observation), deterministic=True)
        observation, _, terminated, truncated, info = envs.step(action)
        over = (terminated | truncated) & ~ended
        completed |= info["is_success"] & over
        ended |= over
    envs.close()
    return float(completed.mean())


def main(words: Sequence[str] | None = None) -> None:
    """Train, then say how many episodes the policy completes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", default="reach")
    parser.add_argument("--level", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--rollout", type=int, default=256, help="steps a lane between updates")
    parser.add_argument("--episodes", type=int, default=100, help="to test on")
    arguments = parser.parse_args(words)
    policy, envs = train(arguments)
    print(f"{policy.num_timesteps:,} steps in {policy._n_updates} epochs of updates")
    print(f"success {success(policy, envs, arguments):.0%} of {arguments.episodes} episodes")


if __name__ == "__main__":
    main()
