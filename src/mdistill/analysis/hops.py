"""Hops of ions without a list of sites: rate, length, residence time, returns, largest displacement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mdistill.estimates import Estimate, exactly, unknown
from mdistill.units import PS

AVERAGED = 1.0 * PS
"""Positions are averaged over this time (fs): the resolution of a hop."""
RETURN_TIME = 10.0 * PS
"""A hop back to the site just left counts as a return within this time (fs)."""
CHUNKS = 10
"""Least number of pieces of all runs, whose scatter gives the errors."""
NS = 1000.0 * PS


@dataclass(frozen=True, slots=True, kw_only=True)
class Hops:
    """Hop statistics of one species.

    Attributes:
        count: Hops of all ions in all runs.
        rate: Hops an ion and nanosecond (1/ns).
        length: Distance between the mean positions before and after a hop (Å).
        residence: Time on a site between hops that are not undone by a return (ps).
        returns: Share of hops back to the site just left within `RETURN_TIME` (%).
        largest: Largest displacement of an ion from its start in any run (Å).
        lengths: Length of each hop (Å).
    """

    count: int
    rate: Estimate
    length: Estimate
    residence: Estimate
    returns: Estimate
    largest: Estimate
    lengths: Float[np.ndarray, " hop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Hops of one run, sorted by ion: time (fs), mean positions before and after (Å), whether it is a return, whether it lasts
    (no return undoes it)."""

    time: Float[np.ndarray, " hop"]
    ends: Float[np.ndarray, "hop 2 3"]
    returned: Bool[np.ndarray, " hop"]
    lasting: Bool[np.ndarray, " hop"]

    @property
    def length(self) -> Float[np.ndarray, " hop"]:
        """Distance between the mean positions (Å)."""
        return np.linalg.norm(self.ends[:, 1] - self.ends[:, 0], axis=1)


