// SPDX-License-Identifier: GPL-2.0-or-later
// Constant pressure for the fix `mdistill/stride`: isotropic strains, accepted or rejected, as in simulation/barostat.py, where equations,
// symbols and references are. Rank 0 draws and decides for all.
#pragma once

#include <cmath>

#include "domain.h"
#include "lammps_thermostat.hpp"

namespace {

class Barostat : protected Pointers {
 public:
  // The crystal before or after a strain, all ranks: U (eV), Σ d · g (eV), V (Å³).
  struct Place {
    double energy, virial, volume;
  };

  // With the temperature and seed of a thermostat.
  Barostat(LAMMPS *lmp, const Thermostat &thermostat) : Pointers(lmp), thermostat(thermostat) {}

  bool given = false;
  double stride = 0;  // ps

  // PRESSURE (bar) RELAXATION (ps) COMPRESSIBILITY (1/bar).
  void read(char **words) {
    given = true, pressure = utils::numeric(FLERR, words[1], false, lmp) / BAR;
    relaxation = utils::numeric(FLERR, words[2], false, lmp), compressibility = BAR * utils::numeric(FLERR, words[3], false, lmp);
    if (!std::isfinite(pressure)) error->all(FLERR, "the pressure of barostat must be a number, not {}", words[1]);
    if (!(relaxation > 0)) error->all(FLERR, "the relaxation time of barostat must be above 0 ps, not {}", words[2]);
    if (!(compressibility > 0)) error->all(FLERR, "the compressibility of barostat must be above 0/bar, not {}", words[3]);
  }

  // Whether a strain comes after the stride of a number: at 50 fs, at least 10 strides.
  bool due(bigint number) const { return given && number % every() == 0; }

  // ε of a strain in the basis of its matrix, 1/√3.
  double strain(const Place &old, bigint number) const {
    double amount = mean(old) + width(old) * normal(number, 0);
    MPI_Bcast(&amount, 1, MPI_DOUBLE, 0, world);
    if (!(std::fabs(amount) < 3.0)) error->all(FLERR, "barostat strains the box by {:.3g} at once: check its pressure", amount);
    return amount;
  }

  bool accepts(const Place &old, const Place &trial, double amount, bigint number) const {
    const double drawn = normal(number, 0), back = (-amount - mean(trial)) / width(trial);
    const double ways = 0.5 * (drawn * drawn - back * back) + std::log(width(old) / width(trial));
    const double a = normal(number, 1), b = normal(number, 2);
    int yes = -0.5 * (a * a + b * b) < weight(trial) - weight(old) + ways;
    MPI_Bcast(&yes, 1, MPI_INT, 0, world);
    return yes;
  }

  // Scales box and own atoms about the origin; neighbours and ghost atoms are then to be renewed.
  void scale(double factor) const {
    for (int i = 0; i < atom->nlocal; ++i)
      for (int c = 0; c < 3; ++c) atom->x[i][c] *= factor;
    for (int c = 0; c < 3; ++c) domain->boxlo[c] *= factor, domain->boxhi[c] *= factor;
    domain->xy *= factor, domain->xz *= factor, domain->yz *= factor;
    domain->set_global_box();
    domain->set_local_box();
  }

 private:
  static constexpr double BAR = 1e4 / 6.241509074e-3;        // in an eV/Å³
  double pressure = 0, relaxation = 0, compressibility = 0;  // eV/Å³, ps, Å³/eV
  const Thermostat &thermostat;

  bigint every() const { return std::max<bigint>(10, static_cast<bigint>(std::nearbyint(0.05 / stride))); }
  double rate() const { return compressibility * double(every()) * stride / (3.0 * relaxation); }
  double thermal() const { return mdistill::BOLTZMANN * thermostat.kelvin; }

  double mean(const Place &at) const {
    const double excess = double(atom->natoms) * thermal() / at.volume - pressure;
    return rate() * std::sqrt(3.0) * (excess - at.virial / (3.0 * at.volume));
  }
  double width(const Place &at) const { return std::sqrt(2.0 * rate() * thermal() / at.volume); }
  double weight(const Place &at) const {
    return double(atom->natoms + 1) * std::log(at.volume) - (at.energy + pressure * at.volume) / thermal();
  }

  // Noise of a strain, another than the thermostat's.
  double normal(bigint number, uint64_t index) const {
    return mdistill::standard_normal(mdistill::mixed_bits(~thermostat.key(number, 0)), index);
  }
};

}  // namespace
