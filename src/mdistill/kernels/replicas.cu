// Structures in one launch: neighbour search, the student, time steps. One warp per atom, one block per structure where a number of
// the whole structure is needed, no atomics. A step is advance, search, evaluate, gather, finish; the kernels of a structure that has
// taken its steps, passed a limit or lacks room do nothing.
//
// Atoms of a structure are sorted by species. `table` arrays have `room` slots per atom.
#include "warp_moment.hpp"

using namespace mdistill;

namespace {

constexpr double BOLTZMANN = 8.617333262e-5, ACCELERATION = 9.648533212331e-3, FARTHEST = 1e6;
constexpr int WARPS = sizeof(Room) * 4 <= 48 * 1024 ? 4 : 1, BLOCK = 256;
enum State : int { RUNS, STOPPED, NO_ROOM };

// What one structure does in a call; the fields of `Motion` in kernels/motion.py that one has on a GPU.
struct Plan {
  long long steps, first_step, ensemble;  // 0 energy-conserving, 1 Langevin (BAOAB), 2 Bussi
  double time_step, keep, temperature;
  const unsigned long long *keys;    // one per step
  const double *normal, *chi_square;  // one per step
  long long watch_every;
  double largest_force, highest_temperature, reference_energy, energy_change;
};

// Everything in device memory; the same as the fields that kernels/replicas.py names.
struct Batch {
  Net net;
  long long atoms, structures, room;
  double skin;
  const int *first;              // [structure + 1] atoms
  const int *range;              // [structure][species + 1] atoms by species
  const int *owner, *kind, *own;  // [atom] structure; species; number of the atom in its structure as it was given
  const double *cell, *inverse, *volume;  // [structure]: rows are lattice vectors; columns of the inverse; Å³
  const int *pbc;                // [structure][3]
  const double *mass, *limit;    // [atom] u; [pair] closest distance allowed
  const Plan *plan;              // [structure]
  double *positions, *momenta, *middle, *forces, *old;  // [atom][3]; old: positions at the last search
  double *energy, *virial, *closest, *heat;             // [atom], virial [atom][6] xx yy zz yz xz xy
  double *total, *sums;          // [structure]: energy and virial [7]; as `Point.sums` [3 + species]
  int *step, *state, *stale, *lost;  // [structure]; step −1: forces unknown
  int *wanted, *end, *near_end;  // [atom], [atom][species] end of the slots with senders up to this species
  int *sender, *reverse, *near;  // table: sender, slot of the same pair in the sender's table, slots within the cutoff
  long long *image;              // table: lattice vector of the sender
  real *pull;                    // table [3]: energy's derivative in the edge vector
};

__device__ long long packed(int x, int y, int z) {
  constexpr long long half = 1 << 20;
  return (x + half) << 42 | (y + half) << 21 | (z + half);
}

__device__ int part_of(long long image, int a) {
  return int(image >> (42 - 21 * a) & ((1 << 21) - 1)) - (1 << 20);
}

// Vector of the edge from atom i to atom j in an image. Exactly minus that of the reverse edge.
__device__ void edge_vector(const Batch &b, int i, int j, long long image, double *d) {
  const double *cell = b.cell + 9 * b.owner[i];
  const double x = part_of(image, 0), y = part_of(image, 1), z = part_of(image, 2);
  for (int c = 0; c < 3; ++c) d[c] = b.positions[3 * j + c] - b.positions[3 * i + c] + (x * cell[c] + y * cell[3 + c] + z * cell[6 + c]);
}

__device__ bool idle(const Batch &b, int s) { return b.state[s] != RUNS || b.step[s] >= b.plan[s].steps; }

__device__ int atom_of_warp() { return int(blockIdx.x) * WARPS + int(threadIdx.x) / WARP; }

__device__ unsigned long long mixed_bits(unsigned long long x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// Number `index` of stream 0 of a key, as simulation/noise.py has it.
__device__ double standard_normal(unsigned long long key, unsigned long long index) {
  constexpr unsigned long long gamma = 0x9E3779B97F4A7C15ull;
  const unsigned long long start = mixed_bits(key + mixed_bits(0));
  auto uniform = [start](unsigned long long i) { return (double(mixed_bits(start + i * gamma) >> 11) + 0.5) * (1.0 / 9007199254740992.0); };
  return sqrt(-2.0 * log(uniform(2 * index))) * cos(2.0 * 3.14159265358979323846 * uniform(2 * index + 1));
}

// Every image of atom j closer to atom i than `reach`, in order: visit(image).
template <class Visit>
__device__ void images(const Batch &b, int i, int j, double reach, Visit visit) {
  const int s = b.owner[i];
  const double *inverse = b.inverse + 9 * s;
  int low[3], high[3];
  double d[3];
  for (int c = 0; c < 3; ++c) d[c] = b.positions[3 * j + c] - b.positions[3 * i + c];
  for (int a = 0; a < 3; ++a) {
    const double *column = inverse + 3 * a;
    const double along = d[0] * column[0] + d[1] * column[1] + d[2] * column[2];
    const double most = reach * (1.0 + 1e-9) * sqrt(column[0] * column[0] + column[1] * column[1] + column[2] * column[2]);
    low[a] = b.pbc[3 * s + a] ? int(ceil(-most - along)) : 0, high[a] = b.pbc[3 * s + a] ? int(floor(most - along)) : 0;
  }
  for (int x = low[0]; x <= high[0]; ++x)
    for (int y = low[1]; y <= high[1]; ++y)
      for (int z = low[2]; z <= high[2]; ++z) {
        const long long image = packed(x, y, z);
        edge_vector(b, i, j, image, d);
        if (d[0] * d[0] + d[1] * d[1] + d[2] * d[2] < reach * reach && (i != j || x || y || z)) visit(image);
      }
}

// Slot of atom i at minus this image in the table of atom j.
__device__ int reverse_slot(const Batch &b, int i, int j, long long image) {
  const long long back = packed(-part_of(image, 0), -part_of(image, 1), -part_of(image, 2)), table = j * b.room;
  const int n = int(b.net.species), t = b.kind[i];
  for (int m = t ? b.end[j * n + t - 1] : 0; m < b.end[j * n + t]; ++m)
    if (b.sender[table + m] == i && b.image[table + m] == back) return m;
  return 0;
}

// The edges of atom i for `atom_energy`. Those within the cutoff are written to `near` where they are first asked for.
struct Edges {
  const Batch &b;
  const int i, lane;
  int at = -1, from = 0, until = 0;
  double core = 0, virial[6] = {0, 0, 0, 0, 0, 0}, closest = 1e30;

  __device__ Edges(const Batch &b, int i, int lane) : b(b), i(i), lane(lane) {}

  __device__ int count(int t) {
    const int n = int(b.net.species), *end = b.near_end + i * n;
    if (t > at) find(t), at = t;
    from = t ? end[t - 1] : 0, until = end[t];
    return until - from;
  }

  __device__ int slot(int m) const { return b.near[i * b.room + from + m]; }

  __device__ Edge edge(int m, int pair) const {
    double d[3];
    vector(slot(m), d);
    return Edge(b.net, pair, d[0], d[1], d[2]);
  }

  __device__ void back(int m, int pair, real inward, const real *w, const Edge &e) {
    const double r = 1.0 / double(e.inverse);
    double rate = 0;
    if (r < b.net.outer[pair]) core += core_energy(b.net, pair, r, &rate);
    if (b.limit[pair] > 0) closest = smaller(closest, r / b.limit[pair]);
    const real u[3] = {e.x, e.y, e.z}, along = inward - e.inverse * (u[0] * w[0] + u[1] * w[1] + u[2] * w[2]) + real(rate);
    real g[3];
    for (int c = 0; c < 3; ++c) g[c] = u[c] * along + w[c] * e.inverse, b.pull[3 * (i * b.room + slot(m)) + c] = g[c];
    for (int c = 0; c < 3; ++c) virial[c] += r * double(u[c] * g[c]), virial[3 + c] += 0.5 * r * double(u[(c + 1) % 3] * g[(c + 2) % 3] + u[(c + 2) % 3] * g[(c + 1) % 3]);
  }

 private:
  __device__ void vector(int m, double *d) const { edge_vector(b, i, b.sender[i * b.room + m], b.image[i * b.room + m], d); }

  __device__ void find(int t) {
    const int n = int(b.net.species), *end = b.end + i * n;
    int count = t ? b.near_end[i * n + t - 1] : 0;
    __syncwarp();
    for (int first = t ? end[t - 1] : 0; first < end[t]; first += WARP) {
      double d[3] = {1e9, 0, 0};
      if (first + lane < end[t]) vector(first + lane, d);
      const bool inside = d[0] * d[0] + d[1] * d[1] + d[2] * d[2] < b.net.cutoff * b.net.cutoff;
      const unsigned found = __ballot_sync(ALL, inside);
      if (inside) b.near[i * b.room + count + __popc(found & ((1u << lane) - 1))] = first + lane;
      count += __popc(found);
    }
    if (lane == 0) b.near_end[i * n + t] = count;
    __syncwarp();
  }
};

// Sum of `value` over the threads of a block, in all of them.
__device__ double block_sum(double value) {
  __shared__ double parts[BLOCK / WARP];
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = value;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < BLOCK / WARP; ++w) total += parts[w];
  return total;
}

template <class Value>
__device__ double sum_over(int from, int to, Value value) {
  double mine = 0;
  for (int i = from + int(threadIdx.x); i < to; i += BLOCK) mine += value(i);
  return block_sum(mine);
}

// Momenta less those of the centre of mass: their squares over masses, added up for the atoms of each species (eV).
struct Internal {
  double velocity[3];