def hop_statistics(moved: Sequence[Float[np.ndarray, "frame ion 3"]], spacing: float, *, distance: float) -> Hops:
    """Hop statistics of independent runs, with errors from the scatter of pieces of the runs, at least those of counting.

    Args:
        moved: Displacements (Å) in the frame of the host, one array a run.
        spacing: Time between frames (fs).
        distance: Displacement (Å) that makes a hop; see `find_hops`.
    """
    found = [find_hops(run, spacing, distance=distance) for run in moved]
    pieces = max(2, -(-CHUNKS // len(moved)))
    rows, exposure = [], []
    for run, events in zip(moved, found, strict=True):
        length = len(run) * spacing
        piece = np.minimum((events.time / length * pieces).astype(int), pieces - 1)
        kinds = (np.ones(len(piece)), events.length, events.returned, events.lasting)
        rows.append(np.stack([np.bincount(piece, weights=np.asarray(k, float), minlength=pieces) for k in kinds]))
        exposure.append(np.full(pieces, run.shape[1] * length / pieces))
    hops, lengths, returned, lasting = np.concatenate(rows, axis=1)
    time, count = np.concatenate(exposure), int(hops.sum())
    every = np.concatenate([events.length for events in found])
    share, kept = returned.sum() / max(count, 1), max(lasting.sum(), 1.0)
    counting = float(np.sqrt(max(share * (1 - share), 0.25 / max(count, 1)) / max(count, 1)))
    largest = exactly(max(_largest(run, spacing) for run in moved), "Å")
    if not count:
        rate = Estimate(value=None, error=None, unit="1/ns", upper_limit=3.0 / float(time.sum()) * NS)
        return Hops(
            count=0, rate=rate, length=unknown("Å"), residence=unknown("ps"), returns=unknown("%"), largest=largest, lengths=every
        )
    residence = (
        _ratio(time / PS, lasting, least=float(time.sum()) / PS / kept**1.5, unit="ps") if lasting.any() else unknown("ps")
    )
    return Hops(
        count=count,
        rate=_counted(_ratio(hops, time / NS, least=count**0.5 / float(time.sum()) * NS, unit="1/ns")),
        length=_ratio(lengths, hops, least=float(every.std()) / count**0.5, unit="Å"),
        residence=residence,
        returns=_ratio(100.0 * returned, hops, least=100.0 * counting, unit="%"),
        largest=largest,
        lengths=every,
    )


def find_hops(moved: Float[np.ndarray, "frame ion 3"], spacing: float, *, distance: float) -> Events:
    """The hops of one run: the position averaged over 1 ps leaves its site by more than `distance` (Å), twice running.

    A site is the mean position between two hops. Hops that come back within 2 ps are not seen.
    """
    means = _averaged(moved, spacing)
    step = len(moved) // len(means) * spacing
    arrivals = _arrivals(means, distance)
    sums = np.concatenate([np.zeros_like(means[:1]), np.cumsum(means, axis=0)])
    time, ends, returned, lasting = [], [], [], []
    for ion, (starts, stops) in arrivals.items():
        sites = (sums[stops, ion] - sums[starts, ion]) / (stops - starts)[:, None]
        back, kept = _returns(sites, starts * step, distance)
        time.append(starts[1:] * step)
        ends.append(np.stack([sites[:-1], sites[1:]], axis=1))
        returned.append(back)
        lasting.append(kept)
    if not time:
        nothing, none = np.zeros(0), np.zeros(0, bool)
        return Events(time=nothing, ends=np.zeros((0, 2, 3)), returned=none, lasting=none)
    joined = (np.concatenate(part) for part in (time, ends, returned, lasting))
    return Events(**dict(zip(("time", "ends", "returned", "lasting"), joined, strict=True)))


def count_hops(moved: Float[np.ndarray, "frame ion 3"], spacing: float, *, distance: float) -> int:
    """Number of hops of all ions in one run; see `find_hops`."""
    return len(find_hops(moved, spacing, distance=distance).time)


def _averaged(moved: Float[np.ndarray, "frame ion 3"], spacing: float) -> Float[np.ndarray, "block ion 3"]:
    size = max(1, min(round(AVERAGED / spacing), len(moved) // 4))
    count = len(moved) // size
    return moved[: count * size].reshape(count, size, *moved.shape[1:]).mean(axis=1)


def _arrivals(
    means: Float[np.ndarray, "block ion 3"], distance: float
) -> dict[int, tuple[Int[np.ndarray, " stay"], Int[np.ndarray, " stay"]]]:
    """First block on each site and the end of its blocks, for every ion that hops; the block of the hop is in neither."""
    site, events = means[0].copy(), list[np.ndarray]()
    for block in range(1, len(means) - 1):
        now, after = means[block], means[block + 1]
        gone = (((now - site) ** 2).sum(-1) > distance**2) & (((after - site) ** 2).sum(-1) > distance**2)
        site[gone] = after[gone]
        movers = np.flatnonzero(gone)
        events.append(np.stack([movers, np.full(len(movers), block)], axis=1))
    if not sum(map(len, events)):
        return {}
    every = np.concatenate(events)
    ions, blocks = every[np.argsort(every[:, 0], kind="stable")].T
    stays, movers = {}, np.unique(ions)
    for ion, left in zip(movers.tolist(), np.split(blocks, np.searchsorted(ions, movers)[1:]), strict=True):
        starts, ends = np.concatenate([[0], left + 1]), np.concatenate([left - 1, [len(means)]])
        stays[ion] = (starts, np.maximum(ends, starts + 1))
    return stays


def _returns(
    sites: Float[np.ndarray, "stay 3"], since: Float[np.ndarray, " stay"], distance: float
) -> tuple[Bool[np.ndarray, " hop"], Bool[np.ndarray, " hop"]]:
    """Which hops go back to the site just left in time, and which are neither such a return nor undone by one."""
    back, lasting, path = np.zeros(len(sites) - 1, bool), np.ones(len(sites) - 1, bool), list[int]()
    for hop in range(1, len(back)):
        soon = since[hop + 1] - since[hop] <= RETURN_TIME
        back[hop] = soon and float(np.linalg.norm(sites[hop + 1] - sites[hop - 1])) < distance
    for hop, returned in enumerate(back):
        if returned and path and path[-1] == hop - 1:
            lasting[[hop, path.pop()]] = False
        else:
            path.append(hop)
    return back, lasting


def _largest(moved: Float[np.ndarray, "frame ion 3"], spacing: float) -> float:
    means = _averaged(moved, spacing)
    return float(np.linalg.norm(means - means[:1], axis=-1).max())


def _ratio(above: Float[np.ndarray, " piece"], below: Float[np.ndarray, " piece"], *, least: float, unit: str) -> Estimate:
    """Σ above/Σ below; its error from the residuals of the pieces, at least `least`."""
    value, pieces = above.sum() / below.sum(), len(above)
    residual = above - value * below
    error = float(np.sqrt(pieces / (pieces - 1) * (residual**2).sum()) / below.sum())
    return Estimate(value=float(value), error=max(error, least), unit=unit, samples=int(max(1, round(float(below.sum())))))


def _counted(rate: Estimate) -> Estimate:
    """The rate with the exact Poisson interval of as many hops as its error corresponds to (Garwood 1936)."""
    from scipy.stats import chi2

    value, error = float(rate.value or 0.0), float(rate.error or 1.0)
    count = (value / error) ** 2
    low, high = chi2.ppf(0.025, 2 * count) / (2 * count), chi2.ppf(0.975, 2 * count + 2) / (2 * count)
    return Estimate(
        value=value, error=error, unit=rate.unit, samples=rate.samples, interval=(float(value * low), float(value * high))
    )
