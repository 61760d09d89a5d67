// Long strides: kicks and drifts, each kick with a potential of its own, as simulation/splitting_map.py has them. Knows no network.
#pragma once

#include <vector>

#include "motion.hpp"

namespace mdistill {

// A potential of the structure: an engine, and two functions of the library that it is from.
struct Field {
  void *engine;
  double (*evaluate)(void *, const double *, const double *, const int32_t *, double *, double *, double *);
  double (*closest)(const void *);
};

// Filled in kernels/splitting_map.py.
struct Map {
  int64_t atoms;
  const int32_t *species;
  int64_t threads, kicks, small_steps;
  const Field *fields;          // the potential (energies, and forces of the small steps), then the stages: kick k of K uses
                                // number min(k, K − k)
  const double *largest_force;  // [stage, atom] eV/Å; beyond it a stride is taken in small steps of velocity Verlet
  double looked_at, largest_change;  // eV; a stride that changes K + V₀ (V₀: the first stage) by more than the first is evaluated
                                     // with the potential: beyond the second it is taken in small steps too
};

class Strides {
 public:
  explicit Strides(const Map &map)
      : map(map), species(map.species, map.species + map.atoms), potential(map.fields[0]), stages(map.fields + 1, map.fields + map.kicks / 2 + 2) {
    for (size_t n = 0; n < stages.size() * size_t(map.atoms); ++n) limits.push_back(map.largest_force[n] * map.largest_force[n]);
    forces.resize(3 * map.atoms), next.resize(3 * map.atoms);
  }

  int64_t fallbacks = 0;

  // Strides; gives how many were taken, negative where the last of them passed a limit or is not finite.
  // `f`, `energy`, `virial`: of the potential where the last stride ends. To `sums` are added, of every stride, the heat of the
  // thermostat and twice the internal kinetic energy of each species; of the last one, if it is the last one asked for, energy
  // and pressure.
  int64_t run(const Plan &plan, Point &at) {
    const double *cell = at.cell, *masses = at.masses;
    const int32_t *pbc = at.pbc;
    double *r = at.positions, *p = at.momenta, *f = at.forces, *energy = &at.energy, *virial = at.virial, *sums = at.sums;
    const Atoms atoms{map.atoms, species.data(), masses, int(map.threads)};
    const Place place{atoms, cell, pbc, r};
    bool stopped = false, watched = false, known = false;
    int64_t step = 0;
    double twice = 0;
    while (step < plan.steps && !stopped) {
      if (plan.ensemble == 1) sums[2] += heat_of(atoms, p, [&] { thermalise(atoms, plan, plan.keys[2 * step], p); });
      before.assign(r, r + 3 * atoms.count), before.insert(before.end(), p, p + 3 * atoms.count);
      known = !stride(place, plan.time_step, p);
      if (known) {
        ++fallbacks;
        std::copy(before.begin(), before.begin() + 3 * atoms.count, r), std::copy(before.begin() + 3 * atoms.count, before.end(), p);
        stopped = !small_steps(place, plan.time_step / double(map.small_steps), p, f, energy, virial);
      }
      if (plan.ensemble == 1) sums[2] += heat_of(atoms, p, [&] { thermalise(atoms, plan, plan.keys[2 * step + 1], p); });
      if (plan.ensemble == 2) sums[2] += heat_of(atoms, p, [&] { rescale(atoms, plan, step, p); });
      twice = add_kinetic(atoms, p, sums + 3);
      ++step;
      if (plan.correct_every > 0 && due(plan.correct_from + step, plan.correct_every) && !stopped) {
        if (!known) stopped = !evaluate(place, f, energy, virial);
        known = true;
        if (!stopped) correct_energy(atoms, plan.total_energy + sums[2] - *energy - kinetic_energy(atoms, p), plan.largest_correction, p);
      }
      watched = plan.watch_every > 0 && (plan.first_step + step) % plan.watch_every == 0;
      const Field &last = known ? potential : stages[0];
      if (watched && !stopped) stopped = too_close_or_hot(atoms, plan, p, last.closest(last.engine));
    }
    if (!known) stopped |= !evaluate(place, f, energy, virial);
    if (watched && !stopped) stopped = suspicious(atoms, plan, p, f, *energy, potential.closest(potential.engine));
    if (plan.whole && step == plan.steps) add_potential(atoms, twice, cell, *energy, virial, sums);
    return stopped ? -step : step;
  }