  __device__ Internal(const Batch &b, const double *p, int from, int to) {
    const double mass = sum_over(from, to, [&](int i) { return b.mass[i]; });
    for (int c = 0; c < 3; ++c) {
      const double whole = sum_over(from, to, [&](int i) { return p[3 * i + c]; });
      velocity[c] = to - from > 1 ? whole / mass : 0.0;
    }
  }
  __device__ double of(const Batch &b, const double *p, int i, int c) const { return p[3 * i + c] - b.mass[i] * velocity[c]; }
  __device__ double twice_kinetic(const Batch &b, const double *p, int from, int to) const {
    return sum_over(from, to, [&](int i) {
      double square = 0;
      for (int c = 0; c < 3; ++c) square += of(b, p, i, c) * of(b, p, i, c);
      return square / (b.mass[i] * ACCELERATION);
    });
  }
};

// The thermostat of Bussi; gives the heat, eV.
__device__ double rescale(const Batch &b, const Plan &plan, long long step, int from, int to) {
  const Internal internal(b, b.momenta, from, to);
  const double kinetic = 0.5 * internal.twice_kinetic(b, b.momenta, from, to), keep = plan.keep, R = plan.normal[step];
  if (!(kinetic > 0.0)) return 0.0;
  const double ratio = 0.5 * BOLTZMANN * plan.temperature / kinetic;
  const double square = keep + (1.0 - keep) * ratio * (R * R + plan.chi_square[step]) + 2.0 * R * sqrt(keep * (1.0 - keep) * ratio);
  const double sign = R + sqrt(keep / ((1.0 - keep) * ratio)) >= 0.0 ? 1.0 : -1.0;
  const double change = sign * sqrt(larger(square, 0.0)) - 1.0;
  for (int i = from + int(threadIdx.x); i < to; i += BLOCK)
    for (int c = 0; c < 3; ++c) b.momenta[3 * i + c] += change * internal.of(b, b.momenta, i, c);
  __syncthreads();
  return kinetic * (2.0 * change + change * change);
}

// Whether a limit is passed.
__device__ bool suspicious(const Batch &b, const Plan &plan, const double *p, int s, int from, int to, double energy, double twice) {
  const double freedom = to - from > 1 ? 3.0 * (to - from) - 3.0 : 3.0;
  const double bad = sum_over(from, to, [&](int i) {
    const double *f = b.forces + 3 * i;
    return double(b.closest[i] < 1.0 || f[0] * f[0] + f[1] * f[1] + f[2] * f[2] > plan.largest_force * plan.largest_force);
  });
  const double kinetic = sum_over(from, to, [&](int i) {
    return (p[3 * i] * p[3 * i] + p[3 * i + 1] * p[3 * i + 1] + p[3 * i + 2] * p[3 * i + 2]) / (2.0 * b.mass[i] * ACCELERATION);
  });
  const double change = (energy + kinetic - plan.reference_energy) / double(to - from);
  if (bad > 0.0 || twice / (freedom * BOLTZMANN) > plan.highest_temperature) return true;
  return isfinite(plan.reference_energy) && !(fabs(change) <= plan.energy_change);
}

}  // namespace

