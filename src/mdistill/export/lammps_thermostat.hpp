// SPDX-License-Identifier: GPL-2.0-or-later
// Velocities of the atoms of all ranks, and the thermostats of the fix `mdistill/stride`: half-steps of Langevin's before and after a
// stride (simulation/langevin.py), or stochastic velocity rescaling after it (simulation/bussi.py).
//
// Noise is a function of seed, step and atom ID alone. The one factor of the rescaling comes from the kinetic energy of all ranks; rank 0
// computes it for all.
#pragma once

#include <algorithm>
#include <cmath>

#include "atom.h"
#include "lammps_model.hpp"
#include "motion.hpp"
#include "pointers.h"

namespace {

class Velocities : protected Pointers {
 public:
  static constexpr double ACCELERATION = 1e6 * mdistill::ACCELERATION;  // Å/ps² of 1 eV/Å on 1 u

  explicit Velocities(LAMMPS *lmp) : Pointers(lmp) {}

  double mass(int i) const { return atom->rmass ? atom->rmass[i] : atom->mass[atom->type[i]]; }

  double sum(double mine) const {
    double all = 0;
    MPI_Allreduce(&mine, &all, 1, MPI_DOUBLE, MPI_SUM, world);
    return all;
  }

  double kinetic_here() const {
    double twice = 0;
    for (int i = 0; i < atom->nlocal; ++i)
      for (int c = 0; c < 3; ++c) twice += mass(i) * atom->v[i][c] * atom->v[i][c];
    return 0.5 * twice / ACCELERATION;
  }
  double kinetic() const { return sum(kinetic_here()); }

  // Kinetic energy of the motion relative to the centre of mass, eV; sets the centre's velocity. A single atom has no such motion apart.
  double internal(double *centre) const {
    double mine[4] = {0, 0, 0, 0}, all[4], twice = 0;
    for (int i = 0; i < atom->nlocal; ++i) {
      mine[3] += mass(i);
      for (int c = 0; c < 3; ++c) mine[c] += mass(i) * atom->v[i][c];
    }
    MPI_Allreduce(mine, all, 4, MPI_DOUBLE, MPI_SUM, world);
    for (int c = 0; c < 3; ++c) centre[c] = atom->natoms > 1 ? all[c] / all[3] : 0.0;
    for (int i = 0; i < atom->nlocal; ++i)
      for (int c = 0; c < 3; ++c) twice += mass(i) * (atom->v[i][c] - centre[c]) * (atom->v[i][c] - centre[c]);
    return 0.5 * sum(twice) / ACCELERATION;
  }
  bigint freedom() const { return atom->natoms > 1 ? 3 * atom->natoms - 3 : 3; }

  // Lets the velocities relative to the centre of mass grow by this share of them.
  void grow_internal(double share, const double *centre) {
    for (int i = 0; i < atom->nlocal; ++i)
      for (int c = 0; c < 3; ++c) atom->v[i][c] += share * (atom->v[i][c] - centre[c]);
  }
};

// A χ² number of `freedom` ≥ 2 from the normal numbers of a key from number `index` on: Marsaglia, Tsang, ACM Trans. Math. Softw. 26, 363
// (2000), doi 10.1145/358407.358414. The logarithm of a uniform number is minus half a sum of two squared normal numbers.
inline double chi_square(uint64_t key, uint64_t index, bigint freedom) {
  const double d = 0.5 * double(freedom) - 1.0 / 3.0, width = 1.0 / std::sqrt(9.0 * d);
  for (;; index += 3) {
    const double x = mdistill::standard_normal(key, index), a = mdistill::standard_normal(key, index + 1);
    const double b = mdistill::standard_normal(key, index + 2), root = 1.0 + width * x, v = root * root * root;
    if (v > 0.0 && -0.5 * (a * a + b * b) < 0.5 * x * x + d * (1.0 - v + std::log(v))) return 2.0 * d * v;
  }
}

class Thermostat : protected Pointers {
 public:
  explicit Thermostat(LAMMPS *lmp) : Pointers(lmp) {}

