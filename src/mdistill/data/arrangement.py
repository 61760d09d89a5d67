"""The search for the best arrangements of whole atoms on sites: all of them where few, swap Monte Carlo where many."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, islice, product

import numpy as np

from mdistill.crystals.checks import neighbour_pairs
from mdistill.crystals.crystal import Crystal
from mdistill.data.ewald import ewald_matrix
from mdistill.data.settings import DisorderSettings
from mdistill.errors import BadInput

_SAME_ENERGY = 1e-3
"""eV; arrangements whose element-pair energies all agree within this are symmetry-equivalent."""
_NEAREST, _LOCAL = 3, 0.6
"""Share of Monte Carlo swaps with one of the nearest sites of the class (halves of a split site), and their number."""
_TEMPERATURES = (1.0, 0.005)
"""Start and end of annealing, in units of the spread of random arrangements per site."""
_Lists = dict[int, tuple[np.ndarray, np.ndarray]]
VACANCY = 0
"""The atomic number of an empty site."""


class ClosePairs(BadInput):
    """Every arrangement found has pairs below their limit; `factor` is the setting that would allow the closest of them."""

    factor = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteClass:
    """Sites that share their occupancies, and the whole atoms they get.

    Attributes:
        label: The crystallographic site.
        sites: Indices into the supercell's sites.
        by_occupancy: Atomic number -> atoms by occupancy in the supercell (not whole); VACANCY for empty sites.
        counts: Atomic number -> whole atoms chosen.
    """

    label: str
    sites: tuple[int, ...]
    by_occupancy: dict[int, float]
    counts: dict[int, int] = field(default_factory=dict)

    @property
    def mixed(self) -> bool:
        """More than one thing to place, so that there is a choice."""
        return sum(count > 0 for count in self.counts.values()) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangements:
    """The best distinct arrangements, lowest energy first.

    Attributes:
        energies: [arrangement] eV per cell.
        numbers: [arrangement, site] atomic number on each site, 0 where empty.
    """

    energies: np.ndarray
    numbers: np.ndarray


@dataclass(slots=True)
class _Board:
    """What the search needs of the sites. `state` [site] indexes `species`; species 0 is the vacancy.

    matrix [site, site] eV/e²; charges, limits per species; first/second/distance: pairs that could be too close.
    """

    species: np.ndarray
    charges: np.ndarray
    limits: np.ndarray
    matrix: np.ndarray
    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray

    def energies(self, states: np.ndarray) -> np.ndarray:
        charges = self.charges[states]
        return 0.5 * np.einsum("bi,bi->b", charges @ self.matrix, charges)

    def too_close(self, states: np.ndarray) -> np.ndarray:
        """[batch] number of pairs below their limit."""
        return (self.limits[states[:, self.first], states[:, self.second]] > self.distance).sum(axis=1)

    def crowd(self, state: np.ndarray, kind: int) -> np.ndarray:
        """[site] close pairs that species number `kind` would have on each site."""
        count = len(state)
        forward = np.bincount(self.first, self.limits[kind, state[self.second]] > self.distance, count)
        return forward + np.bincount(self.second, self.limits[kind, state[self.first]] > self.distance, count)

    def fingerprint(self, state: np.ndarray) -> np.ndarray:
        """Sums of the matrix over element pairs: equal for symmetry-equivalent arrangements."""
        hot = (state[None] == np.arange(1, len(self.species))[:, None]).astype(float)
        return (hot @ self.matrix @ hot.T)[np.triu_indices(len(hot))]


def find_arrangements(
    large: Crystal, classes: list[SiteClass], *, charges: dict[int, float], limits: dict[tuple[int, int], float],
    count: int, settings: DisorderSettings, generator: np.random.Generator,
) -> Arrangements:  # fmt: skip
    """The best `count` distinct arrangements without pairs below their limit.

    Raises:
        ClosePairs: No arrangement without close pairs.
    """
    species = np.array(sorted(charges))
    board = _board(large, classes, species, charges, limits)
    ways = math.exp(min(sum(_log_ways(one) for one in classes), 700.0))
    if ways <= settings.enumerate_up_to + 0.5:
        candidates = _enumerate(board, classes, count, generator)
    else:
        candidates = _anneals(board, classes, count, settings, generator)
    good = [state for state in candidates if not board.too_close(state[None])[0]]
    if not good:
        raise _no_room(large, board, candidates[0])
    best = _distinct(board, good, count)
    return Arrangements(energies=board.energies(np.array(best)), numbers=species[np.array(best)])


def _anneals(
    board: _Board, classes: list[SiteClass], count: int, settings: DisorderSettings, generator: np.random.Generator
) -> list[np.ndarray]:
    """Annealing runs, more of them while distinct orderings are missing; two without a way round close pairs end it."""
    good: list[np.ndarray] = []
    runs = max(settings.anneals, count)
    for run in range(runs + 2 * count):
        state = _anneal(board, classes, settings.sweeps, generator)
        free = not board.too_close(state[None])[0]
        good += [state] if free else []
        if not good and run == 1:
            return [state]
        if run + 1 >= runs and len(_distinct(board, good, count)) == count:
            break
    return good


def _log_ways(one: SiteClass) -> float:
    return math.lgamma(len(one.sites) + 1) - sum(math.lgamma(count + 1) for count in one.counts.values())


def _board(
    large: Crystal, classes: list[SiteClass], species: np.ndarray, charges: dict[int, float],
    limits: dict[tuple[int, int], float],
) -> _Board:  # fmt: skip
    """Pairs of two sites that always hold an atom are left out: no arrangement changes their distance."""
    table = np.array([[limits[a, b] for b in species.tolist()] for a in species.tolist()])
    i, j, distance = neighbour_pairs(large, max(float(table.max()), 0.1))
    open_sites = np.zeros(len(large.sites), dtype=bool)
    for one in classes:
        open_sites[list(one.sites)] = VACANCY in one.by_occupancy
    keep = (i < j) & (open_sites[i] | open_sites[j])
    return _Board(
        species=species, charges=np.array([charges[n] for n in species.tolist()]), limits=table,
        matrix=ewald_matrix(large.positions, large.cell), first=i[keep], second=j[keep], distance=distance[keep],
    )  # fmt: skip


def _start(board: _Board, classes: list[SiteClass], n_sites: int) -> np.ndarray:
    """Every class filled in the order of its counts."""
    index = {number: k for k, number in enumerate(board.species.tolist())}
    state = np.zeros(n_sites, dtype=np.int64)
    for one in classes:
        state[list(one.sites)] = np.repeat([index[n] for n in one.counts], list(one.counts.values()))
    return state


def _placements(sites: tuple[int, ...], counts: list[tuple[int, int]]) -> Iterator[dict[int, int]]:
    """All ways to put counts[k] = (species, number) on the sites."""
    if not counts:
        yield {}
        return
    (kind, many), rest = counts[0], counts[1:]
    for chosen in combinations(sites, many):
        taken = set(chosen)
        for others in _placements(tuple(s for s in sites if s not in taken), rest):
            yield dict.fromkeys(chosen, kind) | others


def _enumerate(board: _Board, classes: list[SiteClass], count: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Every arrangement, in batches; the lowest distinct ones without close pairs (or one with fewest, if none).

    They come in random order, so that of arrangements with equal energy none is preferred.
    """
    index = {number: k for k, number in enumerate(board.species.tolist())}
    start = _start(board, classes, len(board.matrix))
    choices = [list(_placements(one.sites, [(index[n], c) for n, c in one.counts.items()])) for one in classes if one.mixed]
    for placements in choices:
        generator.shuffle(placements)  # type: ignore[arg-type]
    ways = product(*choices)
    pool: list[np.ndarray] = []
    worst: tuple[int, np.ndarray] | None = None
    while batch := list(islice(ways, 512)):
        states = np.repeat(start[None], len(batch), axis=0)
        for row, placement in enumerate(batch):
            for part in placement:
                states[row, list(part)] = list(part.values())
        close = board.too_close(states)
        if worst is None or close.min() < worst[0]:
            worst = (int(close.min()), states[close.argmin()])
        pool = _distinct(board, [*pool, *states[close == 0]], count)
    return pool or [worst[1]]  # type: ignore[index]


