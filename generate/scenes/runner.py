"""A planar runner of seven links in the x–z plane: a torso with two legs, shaped like a cheetah."""

from __future__ import annotations

import mujoco

TIMESTEP = 0.005  # s
SUBSTEPS = 5  # 40 Hz control
JOINTS = ("back_hip", "back_knee", "back_ankle", "front_hip", "front_knee", "front_ankle")
SWING = 0.9  # rad to either side of standing, at action ±1
RANGE = 1.1  # rad
RADIUS = 0.055  # m, of every link
DENSITY = 500.0  # kg/m³: 17 kg in all
HEIGHT = 0.64  # m, of the torso when standing
FRICTION = 0.8

TORSO_COLOUR, HEAD_COLOUR = (0.95, 0.65, 0.1, 1.0), (0.85, 0.3, 0.1, 1.0)
BACK_COLOUR, FRONT_COLOUR = (0.15, 0.35, 0.85, 1.0), (0.8, 0.15, 0.45, 1.0)
FLOOR_COLOUR = (0.45, 0.5, 0.56, 1.0)

# leg, hip's place on the torso, colour, and per link: its end (m), stiffness (N m/rad),
# damping (N m s/rad) and strongest torque (N m)
LEGS = (
    ("back", -0.5, BACK_COLOUR, (
        ("hip", (0.16, 0, -0.25), 200, 6.0, 120),
        ("knee", (-0.28, 0, -0.14), 160, 4.5, 90),
        ("ankle", (0.06, 0, -0.19), 100, 3.0, 60),
    )),
    ("front", 0.5, FRONT_COLOUR, (
        ("hip", (-0.14, 0, -0.25), 180, 4.5, 120),
        ("knee", (0.13, 0, -0.19), 120, 3.0, 80),
        ("ankle", (0.07, 0, -0.14), 80, 2.0, 50),
    )),
)  # fmt: skip


def build() -> mujoco.MjSpec:
    """Floor, runner and a camera that keeps beside it; the torso's body is `torso`."""
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.option.timestep = TIMESTEP
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    # only the floor collides with the links: they pass through each other
    spec.worldbody.add_geom(
        name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.1], rgba=FLOOR_COLOUR,
        contype=1, conaffinity=0,
    )  # fmt: skip
    torso = spec.worldbody.add_body(name="torso", pos=[0, 0, HEIGHT])
    for name, axis in (("x", (1, 0, 0)), ("z", (0, 0, 1))):
        torso.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis)
    torso.add_joint(name="pitch", axis=[0, 1, 0])
    torso.add_camera(
        name="main", mode=mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM, pos=[0.1, -3.4, 0.75],
        xyaxes=[1, 0, 0, 0, 0.16, 1], fovy=45,
    )  # fmt: skip
    _add_links(spec, torso)
    return spec


def _add_links(spec: mujoco.MjSpec, torso: mujoco.MjsBody) -> None:
    """Geoms of torso and head; legs with their joints, geoms and position servos."""
    link = {
        "type": mujoco.mjtGeom.mjGEOM_CAPSULE, "density": DENSITY, "contype": 0, "conaffinity": 1,
    }  # fmt: skip
    torso.add_geom(fromto=[-0.5, 0, 0, 0.5, 0, 0], size=[RADIUS, 0, 0], rgba=TORSO_COLOUR, **link)
    torso.add_geom(
        fromto=[0.5, 0, 0, 0.68, 0, 0.16], size=[1.3 * RADIUS, 0, 0], rgba=HEAD_COLOUR, **link
    )
    for leg, place, colour, links in LEGS:
        body, offset = torso, [place, 0, 0]
        for name, end, stiffness, damping, torque in links:
            joint = f"{leg}_{name}"
            body = body.add_body(name=joint, pos=offset)
            body.add_joint(
                name=joint, axis=[0, 1, 0], limited=True, range=[-RANGE, RANGE],
                damping=damping, armature=0.05,
            )  # fmt: skip
            # a contact takes the larger friction unless one geom has priority
            body.add_geom(
                fromto=[0, 0, 0, *end], size=[RADIUS, 0, 0], rgba=colour, priority=1,
                friction=[FRICTION, 0.005, 0.0001], **link,
            )  # fmt: skip
            servo = spec.add_actuator(
                name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT,
                ctrllimited=True, ctrlrange=[-SWING, SWING],
                forcelimited=True, forcerange=[-torque, torque],
            )  # fmt: skip
            servo.set_to_position(kp=stiffness)
            offset = list(end)
