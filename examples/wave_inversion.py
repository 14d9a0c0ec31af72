"""Find the speed of waves at each place of a medium, from the records of microphones at its border.

This is how seismic surveys see underground and how ultrasound sees a body: full-waveform inversion (Tarantola,
"Inversion of seismic reflection data in the acoustic approximation", 1984). A finite-difference scheme computes waves
for a speed that is guessed; the gradient of the misfit, through all its steps, says how to mend the guess. The folder
given by --out gets the speed that was found, a picture, and the run for --resume.

    pip install 'tapegrad[examples]'
    python examples/wave_inversion.py
    python examples/wave_inversion.py --device cuda --compile
"""

import sys
from typing import Any

from command_line import arguments, needs, run_of, steps_of

needs("matplotlib", "safetensors", "tqdm")
import numpy as np
from matplotlib.figure import Figure

import tapegrad as tg
from tapegrad import optim

SOURCES, BETWEEN, NOISE = 16, 12, 0.02  # sources around the medium; steps between two that are kept

args = arguments("Find the speed of waves.", epochs=25, out="wave_inversion", cells=48)
n, steps = args.cells, args.cells // 4 * BETWEEN
slow = 0.4  # the speed of the background, in cells a step: below 0.7, or the scheme is unstable

# 1. The medium: a fast and a slow inclusion. Microphones stand all around it, where sources are, too.
across, down = np.meshgrid(np.linspace(-1, 1, n), np.linspace(-1, 1, n))
true = slow + 0.08 * (np.hypot(across - 0.25, down - 0.2) < 0.3) - 0.06 * (np.hypot(across + 0.3, down + 0.25) < 0.25)
ring = np.linspace(0, 2 * np.pi, 64, endpoint=False)
ring_y, ring_x = (np.rint((n - 1) / 2 * (1 + 0.8 * f(ring))).astype(int) for f in (np.sin, np.cos))
# A margin that damps waves, so that they do not come back from the edges of the grid (Cerjan et al., 1985).
edge = np.maximum(0, np.maximum(np.abs(across), np.abs(down)) - 0.8) / 0.2
damping = tg.asarray(np.exp(-0.15 * edge**2).astype("float32"))
time = np.arange(steps) - 14.0
pulse = tg.asarray(((1 - 0.5 * (time / 3) ** 2) * np.exp(-0.25 * (time / 3) ** 2)).astype("float32"))


# 2. Waves: the second difference in time is the square of the speed times that in space. The axes are source, y, x.
def heard(speed: Any, at: Any) -> Any:
    def step(waves: tuple[Any, Any], strength: Any) -> tuple[tuple[Any, Any], Any]:
        now, before = waves
        p = tg.pad(now, ((0, 0), (1, 1), (1, 1)))
        laplace = p[:, 2:, 1:-1] + p[:, :-2, 1:-1] + p[:, 1:-1, 2:] + p[:, 1:-1, :-2] - 4.0 * now
        after = damping * (2.0 * now - damping * before + speed**2 * laplace + strength * at)
        return (after, now), after[:, ring_y, ring_x]

    # All waves of all steps would be kept for the backward pass. With checkpoint, those between are computed again.
    part = tg.checkpoint(lambda waves, strengths: tg.scan(step, waves, strengths))
    waves = (tg.zeros(at.shape), tg.zeros(at.shape))
    _, records = tg.scan(part, waves, tg.reshape(pulse, (-1, BETWEEN)))
    return tg.reshape(records, (steps, at.shape[0], -1))


# 3. What the microphones heard of each source: computed with the true speed, and noise.
chosen = np.arange(0, len(ring), len(ring) // SOURCES)
sources = np.zeros((SOURCES, n, n), dtype="float32")
sources[np.arange(SOURCES), ring_y[chosen], ring_x[chosen]] = 1.0
rng = tg.random.Generator(args.seed)
records = heard(tg.asarray(true.astype("float32")), tg.asarray(sources))
records = records + NOISE * tg.std(records) * rng.normal(records.shape)
batches = tg.data.Batches(sources, tg.permute_dims(records, (1, 0, 2)), size=4, shuffle=rng)
print(f"{SOURCES} sources, {len(ring)} microphones, {n} x {n} speeds to find, on {args.where}")

# 4. The step, and the loop. Only the speed within the ring is searched for; it starts as that of the background.
inside = tg.asarray((np.hypot(across, down) < 0.75).astype("float32"))
change = tg.tensor(tg.zeros((n, n)), requires_grad=True)
optimiser = optim.Adam([change], optim.cosine(0.01, args.epochs * len(batches)))
run = run_of(args, change=[change], optimiser=optimiser, rng=rng, data=batches)


def step(at: Any, record: Any) -> Any:
    misfit = tg.mse_loss(tg.permute_dims(heard(slow + inside * change, at), (1, 0, 2)), record)
    misfit.backward()
    optimiser.step()
    return misfit


train = tg.compile(step, rehearse=True) if args.compile else step
loop = tg.Loop(batches, epochs=args.epochs, run=run, every=len(batches))
for batch in steps_of(loop, args):
    loop.log(misfit=train(*batch))

# 5. The speed that was found, and the picture.
found = slow + np.asarray((inside * change).detach().to_device("cpu"))
tg.save(args.out / "wave_inversion.safetensors", {"speed": found})
figure = Figure(figsize=(13, 4), layout="constrained")
true_axes, found_axes, records_axes, axes = figure.subplots(1, 4)
for one, speed, title in ((true_axes, true, "True speed"), (found_axes, found, "Found")):
    shown = one.imshow(speed, cmap="RdYlBu_r", vmin=0.3, vmax=0.5)
    one.plot(ring_x, ring_y, ".", color="black", markersize=2)
    one.set_title(title)
    one.set_axis_off()
figure.colorbar(shown, ax=[true_axes, found_axes], shrink=0.7, label="cells a step")
record = np.asarray(records[:, 0, :].to_device("cpu"))
records_axes.imshow(record, aspect="auto", cmap="RdBu_r", vmin=-0.3, vmax=0.3)
records_axes.set(title="Heard of one source", xlabel="microphone", ylabel="step")
axes.semilogy(*np.transpose(loop.history.get("misfit", [(0, 1.0)])))
axes.set(title="Misfit", xlabel="step")
figure.savefig(args.out / "wave_inversion.png", dpi=120)
print(f"wrote {args.out / 'wave_inversion.safetensors'} and {args.out / 'wave_inversion.png'}")
error = np.sqrt(np.mean((found - true) ** 2) / np.mean((true - slow) ** 2))
print(f"{100 * error:.0f} % of the inclusions is not explained")
sys.exit(128 + loop.interrupted if loop.interrupted else 0)