extern "C" {

// For the caller: warps of a block in search, evaluate and gather, threads of a block in finish, bytes of Batch and of Plan.
__global__ void sizes(long long *out) { out[0] = WARPS, out[1] = BLOCK, out[2] = sizeof(Batch), out[3] = sizeof(Plan); }

// First half-kick, drift (and the thermostat of BAOAB in its middle); notices lists that no longer do.
__global__ void advance(const Batch b) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= b.atoms || idle(b, b.owner[i])) return;
  const int s = b.owner[i];
  const Plan &plan = b.plan[s];
  const double h = plan.time_step, mass = b.mass[i], drift = plan.ensemble == 1 ? 0.5 * h : h;
  const double share = sqrt(mass * (1.0 - plan.keep * plan.keep) * BOLTZMANN * plan.temperature * ACCELERATION);
  double before = 0, after = 0, moved = 0;
  bool good = true;
  for (int c = 3 * i; c < 3 * i + 3; ++c) {
    double p = b.momenta[c] + 0.5 * h * ACCELERATION * b.forces[c], r = b.positions[c] + drift * p / mass;
    if (plan.ensemble == 1) {
      before += p * p;
      p = plan.keep * p + share * standard_normal(plan.keys[b.step[s]], 3ull * b.own[i] + (c - 3 * i));
      after += p * p;
      b.middle[c] = p, r += drift * p / mass;
    }
    b.momenta[c] = p, b.positions[c] = r;
    moved += (r - b.old[c]) * (r - b.old[c]);
    good = good && fabs(r) < FARTHEST;
  }
  b.heat[i] = (after - before) / (2.0 * mass * ACCELERATION);
  if (!(4.0 * moved < b.skin * b.skin)) b.stale[s] = 1;
  if (!good) b.lost[s] = 1;
}