def _distinct(board: _Board, states: list[np.ndarray], count: int) -> list[np.ndarray]:
    """The lowest states that are not symmetry-equivalent to a lower one."""
    if not states:
        return []
    distinct: list[np.ndarray] = []
    prints: list[np.ndarray] = []
    for k in np.argsort(board.energies(np.array(states)), kind="stable"):
        mark = board.fingerprint(states[k])
        if all(np.abs(mark - other).max() > _SAME_ENERGY for other in prints):
            distinct.append(states[k])
            prints.append(mark)
        if len(distinct) == count:
            break
    return distinct


def _anneal(board: _Board, classes: list[SiteClass], sweeps: int, generator: np.random.Generator) -> np.ndarray:
    """One annealing run: Metropolis swaps within classes while the temperature falls; the best state met.

    It starts from a random arrangement without close pairs; swaps that would create one are rejected. Where the
    start cannot be freed, it is returned unchanged, for the message.
    """
    state = _start(board, classes, len(board.matrix))
    partners: _Lists = {}
    for one in classes:
        if one.mixed:
            members = np.array(one.sites)
            state[members] = generator.permutation(state[members])
            nearest = np.argsort(-board.matrix[np.ix_(members, members)], axis=1, kind="stable")[:, 1 : 1 + _NEAREST]
            partners |= {int(site): (members, members[near]) for site, near in zip(members, nearest, strict=True)}
    neighbours = _neighbour_lists(board)
    if not _free_of_close_pairs(board, state, partners, generator):
        return state
    sites, charges, matrix = np.array(list(partners)), board.charges, board.matrix
    steps = sweeps * len(sites)
    scale = _typical_energy(board, state, sites, generator)
    bars = -scale * np.geomspace(*_TEMPERATURES, steps) * np.log(generator.random(steps))
    picks, local = sites[generator.integers(0, len(sites), steps)], generator.random((steps, 2))
    potential = matrix @ charges[state]
    energy, best = 0.0, (0.0, state.copy())
    for i, bar, (near, which) in zip(picks.tolist(), bars.tolist(), local.tolist(), strict=True):
        pool = partners[i][1 if near < _LOCAL else 0]
        j = int(pool[int(which * len(pool))])
        shift = charges[state[j]] - charges[state[i]]
        change = shift * (potential[i] - potential[j] + 0.5 * shift * (matrix[i, i] + matrix[j, j] - 2.0 * matrix[i, j]))
        if state[i] == state[j] or change > bar or _swap(board, state, neighbours, i, j) > 0:
            continue
        potential += shift * (matrix[i] - matrix[j])
        energy += change
        if energy < best[0] - 1e-9:
            best = (energy, state.copy())
    return best[1]


