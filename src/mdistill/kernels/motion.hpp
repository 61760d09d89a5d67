// What all compiled dynamics shares: the plan of a call, noise, thermostats, sums over steps, limits. Knows no network.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "crew.hpp"

namespace mdistill {

// What one call of `run` does; the same as `Motion` in kernels/motion.py.
struct Plan {
  int64_t steps, first_step;
  int64_t ensemble;  // 0 energy-conserving, 1 Langevin (BAOAB; half of it before and after a stride), 2 Bussi
  double time_step, keep, temperature;  // keep: share of momentum (Langevin) or of kinetic energy (Bussi) kept at a time
  const uint64_t *keys;                 // one per step (BAOAB), two per stride (Langevin)
  const double *normal, *chi_square;    // one per step (Bussi)
  int64_t whole;                        // whether strides add up energy and pressure at the last step
  int64_t correct_every, correct_from;  // one stride of so many (0: none), by its number, counted from the second, corrects
  double total_energy, largest_correction;  // the total energy: to this plus the heat since, by a factor within 1 ± largest
  int64_t watch_every;
  double largest_force, highest_temperature, reference_energy, energy_change;  // limits; not finite: none
};

// A phase-space point that `run` changes; the same as `Point` in kernels/motion.py.
struct Point {
  double *positions, *momenta;
  const double *cell;
  const int32_t *pbc;
  const double *masses;
  double *middle;  // momenta after BAOAB's O
  double *forces, energy, *virial;
  int64_t known;  // whether forces, energy and virial are those of the positions
  double *sums;
};

// The atoms of one structure: how many, index of each one's species, u.
struct Atoms {
  int64_t count;
  const int32_t *species;
  const double *masses;
  int threads;