// Pairs within the cutoff and the skin, by species, number and image of the sender. All pairs of a structure are gone through.
__global__ void search(const Batch b) {
  const int i = atom_of_warp(), lane = threadIdx.x % WARP, n = int(b.net.species);
  if (i >= b.atoms) return;
  const int s = b.owner[i];
  if (idle(b, s) || !b.stale[s] || b.lost[s]) return;
  const double reach = b.net.cutoff + b.skin;
  long long count = 0;
  for (int t = 0; t < n; ++t) {
    const int until = b.range[s * (n + 1) + t + 1];
    for (int first = b.range[s * (n + 1) + t]; first < until; first += WARP) {
      const int j = first + lane;
      int mine = 0;
      if (j < until) images(b, i, j, reach, [&](long long) { ++mine; });
      int place = mine;  // sum over the lanes up to this one
      for (int o = 1; o < WARP; o *= 2) {
        const int lower = __shfl_up_sync(ALL, place, o);
        if (lane >= o) place += lower;
      }
      long long m = count + place - mine;
      if (mine)
        images(b, i, j, reach, [&](long long image) {
          if (m < b.room) b.sender[i * b.room + m] = j, b.image[i * b.room + m] = image;
          ++m;
        });
      count += __shfl_sync(ALL, place, WARP - 1);
    }
    if (lane == 0) b.end[i * n + t] = int(smaller(count, b.room));
  }
  if (lane < 3) b.old[3 * i + lane] = b.positions[3 * i + lane];
  if (lane != 0) return;
  b.wanted[i] = int(count);
  if (count > b.room) b.state[s] = NO_ROOM;
}

// Energy of an atom and the derivatives in its edges.
__global__ void evaluate(const Batch b) {
  __shared__ Room rooms[WARPS];
  const int i = atom_of_warp(), lane = threadIdx.x % WARP, n = int(b.net.species);
  if (i >= b.atoms) return;
  const int s = b.owner[i];
  if (idle(b, s) || b.lost[s]) return;
  if (b.stale[s])
    for (int m = lane; m < b.end[i * n + n - 1]; m += WARP)
      b.reverse[i * b.room + m] = reverse_slot(b, i, b.sender[i * b.room + m], b.image[i * b.room + m]);
  Edges edges(b, i, lane);
  const double energy = atom_energy(b.net, b.kind[i], rooms[threadIdx.x / WARP], lane, edges) + warp_sum(edges.core);
  for (int c = 0; c < 6; ++c) {
    const double part = warp_sum(edges.virial[c]);
    if (lane == 0) b.virial[6 * i + c] = part;
  }
  const double closest = warp_least(edges.closest);
  if (lane == 0) b.energy[i] = energy, b.closest[i] = closest;
}

