// Energy, forces and virial of a structure, and time steps on them: a neighbour list with a skin, threads that own their atoms.
#pragma once

#include <chrono>
#include <limits>

#include "neighbours.hpp"
#include "spline.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace mdistill {

// What one call of `run` does. Plain data, the same as `_Plan` in kernels/library.py.
struct Plan {
  int64_t steps, first_step, watch_every;
  int32_t ensemble;  // 0 velocity Verlet, 1 BAOAB, 2 Bussi
  double time_step, keep, temperature;  // keep: share of momentum (BAOAB) or of kinetic energy (Bussi) kept in a step
  double largest_force, highest_temperature, reference_energy, energy_change;  // limits; not finite: none
  const uint64_t *keys;                // one per step (BAOAB)
  const double *normal, *others;       // one per step (Bussi)
};

constexpr double BOLTZMANN = 8.617333262e-5, ACCELERATION = 9.648533212331e-3;

inline uint64_t mixed_bits(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// Number `index` of stream 0 of a key, as simulation/noise.py has it.
inline double standard_normal(uint64_t key, uint64_t index) {
  constexpr uint64_t gamma = 0x9E3779B97F4A7C15ull;
  const uint64_t start = mixed_bits(key + mixed_bits(0));
  auto uniform = [start](uint64_t i) { return (double(mixed_bits(start + i * gamma) >> 11) + 0.5) * 0x1.0p-53; };
  return std::sqrt(-2.0 * std::log(uniform(2 * index))) * std::cos(2.0 * 3.14159265358979323846 * uniform(2 * index + 1));
}

template <class Net>
class Engine {
 public:
  using real = typename Net::real_type;

  Engine(const Net &net, int64_t atoms, const int32_t *of, int threads, double skin)
      : net(net), atoms(atoms), species(of, of + atoms), threads(std::max(1, threads)), skin(skin) {
    for (int s = 0; s < net.species; ++s) {
      std::vector<int32_t> mine;
      for (int64_t i = 0; i < atoms; ++i)
        if (species[i] == s) mine.push_back(static_cast<int32_t>(i));
      for (size_t b = 0; b < mine.size(); b += BLOCK) {
        Block block{s, 0, {}};
        for (; block.count < BLOCK && b + block.count < mine.size(); ++block.count) block.atoms[block.count] = mine[b + block.count];
        blocks.push_back(block);
      }
    }
    for (int t = 0; t < this->threads; ++t) parts.push_back(std::make_unique<Part>(net, atoms));
  }

  int64_t searches = 0, edges = 0;
  double search_seconds = 0;

  // Closest distance of each pair of species at which `run` stops.
  void set_limits(const double *distances) {
    for (auto &part : parts) part->work.set_limits(net, distances);
  }

  // Candidates from outside, for one evaluation of a given graph: any order of the senders within a receiver.
  void take(const int64_t *first, const int32_t *sender, const double *offset) {
    list.first.assign(first, first + atoms + 1);
    list.sender.resize(first[atoms]), list.offset.resize(first[atoms]);
    std::vector<int64_t> order;
    for (int64_t i = 0; i < atoms; ++i) {
      order.resize(first[i + 1] - first[i]);
      for (size_t m = 0; m < order.size(); ++m) order[m] = first[i] + m;
      std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return species[sender[a]] < species[sender[b]]; });
      for (size_t m = 0; m < order.size(); ++m) {
        list.sender[first[i] + m] = sender[order[m]];
        for (int c = 0; c < 3; ++c) list.offset[first[i] + m][c] = offset[3 * order[m] + c];
      }
    }
  }

  // Make sure that every pair closer than the cutoff is listed: search again if an atom moved by half the skin.
  void follow(const double *r, const double *cell, const int32_t *pbc) {
    bool same = old_positions.size() == size_t(3 * atoms) && std::equal(cell, cell + 9, old_cell) && std::equal(pbc, pbc + 3, old_pbc);
    if (same) {
      const double allowed = 0.25 * skin * skin;
      for (int64_t i = 0; i < atoms && same; ++i) {
        double square = 0;
        for (int c = 0; c < 3; ++c) square += (r[3 * i + c] - old_positions[3 * i + c]) * (r[3 * i + c] - old_positions[3 * i + c]);
        same = square < allowed;
      }
    }
    if (same) return;
    const auto begin = std::chrono::steady_clock::now();
    Search(Box(cell, pbc), net.cutoff + skin, atoms, r).find(r, species.data(), threads, list);
    old_positions.assign(r, r + 3 * atoms);
    std::copy(cell, cell + 9, old_cell), std::copy(pbc, pbc + 3, old_pbc);
    ++searches;
    search_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  // Energy (eV), forces (eV/Å) and virial Σ d ⊗ g (eV) of the listed pairs. `atomic`: energy per atom, or null.
  double evaluate(const double *r, double *forces, double *virial, double *atomic) {
    const int64_t n_blocks = static_cast<int64_t>(blocks.size());
#pragma omp parallel num_threads(threads)
    {
      const int t = thread(), of = team();
      Part &part = *parts[t];
      std::fill(part.force.begin(), part.force.begin() + 3 * atoms, real(0));
      std::fill(part.virial, part.virial + 9, 0.0);
      part.energy = 0, part.closest = 1e30, part.edges = 0;
      for (int64_t b = n_blocks * t / of; b < n_blocks * (t + 1) / of; ++b) one_block(blocks[b], r, part, atomic);
#pragma omp barrier
      for (int64_t c = 3 * atoms * t / of; c < 3 * atoms * (t + 1) / of; ++c) {
        double total = 0;
        for (int p = 0; p < of; ++p) total += double(parts[p]->force[c]);
        forces[c] = total;
      }
#pragma omp single
      used = of;
    }
    double energy = 0;
    closest = 1e30, edges = 0;
    std::fill(virial, virial + 9, 0.0);
    for (int p = 0; p < used; ++p) {
      energy += parts[p]->energy, edges += parts[p]->edges, closest = std::min(closest, parts[p]->closest);
      for (int c = 0; c < 9; ++c) virial[c] += parts[p]->virial[c];
    }
    return energy;
  }

  // Time steps; gives how many were taken: fewer than asked where energy or forces are not finite or a limit was passed.
  // `forces`, `energy`, `virial` belong to `r` on entry (if `known`) and on return; `middle`: momenta after BAOAB's O.
  // To `sums` are added, of every step: energy, pressure, twice the internal kinetic energy of each species.
  int64_t run(const Plan &plan, const double *cell, const int32_t *pbc, const double *masses, bool known, double *r, double *p,
              double *middle, double *forces, double *energy, double *virial, double *sums) {
    const double h = plan.time_step, kick = 0.5 * h * ACCELERATION;
    if (!known) {
      follow(r, cell, pbc);
      *energy = evaluate(r, forces, virial, nullptr);
    }
    for (int64_t step = 0; step < plan.steps; ++step) {
      for (int64_t c = 0; c < 3 * atoms; ++c) p[c] += kick * forces[c];
      const double flight = plan.ensemble == 1 ? 0.5 * h : h;
      for (int64_t c = 0; c < 3 * atoms; ++c) r[c] += flight * p[c] / masses[c / 3];
      if (plan.ensemble == 1) {
        thermalise(plan, plan.keys[step], masses, p);
        std::copy(p, p + 3 * atoms, middle);
        for (int64_t c = 0; c < 3 * atoms; ++c) r[c] += flight * p[c] / masses[c / 3];
      }
      if (!within_reach(r)) return fail(step, energy, forces);
      follow(r, cell, pbc);
      *energy = evaluate(r, forces, virial, nullptr);
      for (int64_t c = 0; c < 3 * atoms; ++c) p[c] += kick * forces[c];
      if (plan.ensemble == 2) rescale(plan, step, masses, p);
      add_up(plan.ensemble == 1 ? middle : p, masses, cell, *energy, virial, sums);
      if (!std::isfinite(*energy) || !finite(forces)) return step + 1;
      const bool watched = plan.watch_every > 0 && (plan.first_step + step + 1) % plan.watch_every == 0;
      if (watched && suspicious(plan, masses, plan.ensemble == 1 ? middle : p, forces, *energy)) return step + 1;
    }
    return plan.steps;
  }

 private:
  struct Block {
    int species, count;
    int32_t atoms[BLOCK];
  };
  struct Part {  // what one thread adds up
    typename Net::Workspace work;
    Array<real> force;
    double virial[9], energy, closest;
    int64_t edges;
    Part(const Net &net, int64_t atoms) : work(net), force(3 * atoms) {}
  };

  const Net &net;
  const int64_t atoms;
  const std::vector<int32_t> species;
  const int threads;
  const double skin;
  std::vector<Block> blocks;
  std::vector<std::unique_ptr<Part>> parts;
  Candidates list;
  std::vector<double> old_positions;
  double old_cell[9], closest = 1e30;
  int32_t old_pbc[3];
  int used = 1;

#ifdef _OPENMP
  static int thread() { return omp_get_thread_num(); }
  static int team() { return omp_get_num_threads(); }
#else
  static int thread() { return 0; }
  static int team() { return 1; }
#endif

  void gather(int64_t i, const double *r, typename Net::Edges &e) const {
    const int64_t from = list.first[i], to = list.first[i + 1];
    e.reserve(static_cast<int>(to - from), net.species);
    const double x = r[3 * i], y = r[3 * i + 1], z = r[3 * i + 2], reach = net.cutoff * net.cutoff;
    int count = 0, now = 0;
    for (int64_t m = from; m < to; ++m) {
      const int32_t j = list.sender[m];
      for (const int s = species[j]; now < s; ++now) e.ends[now] = count;
      const double *lattice = list.offset[m].data();
      const double dx = r[3 * j] - x + lattice[0], dy = r[3 * j + 1] - y + lattice[1], dz = r[3 * j + 2] - z + lattice[2];
      e.x[count] = real(dx), e.y[count] = real(dy), e.z[count] = real(dz), e.sender[count] = j;
      count += dx * dx + dy * dy + dz * dz < reach;
    }
    for (; now < net.species; ++now) e.ends[now] = count;
    e.count = count;
  }

  void one_block(const Block &block, const double *r, Part &part, double *atomic) const {
    for (int b = 0; b < block.count; ++b) gather(block.atoms[b], r, part.work.edges[b]);
    net.evaluate(block.species, block.count, part.work);
    for (int b = 0; b < block.count; ++b) {
      const auto &e = part.work.edges[b];
      const int32_t i = block.atoms[b];
      real own[3] = {0, 0, 0};
      for (int m = 0; m < e.count; ++m) {
        real *other = &part.force[3 * size_t(e.sender[m])];
        const real g[3] = {e.gx[m], e.gy[m], e.gz[m]};
        for (int c = 0; c < 3; ++c) own[c] += g[c], other[c] -= g[c];
      }
      for (int c = 0; c < 3; ++c) part.force[3 * size_t(i) + c] += own[c];
      add_virial(e, part.virial);
      part.energy += part.work.energy[b], part.edges += e.count, part.closest = std::min(part.closest, e.closest);
      if (atomic) atomic[i] = part.work.energy[b];
    }
  }

  static void add_virial(const typename Net::Edges &e, double *virial) {
    Lanes<real> total[9] = {};
    for (int m = 0; m < e.size; m += LANES) {
      const Lanes<real> length = real(1) / load(&e.inverse[m]);
      const Lanes<real> d[3] = {load(&e.x[m]) * length, load(&e.y[m]) * length, load(&e.z[m]) * length};
      const Lanes<real> g[3] = {load(&e.gx[m]), load(&e.gy[m]), load(&e.gz[m])};
      for (int a = 0; a < 3; ++a)
        for (int b = 0; b < 3; ++b) total[3 * a + b] += d[a] * g[b];
    }
    for (int c = 0; c < 9; ++c) virial[c] += double(sum<real>(total[c]));
  }

  bool finite(const double *values) const {
    double total = 0;
    for (int64_t c = 0; c < 3 * atoms; ++c) total += values[c] * 0.0;
    return total == 0.0;
  }

  // Whether all positions are numbers a cell can be found for.
  bool within_reach(const double *r) const {
    bool good = true;
    for (int64_t c = 0; c < 3 * atoms; ++c) good &= std::abs(r[c]) < 1e7;
    return good;
  }

  int64_t fail(int64_t step, double *energy, double *forces) const {
    *energy = std::numeric_limits<double>::quiet_NaN();
    std::fill(forces, forces + 3 * atoms, *energy);
    return step + 1;
  }

  void thermalise(const Plan &plan, uint64_t key, const double *masses, double *p) const {
    const double share = (1.0 - plan.keep * plan.keep) * BOLTZMANN * plan.temperature * ACCELERATION;
#pragma omp parallel for schedule(static) num_threads(threads) if (atoms > 200)
    for (int64_t c = 0; c < 3 * atoms; ++c) p[c] = plan.keep * p[c] + std::sqrt(masses[c / 3] * share) * standard_normal(key, c);
  }

  // Momentum of the centre of mass over its mass, and twice the kinetic energy of the motion relative to it (eV).
  double internal(const double *masses, const double *p, double *velocity) const {
    double mass = 0, twice = 0;
    std::fill(velocity, velocity + 3, 0.0);
    for (int64_t i = 0; i < atoms; ++i) {
      mass += masses[i];
      for (int c = 0; c < 3; ++c) velocity[c] += p[3 * i + c];
    }
    for (int c = 0; c < 3; ++c) velocity[c] = atoms > 1 ? velocity[c] / mass : 0.0;
    for (int64_t i = 0; i < atoms; ++i)
      for (int c = 0; c < 3; ++c) {
        const double own = p[3 * i + c] - masses[i] * velocity[c];
        twice += own * own / masses[i];
      }
    return twice / ACCELERATION;
  }

  void add_up(const double *p, const double *masses, const double *cell, double energy, const double *virial, double *sums) const {
    double velocity[3];
    const double twice = internal(masses, p, velocity);
    const double *a = cell, *b = cell + 3, *c = cell + 6;
    const double volume = std::abs(a[0] * (b[1] * c[2] - b[2] * c[1]) + a[1] * (b[2] * c[0] - b[0] * c[2]) + a[2] * (b[0] * c[1] - b[1] * c[0]));
    const double restored = atoms > 1 ? double(atoms) / double(atoms - 1) : 1.0;
    sums[0] += energy;
    sums[1] += (restored * twice - virial[0] - virial[4] - virial[8]) / (3.0 * volume);
    for (int64_t i = 0; i < atoms; ++i) {
      double own = 0;
      for (int x = 0; x < 3; ++x) {
        const double internal_momentum = p[3 * i + x] - masses[i] * velocity[x];
        own += internal_momentum * internal_momentum;
      }
      sums[2 + species[i]] += own / (masses[i] * ACCELERATION);
    }
  }

  int64_t freedom() const { return atoms > 1 ? 3 * atoms - 3 : 3; }

  void rescale(const Plan &plan, int64_t step, const double *masses, double *p) const {
    double velocity[3];
    const double kinetic = 0.5 * internal(masses, p, velocity), keep = plan.keep, R = plan.normal[step];
    if (!(kinetic > 0.0)) return;
    const double ratio = 0.5 * BOLTZMANN * plan.temperature / kinetic;
    const double square = keep + (1.0 - keep) * ratio * (R * R + plan.others[step]) + 2.0 * R * std::sqrt(keep * (1.0 - keep) * ratio);
    const double sign = R + std::sqrt(keep / ((1.0 - keep) * ratio)) >= 0.0 ? 1.0 : -1.0;
    const double change = sign * std::sqrt(std::max(square, 0.0)) - 1.0;
    for (int64_t i = 0; i < atoms; ++i)
      for (int c = 0; c < 3; ++c) p[3 * i + c] += change * (p[3 * i + c] - masses[i] * velocity[c]);
  }

  bool suspicious(const Plan &plan, const double *masses, const double *p, const double *forces, double energy) const {
    if (closest < 1.0) return true;
    double worst = 0;
    for (int64_t i = 0; i < atoms; ++i) {
      const double *f = forces + 3 * i;
      worst = std::max(worst, f[0] * f[0] + f[1] * f[1] + f[2] * f[2]);
    }
    if (worst > plan.largest_force * plan.largest_force) return true;
    double velocity[3];
    const double twice = internal(masses, p, velocity);
    if (twice / (freedom() * BOLTZMANN) > plan.highest_temperature) return true;
    double total = 0;
    for (int64_t c = 0; c < 3 * atoms; ++c) total += p[c] * p[c] / masses[c / 3];
    const double change = (energy + 0.5 * total / ACCELERATION - plan.reference_energy) / double(atoms);
    return std::isfinite(plan.reference_energy) && !(std::abs(change) <= plan.energy_change);
  }
};

}  // namespace mdistill