def _free_of_close_pairs(board: _Board, state: np.ndarray, partners: _Lists, generator: np.random.Generator) -> bool:
    """Move atoms of close pairs to sites with the fewest close pairs, at times to any site, until none is left (in place).

    The min-conflicts heuristic: S. Minton et al., Artif. Intell. 58, 161 (1992), doi 10.1016/0004-3702(92)90007-K.
    """
    for _ in range(1000 + 20 * len(partners)):
        close = np.flatnonzero(board.limits[state[board.first], state[board.second]] > board.distance)
        if not len(close):
            return True
        k = close[generator.integers(len(close))]
        ends = [int(end[k]) for end in (board.first, board.second) if int(end[k]) in partners]
        if not ends:
            return False
        i = ends[generator.integers(len(ends))]
        choices = partners[i][0][state[partners[i][0]] != state[i]]
        here = board.crowd(state, state[i])
        cost = here[choices] - here[i]
        for kind in np.unique(state[choices]):
            there, mine = board.crowd(state, kind), state[choices] == kind
            cost[mine] += there[i] - there[choices[mine]]
        lowest = choices[cost == cost.min()] if generator.random() < 0.9 else choices
        j = int(lowest[generator.integers(len(lowest))])
        state[i], state[j] = state[j], state[i]
    return False


def _neighbour_lists(board: _Board) -> _Lists:
    """Site -> (sites that could be too close to it, distances)."""
    ends = np.concatenate([board.first, board.second])
    others, distance = np.concatenate([board.second, board.first]), np.concatenate([board.distance] * 2)
    return {int(site): (others[ends == site], distance[ends == site]) for site in np.unique(ends)}


def _swap(board: _Board, state: np.ndarray, neighbours: _Lists, i: int, j: int) -> int:
    """Swap what sites i and j hold unless that adds close pairs; the change in their number (positive: not swapped)."""
    change = -_crowd(board, state, neighbours, i) - _crowd(board, state, neighbours, j)
    state[i], state[j] = state[j], state[i]
    change += _crowd(board, state, neighbours, i) + _crowd(board, state, neighbours, j)
    if change > 0:
        state[i], state[j] = state[j], state[i]
    return change


def _crowd(board: _Board, state: np.ndarray, neighbours: _Lists, site: int) -> int:
    """Close pairs that a site takes part in."""
    if site not in neighbours:
        return 0
    sites, distance = neighbours[site]
    return int(np.count_nonzero(board.limits[state[site]][state[sites]] > distance))


def _typical_energy(board: _Board, state: np.ndarray, sites: np.ndarray, generator: np.random.Generator) -> float:
    """Standard deviation of the energy of random arrangements per square root of the disordered sites, eV."""
    charges = board.charges[state[sites]]
    inner = board.matrix[np.ix_(sites, sites)]
    energies = [0.5 * float(q @ inner @ q) for q in (generator.permutation(charges) for _ in range(16))]
    return max(float(np.std(energies)) / math.sqrt(len(sites)), 0.05)


def _no_room(large: Crystal, board: _Board, state: np.ndarray) -> ClosePairs:
    """The error for a structure whose sites cannot be filled without close pairs."""
    from ase.data import chemical_symbols, covalent_radii

    limits = board.limits[state[board.first], state[board.second]]
    close = np.flatnonzero(limits > board.distance)
    k = close[np.argmin(board.distance[close] / limits[close])]
    pair = [state[end[k]] for end in (board.first, board.second)]
    numbers, charges = board.species[pair], board.charges[pair]
    factor = "unlike" if charges.prod() < 0 else "anion" if charges.max() < 0 else "like"
    flag = f"--prepare.disorder.{'' if factor == 'anion' else 'least-'}{factor}-factor"
    lower = math.floor(100.0 * float(board.distance[k] / covalent_radii[numbers].sum())) / 100.0
    names = "–".join(chemical_symbols[number] for number in numbers)
    error = ClosePairs(
        large.source, f"every arrangement found has close pairs, such as {names} at {board.distance[k]:.2f} Å",
        allowed=f"at least {limits[k]:.2f} Å for this pair",
        fix=f"check the occupancies of split sites, or allow closer pairs with {flag} {lower:g}",
    )  # fmt: skip
    error.factor = factor
    return error