// Forces: of each pair, what the receiver's and the sender's energies say.
__global__ void gather(const Batch b) {
  const int i = atom_of_warp(), lane = threadIdx.x % WARP, n = int(b.net.species);
  if (i >= b.atoms) return;
  const int s = b.owner[i];
  if (idle(b, s) || b.lost[s]) return;
  double force[3] = {0, 0, 0};
  for (int m = lane; m < b.near_end[i * n + n - 1]; m += WARP) {
    const long long slot = i * b.room + b.near[i * b.room + m], other = b.sender[slot] * b.room + b.reverse[slot];
    for (int c = 0; c < 3; ++c) force[c] += double(b.pull[3 * slot + c]) - double(b.pull[3 * other + c]);
  }
  for (int c = 0; c < 3; ++c) {
    const double whole = warp_sum(force[c]);
    if (lane == 0) b.forces[3 * i + c] = whole;
  }
  if (lane == 0 && i == b.first[s]) b.stale[s] = 0;
}

// Totals; then second half-kick, thermostat of Bussi, running sums, limits.
__global__ void finish(const Batch b) {
  const int s = blockIdx.x, from = b.first[s], to = b.first[s + 1], n = int(b.net.species), lead = threadIdx.x == 0;
  if (idle(b, s)) return;
  const Plan plan = b.plan[s];
  const int step = b.step[s];
  double *sums = b.sums + s * (3 + n), trace = 0;
  const bool lost = b.lost[s];
  const double energy = lost ? nan("") : sum_over(from, to, [&](int i) { return b.energy[i]; });
  for (int c = 0; c < 6; ++c) {
    const double part = sum_over(from, to, [&](int i) { return b.virial[6 * i + c]; });
    if (lead) b.total[7 * s + 1 + c] = part;
    if (c < 3) trace += part;
  }
  if (lead) b.total[7 * s] = energy;
  __syncthreads();
  if (step < 0 || lost) {
    for (int c = 3 * from + int(threadIdx.x); lost && c < 3 * to; c += BLOCK) b.forces[c] = energy;
    if (lead) b.step[s] = step + 1, b.state[s] = lost ? STOPPED : RUNS;
    return;
  }
  for (int c = 3 * from + int(threadIdx.x); c < 3 * to; c += BLOCK) b.momenta[c] += 0.5 * plan.time_step * ACCELERATION * b.forces[c];
  __syncthreads();
  double heat = 0;
  if (plan.ensemble == 1) heat = sum_over(from, to, [&](int i) { return b.heat[i]; });
  if (plan.ensemble == 2) heat = rescale(b, plan, step, from, to);
  const double *measured = plan.ensemble == 1 ? b.middle : b.momenta;
  const Internal internal(b, measured, from, to);
  double twice = 0;
  for (int t = 0; t < n; ++t) {
    const double part = internal.twice_kinetic(b, measured, b.range[s * (n + 1) + t], b.range[s * (n + 1) + t + 1]);
    if (lead) sums[3 + t] += part;
    twice += part;
  }
  const double broken = sum_over(from, to, [&](int i) { return double(!isfinite(b.forces[3 * i] + b.forces[3 * i + 1] + b.forces[3 * i + 2])); });
  const bool watched = plan.watch_every > 0 && (plan.first_step + step + 1) % plan.watch_every == 0;
  const bool bad = !isfinite(energy) || broken > 0 || (watched && suspicious(b, plan, measured, s, from, to, energy, twice));
  if (!lead) return;
  const double restored = to - from > 1 ? double(to - from) / double(to - from - 1) : 1.0;
  sums[0] += energy, sums[1] += (restored * twice - trace) / (3.0 * b.volume[s]), sums[2] += heat;
  b.step[s] = step + 1;
  if (bad) b.state[s] = STOPPED;
}

}  // extern "C"