  double kelvin = 0;  // 0: none

  // NAME TEMPERATURE FRICTION (1/ps, langevin) or RELAXATION (ps, bussi) SEED.
  void read(char **words) {
    const std::string name = words[0];
    if (kelvin > 0) error->all(FLERR, "{} is a second thermostat: give langevin or bussi, once", name);
    if (!utils::is_integer(words[3])) error->all(FLERR, "the seed of {} must be an integer, not {}", name, words[3]);
    kelvin = utils::numeric(FLERR, words[1], false, lmp), rate = utils::numeric(FLERR, words[2], false, lmp);
    seed = utils::bnumeric(FLERR, words[3], false, lmp), rescales = name == "bussi";
    if (!(kelvin > 0)) error->all(FLERR, "the temperature of {} must be above 0 K, not {}", name, words[1]);
    if (rescales && !(rate > 0)) error->all(FLERR, "the relaxation time of bussi must be above 0 ps, not {}", words[2]);
    if (!(rate >= 0)) error->all(FLERR, "the friction of langevin must not be negative, but is {}", words[2]);
  }

  // Acts before (half 0) or after (half 1) the stride of a number and length (ps); gives the heat of this rank, eV.
  double act(Velocities &velocities, bigint number, double stride, int half) const {
    if (!(kelvin > 0) || (rescales && half == 0)) return 0.0;
    const double before = velocities.kinetic_here();
    rescales ? rescale(velocities, key(number, half), stride) : thermalise(velocities, key(number, half), stride);
    return velocities.kinetic_here() - before;
  }

  // Of the noise before or after a stride.
  uint64_t key(bigint number, int half) const {
    const uint64_t gamma = 0x9E3779B97F4A7C15ull, place = 2 * uint64_t(number) + uint64_t(half);
    return mdistill::mixed_bits(mdistill::mixed_bits(uint64_t(seed) + gamma) + place * gamma);
  }

 private:
  double rate = 0;  // 1/ps; of bussi a time, ps
  bigint seed = 0;
  bool rescales = false;

  // Half of O of OBABO.
  void thermalise(Velocities &velocities, uint64_t key, double stride) const {
    const double share = std::exp(-0.5 * rate * stride);
    const double width = (1.0 - share * share) * mdistill::BOLTZMANN * kelvin * Velocities::ACCELERATION;
    for (int i = 0; i < atom->nlocal; ++i)
      for (int c = 0; c < 3; ++c)
        atom->v[i][c] = share * atom->v[i][c] + std::sqrt(width / velocities.mass(i)) *
                                                    mdistill::standard_normal(key, 3 * (uint64_t(atom->tag[i]) - 1) + uint64_t(c));
  }

  // α − 1 of simulation/bussi.py: R is the first normal number of the key, the others make the χ² number.
  void rescale(Velocities &velocities, uint64_t key, double stride) const {
    double centre[3];
    const double kinetic = velocities.internal(centre), keep = std::exp(-stride / rate);
    double change = 0;
    if (kinetic > 0.0) {
      const double ratio = 0.5 * mdistill::BOLTZMANN * kelvin / kinetic, normal = mdistill::standard_normal(key, 0);
      const double others = chi_square(key, 1, velocities.freedom() - 1), noise = std::sqrt(keep * (1.0 - keep) * ratio);
      const double square = keep + (1.0 - keep) * ratio * (normal * normal + others) + 2.0 * normal * noise;
      const double sign = normal + std::sqrt(keep / ((1.0 - keep) * ratio)) >= 0.0 ? 1.0 : -1.0;
      change = sign * std::sqrt(std::max(square, 0.0)) - 1.0;
    }
    MPI_Bcast(&change, 1, MPI_DOUBLE, 0, world);
    velocities.grow_internal(change, centre);
  }
};

}  // namespace
