"""Split sites whose refined occupancies sum to slightly more than one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mdistill.crystals.checks import CLOSEST, neighbour_pairs
from mdistill.crystals.crystal import Crystal, Site

MOST = 1.25
"""Largest sum of two occupancies that is taken for a refinement error."""


def merge_overfull(crystal: Crystal) -> Crystal:
    """The crystal with each overfull pair of equal partial sites read as one full site in the middle, with a note.

    A refined split site (two images closer than `CLOSEST`) can carry 2 × 0.54: only one of them can hold an atom. Sums above
    `MOST`, and pairs of other sites, are left as they are.
    """
    total = np.array([sum(site.occupancies.values()) for site in crystal.sites])
    if not len(total) or not np.isfinite(crystal.fractional).all() or not np.isfinite(crystal.cell).all() or crystal.ordered:
        return crystal
    i, j, distance = neighbour_pairs(crystal, CLOSEST)
    sums = total[i] + total[j]
    pairs = np.flatnonzero((i < j) & (sums > 1.01) & (sums <= MOST) & (np.maximum(total[i], total[j]) < 0.99))
    alike = [k for k in pairs if crystal.sites[i[k]].label == crystal.sites[j[k]].label]
    first, second = i[alike], j[alike]
    if not alike or len(set(first) | set(second)) < 2 * len(alike):
        return crystal
    sites: list[Site | None] = list(crystal.sites)
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        one, step = crystal.sites[a], crystal.fractional[b] - crystal.fractional[a]
        x, y, z = ((crystal.fractional[a] + 0.5 * (step - np.round(step))) % 1.0).tolist()
        shares = {number: occupancy / total[a] for number, occupancy in one.occupancies.items()}
        sites[a], sites[b] = Site(fractional=(x, y, z), occupancies=shares, label=one.label), None
    left = _spread_excess([site for site in sites if site is not None], crystal.composition)
    k = alike[0]
    label = crystal.sites[i[k]].label
    note = (
        f"{label}: {len(alike)} pairs of images {distance[k]:.2f} Å apart have occupancies that sum to {sums[k]:.3g}; each pair"
        " is read as one full site in the middle, and the excess is spread over the other partly filled sites of the element"
    )
    return replace(crystal, sites=tuple(left), notes=(*crystal.notes, note))


def _spread_excess(sites: list[Site], composition: dict[int, float]) -> list[Site]:
    """The sites with the composition restored: what an element lacks is added where it shares a site with vacancies."""
    for number, amount in composition.items():
        lacking = amount - sum(site.occupancies.get(number, 0.0) for site in sites)
        empty = [max(1.0 - sum(site.occupancies.values()), 0.0) * (number in site.occupancies) for site in sites]
        if 1e-9 < lacking < sum(empty):
            share = lacking / sum(empty)
            sites = [
                replace(site, occupancies=site.occupancies | {number: site.occupancies[number] + share * room}) if room else site
                for site, room in zip(sites, empty, strict=True)
            ]
    return sites
