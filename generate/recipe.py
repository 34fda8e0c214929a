"""Recipes: what a corpus holds, as values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SCRIPTED = ("expert", "random")
SELF, LEAGUE = "self", "league"
LATEST = "latest"  # the newest learned policy of a league
LISTED, PFSP, SELF_PLAY, PAST = RULES = ("listed", "pfsp", "self_play", "past")
WEIGHTINGS = ("even", "hard")
KEEP = ("all", "success")


@dataclass(frozen=True)
class Player:
    """A policy with all that decides how it plays."""

    policy: str
    """`expert`, `random`, or `"module:function"`."""
    noise: float = 0.0
    """Standard deviation of white noise on an expert's actions."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Passed to `"module:function"`; `{name}` in a string stands for what `--set name=…` gives."""
    rating: float | None = None
    """Stored with its matches."""

    @property
    def scripted(self) -> bool:
        """Whether it needs no learning: it plays the same everywhere, in waves of any width."""
        return self.policy in SCRIPTED

    @property
    def label(self) -> str:
        """What it is called in the corpus, unless the recipe gives it a name."""
        return f"{self.policy}+noise{self.noise:g}" if self.noise else self.policy


@dataclass(frozen=True)
class Behaviour:
    """One way of playing, on some tasks and levels, with a share of the corpus's steps."""

    tasks: tuple[str, ...]
    """Names, families (`arm`, `locomotion`, `match`), `train` for all that is not held out, or
    `heldout` for all that is."""
    policy: str
    """`expert`, `random`, `"module:function"`, a name from `policies`, or `latest`: a league's
    newest learned policy."""
    levels: tuple[int, ...] = (1,)
    noise: float = 0.0
    """As a Player's; not for a name, which has its own."""
    weight: float = 1.0
    """Share of the steps, relative to the other behaviours, split evenly over tasks × levels."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """As a Player's."""
    opponents: tuple[str, ...] = ()
    """Of two-player tasks, in equal parts: `self` (the default), `league`, or as `policy`."""
    sampling: str = ""
    """How its opponent was chosen, once resolved: `listed`, or of a league `pfsp`, `self_play` or
    `past`; empty with one player."""
    sampling_probability: float | None = None
    """Of this opponent by this rule, among the matches of the behaviour on that task."""
    parts: tuple[str, ...] = ()
    """Parts of the recipe that hold it; by default all."""

    @property
    def label(self) -> str:
        """The policy's name in the corpus."""
        return Player(self.policy, self.noise).label

    def plays_in(self, part: str) -> bool:
        """Whether a part of the recipe holds it."""
        return not self.parts or part in self.parts


@dataclass(frozen=True)
class Part:
    """A corpus of its own within a recipe: a round of self-play, or the demonstrations."""

    weight: float
    """Share of the recipe's steps, relative to the other parts."""
    round: int = 0
    keep: str = "all"
    """Both as a Recipe's."""


@dataclass(frozen=True)
class Sampling:
    """How the opponent `league` is chosen; the three shares count relative to each other."""

    pfsp: float = 0.5
    """Prioritised fictitious self-play: members by the win rate against them."""
    self_play: float = 0.35
    """The policy against itself as it is now."""
    past: float = 0.15
    """All other members alike."""
    weighting: str = "even"
    """Of PFSP, by the win rate x: `even`, x(1 − x), or `hard`, (1 − x)²."""
    temperature: float = 1.0
    """At which a league's networks draw their actions, `latest` included; 0 for their means."""


@dataclass(frozen=True)
class Recipe:
    """A corpus to be. Resolved, it has no parts, tasks by name alone, and single opponents."""

    name: str
    steps: int
    """Interaction steps in all; rounded up to whole waves."""
    behaviours: tuple[Behaviour, ...]
    seed: int = 0
    shard_steps: int = 262_144
    """Steps per shard, the unit of work and retry; rounded to whole waves."""
    wave: int = 64
    """Lanes played in lockstep."""
    image_size: int = 64
    """Pixels along each side of a frame."""
    renderer: str = "raster"
    """`raster`, on the CPU, or `egl`: OpenGL, for machines with a GPU."""
    heldout: bool = False
    """Whether it may hold tasks and levels that are held out of training (for evaluation only)."""
    keep: str = "all"
    """Episodes to store: `all`, or `success`: of demonstrations those that succeed, of matches
    those that somebody wins. As many are stored either way."""
    round: int = 0
    """Of self-play; stored with every segment."""
    policies: dict[str, Player] = field(default_factory=dict)
    """Policies by names of the recipe's own."""
    league: str = ""
    """URL of a league file, whose members are the opponent `league`."""
    sampling: Sampling = field(default_factory=Sampling)
    """Whom of a league a policy meets how often."""
    selfplay: dict[str, Any] = field(default_factory=dict)
    """Settings of `evaluate selfplay`, which makes rounds of the parts; generation has none."""
    parts: dict[str, Part] = field(default_factory=dict)
    """Several corpora from one recipe, each generated by itself with `--part`. The seed of a part
    follows from the recipe's and its name."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, as stored in corpus.json."""
        return dataclasses.asdict(self)

    def player(self, name: str) -> Player:
        """The player of that name: the recipe's own, or one without settings."""
        return self.policies.get(name) or Player(name)

    def player_of(self, behaviour: Behaviour) -> Player:
        """Who plays a behaviour."""
        named = self.policies.get(behaviour.policy)
        return named or Player(behaviour.policy, behaviour.noise, behaviour.arguments)

    def cast(self) -> Iterator[tuple[str, Player]]:
        """Everybody who plays, opponents included, by label, as often as they are named."""
        for behaviour in self.behaviours:
            yield behaviour.label, self.player_of(behaviour)
            yield from ((name, self.player(name)) for name in behaviour.opponents if name != SELF)

    def players(self) -> dict[str, Player]:
        """The same, each once."""
        return dict(self.cast())

    @property
    def needs_league(self) -> bool:
        """Whether somebody plays a league's members, or is one."""
        return not {LEAGUE, LATEST}.isdisjoint(self.players())

    @property
    def scripted(self) -> bool:
        """Whether scripts play and the rasteriser draws: a CPU is all that it takes."""
        return self.renderer == "raster" and all(p.scripted for p in self.players().values())
