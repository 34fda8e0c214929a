"""Frames per second of the rasteriser on one core, beside MuJoCo's batched rays.

Run: python benchmarks/raster.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import mujoco
import mujoco.batch
import numpy as np
from palaestra.generate.raster import Rasterizer

SIZE = 64
NSIM = 64
REPETITIONS = 15
FOVY = 45  # degrees
CLUTTER = ("box", "sphere", "capsule", "cylinder", "ellipsoid")
SCENE = f"""<mujoco><worldbody><geom type="plane" size="0 0 1"/>
<body pos="0 0 .3"><joint axis="0 0 1"/><geom type="capsule" fromto="0 0 0 0 0 .2" size=".05"/>
<body pos="0 0 .2"><joint axis="0 1 0"/><geom type="capsule" fromto="0 0 0 .3 0 0" size=".04"/>
<body pos=".3 0 0"><joint axis="0 1 0"/><geom type="capsule" fromto="0 0 0 .3 0 0" size=".03"/>
</body></body></body>
<geom type="box" size=".05 .05 .05" pos=".5 0 .05"/>
<geom type="box" size=".05 .05 .05" pos=".5 .2 .05"/>{{clutter}}
<camera name="eye" pos="1.5 0 1" xyaxes="0 1 0 -.5 0 1" fovy="{FOVY}"/></worldbody></mujoco>"""


def make_batch(geoms: int) -> mujoco.batch.Batch:
    """An arm over a floor with two boxes (6 geoms), and a ring of clutter for the rest."""
    angles = np.linspace(0, 6, geoms - 6)
    clutter = "".join(
        f'<geom type="{CLUTTER[n % 5]}" size=".05 .05 .05" '
        f'pos="{0.6 * np.cos(angle) + 0.3} {0.6 * np.sin(angle)} .05"/>'
        for n, angle in enumerate(angles)
    )
    model = mujoco.MjModel.from_xml_string(SCENE.format(clutter=clutter))
    return mujoco.batch.Batch(model, nsim=NSIM, nthread=1)


def frames_per_second(draw: Callable[[], object]) -> float:
    """The median rate at which draw makes NSIM frames."""
    draw()
    times = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        draw()
        times.append(time.perf_counter() - start)
    return NSIM / statistics.median(times)


def measure(geoms: int) -> tuple[float, float]:
    """Frames per second of the rasteriser and of Batch.ray."""
    batch = make_batch(geoms)
    raster = Rasterizer(batch, "eye", SIZE)
    batch.bind("qpos")[:] = np.random.Generator(np.random.Philox(0)).uniform(-1, 1, (NSIM, 3))
    batch.forward()
    out = np.empty((NSIM, SIZE, SIZE, 3), np.uint8)
    plane = ((2 * np.arange(SIZE) + 1) / SIZE - 1) * np.tan(np.deg2rad(FOVY / 2))
    x, y = np.meshgrid(plane, -plane)
    rays = np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3)
    rays = rays @ batch.bind("cam_xmat")[0].reshape(3, 3).T  # the camera does not move
    eye = batch.bind("cam_xpos")[0, 0]
    return (
        frames_per_second(lambda: raster.render(out)),
        frames_per_second(lambda: batch.ray(eye, rays, normal=True)),
    )


def main() -> None:
    print(f"{SIZE}x{SIZE} frames/s on one core, median of {REPETITIONS} runs of {NSIM} frames")
    print(f"{'geoms':>5} {'raster':>10} {'Batch.ray':>10}")
    for geoms in (6, 30):
        raster, ray = measure(geoms)
        print(f"{geoms:5d} {raster:10.0f} {ray:10.0f}")


if __name__ == "__main__":
    main()