 private:
  struct Place {
    const Atoms &atoms;
    const double *cell;
    const int32_t *pbc;
    double *r;
  };

  const Map map;
  const std::vector<int32_t> species;
  const Field potential;
  const std::vector<Field> stages;
  std::vector<double> limits, forces, next, before, seen;  // next: forces of stage 0 at `seen`, positions and cell
  double next_energy = 0;                                  // of stage 0 there

  // Energy, forces and virial of the potential; false where they are not finite.
  bool evaluate(const Place &at, double *f, double *energy, double *virial) {
    if (in_range(at.atoms, at.r))
      *energy = potential.evaluate(potential.engine, at.r, at.cell, at.pbc, f, virial, nullptr);
    else
      set_unknown(at.atoms, energy, f);
    return std::isfinite(*energy) && finite(at.atoms, f);
  }

  // Forces of a stage; those of the first, where a stride begins, are those where the one before ended. Null where one is too
  // large for the map to be trusted.
  const double *kick_of(const Place &at, int stage, bool begins) {
    double *f = stage ? forces.data() : next.data();
    if (!begins || !remembered(at)) {
      if (!in_range(at.atoms, at.r)) return nullptr;
      const double energy = stages[stage].evaluate(stages[stage].engine, at.r, at.cell, at.pbc, f, nullptr, nullptr);
      balance(at.atoms, f);
      if (!stage) remember(at), next_energy = energy;
    }
    bool small = true;
    for (int64_t i = 0; i < at.atoms.count; ++i)
      small &= f[3 * i] * f[3 * i] + f[3 * i + 1] * f[3 * i + 1] + f[3 * i + 2] * f[3 * i + 2] <= limits[stage * at.atoms.count + i];
    return small ? f : nullptr;
  }

  bool remembered(const Place &at) const {
    const auto end = seen.begin() + std::min<size_t>(seen.size(), 3 * at.atoms.count);
    return !seen.empty() && std::equal(seen.begin(), end, at.r) && std::equal(end, end + 9, at.cell) &&
           std::equal(end + 9, seen.end(), at.pbc);
  }

  void remember(const Place &at) {
    seen.assign(at.r, at.r + 3 * at.atoms.count);
    seen.insert(seen.end(), at.cell, at.cell + 9), seen.insert(seen.end(), at.pbc, at.pbc + 3);
  }

  // One stride of the map; false where it is not to be trusted (r and p are then somewhere on the way).
  bool stride(const Place &at, double time, double *p) {
    const double h = time / double(map.kicks);
    double begun = kinetic_energy(at.atoms, p);
    for (int k = 0; k <= map.kicks; ++k) {
      if (k) drift(at.atoms, h, p, at.r);
      const double *f = kick_of(at, int(std::min<int64_t>(k, map.kicks - k)), k == 0);
      if (!f) return false;
      if (k == 0) begun += next_energy;
      kick(at.atoms, k == 0 || k == map.kicks ? 0.5 * h : h, f, p);
    }
    const double change = kinetic_energy(at.atoms, p) + next_energy - begun;
    return std::abs(change) <= map.looked_at || right(at, p);
  }

  // Whether a stride from `before` changed the energy by no more than it may.
  bool right(const Place &at, const double *p) {
    if (!in_range(at.atoms, at.r)) return false;
    const double *then = before.data();
    double energy[2];
    for (int k = 0; k < 2; ++k) {
      energy[k] = potential.evaluate(potential.engine, k ? at.r : then, at.cell, at.pbc, forces.data(), nullptr, nullptr);
      energy[k] += kinetic_energy(at.atoms, k ? p : then + 3 * at.atoms.count);
    }
    return std::abs(energy[1] - energy[0]) <= map.largest_change;
  }

  // The same time in small steps of velocity Verlet; false where it ends in what is not finite.
  bool small_steps(const Place &at, double h, double *p, double *f, double *energy, double *virial) {
    bool good = evaluate(at, f, energy, virial);
    for (int step = 0; step < map.small_steps && good; ++step) {
      balance(at.atoms, f);
      kick(at.atoms, 0.5 * h, f, p);
      drift(at.atoms, h, p, at.r);
      good = evaluate(at, f, energy, virial);
      balance(at.atoms, f);
      kick(at.atoms, 0.5 * h, f, p);
    }
    return good;
  }
};

}  // namespace mdistill