  int64_t freedom() const { return count > 1 ? 3 * count - 3 : 3; }
};

constexpr double BOLTZMANN = 8.617333262e-5, ACCELERATION = 9.648533212331e-3;

inline uint64_t mixed_bits(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// Whether a step of this number is the one of `every` whose energy is corrected, as simulation/energy_correction.py draws it. Numbers are
// negative during equilibration.
inline bool due(int64_t number, int64_t every) {
  const int64_t place = (number % every + every) % every, block = (number - place) / every;
  return place == int64_t(mixed_bits(uint64_t(block) * 0x9E3779B97F4A7C15ull) % uint64_t(every));
}

// Number `index` of stream 0 of a key, as simulation/noise.py has it.
inline double standard_normal(uint64_t key, uint64_t index) {
  constexpr uint64_t gamma = 0x9E3779B97F4A7C15ull;
  const uint64_t start = mixed_bits(key + mixed_bits(0));
  auto uniform = [start](uint64_t i) { return (double(mixed_bits(start + i * gamma) >> 11) + 0.5) * 0x1.0p-53; };
  return std::sqrt(-2.0 * std::log(uniform(2 * index))) * std::cos(2.0 * 3.14159265358979323846 * uniform(2 * index + 1));
}

inline bool finite(const Atoms &atoms, const double *values) {
  double total = 0;
  for (int64_t c = 0; c < 3 * atoms.count; ++c) total += values[c] * 0.0;
  return total == 0.0;
}

// Whether all positions are numbers a cell can be found for.
inline bool in_range(const Atoms &atoms, const double *r) {
  bool good = true;
  for (int64_t c = 0; c < 3 * atoms.count; ++c) good &= std::abs(r[c]) < 1e7;
  return good;
}

// Energy and forces of a structure that has none.
inline void set_unknown(const Atoms &atoms, double *energy, double *forces) {
  *energy = std::numeric_limits<double>::quiet_NaN();
  std::fill(forces, forces + 3 * atoms.count, *energy);
}

// Kinetic energy, centre-of-mass motion included, eV.
inline double kinetic_energy(const Atoms &atoms, const double *p) {
  double twice = 0;
  for (int64_t c = 0; c < 3 * atoms.count; ++c) twice += p[c] * p[c] / atoms.masses[c / 3];
  return 0.5 * twice / ACCELERATION;
}

// Forces less their mean: what single precision leaves of a sum that should vanish would let the centre of mass drift.
inline void balance(const Atoms &atoms, double *f) {
  double mean[3] = {0, 0, 0};
  for (int64_t i = 0; i < atoms.count; ++i)
    for (int c = 0; c < 3; ++c) mean[c] += f[3 * i + c] / double(atoms.count);
  for (int64_t i = 0; i < atoms.count; ++i)
    for (int c = 0; c < 3; ++c) f[3 * i + c] -= mean[c];
}

inline void kick(const Atoms &atoms, double interval, const double *forces, double *p) {
  const double by = interval * ACCELERATION;
  for (int64_t c = 0; c < 3 * atoms.count; ++c) p[c] += by * forces[c];
}

inline void drift(const Atoms &atoms, double interval, const double *p, double *r) {
  for (int64_t c = 0; c < 3 * atoms.count; ++c) r[c] += interval * p[c] / atoms.masses[c / 3];
}

// What a change of momenta puts in, eV.
template <class Change>
double heat_of(const Atoms &atoms, const double *p, Change change) {
  const double before = kinetic_energy(atoms, p);
  change();
  return kinetic_energy(atoms, p) - before;
}

inline void thermalise(const Atoms &atoms, const Plan &plan, uint64_t key, double *p) {
  const double share = (1.0 - plan.keep * plan.keep) * BOLTZMANN * plan.temperature * ACCELERATION;
  Crew::split(3 * atoms.count, atoms.threads, [&](int64_t from, int64_t to) {
    for (int64_t c = from; c < to; ++c) p[c] = plan.keep * p[c] + std::sqrt(atoms.masses[c / 3] * share) * standard_normal(key, c);
  });
}

// Momentum of the centre of mass over its mass, and twice the kinetic energy of the motion relative to it (eV).
inline double internal(const Atoms &atoms, const double *p, double *velocity) {
  double mass = 0, twice = 0;
  std::fill(velocity, velocity + 3, 0.0);
  for (int64_t i = 0; i < atoms.count; ++i) {
    mass += atoms.masses[i];
    for (int c = 0; c < 3; ++c) velocity[c] += p[3 * i + c];
  }
  for (int c = 0; c < 3; ++c) velocity[c] = atoms.count > 1 ? velocity[c] / mass : 0.0;
  for (int64_t i = 0; i < atoms.count; ++i)
    for (int c = 0; c < 3; ++c) {
      const double relative = p[3 * i + c] - atoms.masses[i] * velocity[c];
      twice += relative * relative / atoms.masses[i];
    }
  return twice / ACCELERATION;
}

inline void rescale(const Atoms &atoms, const Plan &plan, int64_t step, double *p) {
  double velocity[3];
  const double kinetic = 0.5 * internal(atoms, p, velocity), keep = plan.keep, R = plan.normal[step];
  if (!(kinetic > 0.0)) return;
  const double ratio = 0.5 * BOLTZMANN * plan.temperature / kinetic;
  const double square = keep + (1.0 - keep) * ratio * (R * R + plan.chi_square[step]) + 2.0 * R * std::sqrt(keep * (1.0 - keep) * ratio);
  const double sign = R + std::sqrt(keep / ((1.0 - keep) * ratio)) >= 0.0 ? 1.0 : -1.0;
  const double change = sign * std::sqrt(std::max(square, 0.0)) - 1.0;
  for (int64_t i = 0; i < atoms.count; ++i)
    for (int c = 0; c < 3; ++c) p[3 * i + c] += change * (p[3 * i + c] - atoms.masses[i] * velocity[c]);
}

// Change the internal momenta so that the kinetic energy grows by `missing` (eV), by a relative change of momenta of at most `largest`.
inline void correct_energy(const Atoms &atoms, double missing, double largest, double *p) {
  double velocity[3];
  const double kinetic = 0.5 * internal(atoms, p, velocity);
  if (!(kinetic > 0.0)) return;
  const double ratio = std::sqrt(std::max(0.0, 1.0 + missing / kinetic));
  const double change = std::min(std::max(ratio, 1.0 - largest), 1.0 + largest) - 1.0;
  for (int64_t i = 0; i < atoms.count; ++i)
    for (int c = 0; c < 3; ++c) p[3 * i + c] += change * (p[3 * i + c] - atoms.masses[i] * velocity[c]);
}

// Add to `sums` twice the internal kinetic energy of each species (eV); gives that of all.
inline double add_kinetic(const Atoms &atoms, const double *p, double *sums) {
  double velocity[3];
  const double twice = internal(atoms, p, velocity);
  for (int64_t i = 0; i < atoms.count; ++i) {
    double square = 0;
    for (int x = 0; x < 3; ++x) {
      const double internal_momentum = p[3 * i + x] - atoms.masses[i] * velocity[x];
      square += internal_momentum * internal_momentum;
    }
    sums[atoms.species[i]] += square / (atoms.masses[i] * ACCELERATION);
  }
  return twice;
}

// Add to `sums` the energy (eV) and the pressure (eV/Å³); `twice` the internal kinetic energy.
inline void add_potential(const Atoms &atoms, double twice, const double *cell, double energy, const double *virial, double *sums) {
  const double *a = cell, *b = cell + 3, *c = cell + 6;
  const double volume = std::abs(a[0] * (b[1] * c[2] - b[2] * c[1]) + a[1] * (b[2] * c[0] - b[0] * c[2]) + a[2] * (b[0] * c[1] - b[1] * c[0]));
  const double restored = atoms.count > 1 ? double(atoms.count) / double(atoms.count - 1) : 1.0;
  sums[0] += energy;
  sums[1] += (restored * twice - virial[0] - virial[4] - virial[8]) / (3.0 * volume);
}

// `closest`: smallest of distance over allowed distance.
inline bool too_close_or_hot(const Atoms &atoms, const Plan &plan, const double *p, double closest) {
  double velocity[3];
  return closest < 1.0 || internal(atoms, p, velocity) / (atoms.freedom() * BOLTZMANN) > plan.highest_temperature;
}

inline bool suspicious(const Atoms &atoms, const Plan &plan, const double *p, const double *forces, double energy, double closest) {
  if (too_close_or_hot(atoms, plan, p, closest)) return true;
  double worst = 0, total = 0;
  for (int64_t i = 0; i < atoms.count; ++i) {
    const double *f = forces + 3 * i;
    worst = std::max(worst, f[0] * f[0] + f[1] * f[1] + f[2] * f[2]);
  }
  if (worst > plan.largest_force * plan.largest_force) return true;
  for (int64_t c = 0; c < 3 * atoms.count; ++c) total += p[c] * p[c] / atoms.masses[c / 3];
  const double change = (energy + 0.5 * total / ACCELERATION - plan.reference_energy) / double(atoms.count);
  return std::isfinite(plan.reference_energy) && !(std::abs(change) <= plan.energy_change);
}

}  // namespace mdistill
