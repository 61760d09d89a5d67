// Energy, forces and virial of a structure, and time steps on them: a neighbour list, threads that own their atoms.
#pragma once

#include "gather.hpp"
#include "motion.hpp"
#include "skin_list.hpp"
#include "moment.hpp"

namespace mdistill {

template <class Net>
class Engine {
 public:
  using real = typename Net::real;

  Engine(const Net &net, int64_t atoms, const int32_t *of, int threads, double skin)
      : net(net), atoms(atoms), species(of, of + atoms), threads(std::max(1, threads)), own_list(species, net.species, net.cutoff, skin, this->threads), spots(net.cutoff) {
    blocks = blocks_of(net, atoms, [](int64_t i) { return static_cast<int32_t>(i); }, species.data());
    for (int t = 0; t < this->threads; ++t) parts.push_back(std::make_unique<Part>(net, atoms));
  }

  int64_t edges = 0;
  double closest = 1e30;  // smallest of distance over allowed distance at the last evaluation
  SkinList *pairs = &own_list;   // its own, or that of another engine of the same atoms and cutoff

  // Closest distance of each pair of species at which `run` stops.
  void set_limits(const double *distances) {
    for (auto &part : parts) part->work.set_limits(net, distances);
  }

  // Candidates from outside, for one evaluation of a given graph: any order of the senders within a receiver.
  void take(const int64_t *first, const int32_t *sender, const double *offset) {
    Candidates &list = pairs->list;
    list.kinds = net.species, ++list.version;
    list.first.assign(atoms * net.species + 1, 0);
    list.pairs.clear(), list.images.clear(), list.offsets.clear(), list.turns.assign(atoms, {0, 0, 0});
    for (int64_t i = 0; i < atoms; ++i)
      for (int t = 0; t < net.species; ++t) {
        for (int64_t m = first[i]; m < first[i + 1]; ++m)
          if (species[sender[m]] == t) {
            list.pairs.push_back({sender[m], static_cast<int32_t>(list.offsets.size())});
            list.offsets.push_back({offset[3 * m], offset[3 * m + 1], offset[3 * m + 2]});
          }
        list.first[i * net.species + t + 1] = static_cast<int64_t>(list.pairs.size());
      }
  }

  // Make sure that every pair closer than the cutoff is listed.
  void follow(const double *r, const double *cell, const int32_t *pbc) { pairs->follow(r, cell, pbc); }

  // Energy (eV), forces (eV/Å) and virial Σ d ⊗ g (eV; or null) of the listed pairs. `atomic`: energy per atom, or null.
  double evaluate(const double *r, double *forces, double *virial, double *atomic) {
    const int64_t n_blocks = static_cast<int64_t>(blocks.size());
    find_spots(r);
    Crew::run(threads, [&](int t) {
      Part &part = *parts[t];
      std::fill(part.force.begin(), part.force.begin() + 4 * atoms, real(0));
      std::fill(part.virial, part.virial + 9, 0.0);
      part.energy = 0, part.closest = 1e30, part.edges = 0;
      for (int64_t b = n_blocks * t / threads; b < n_blocks * (t + 1) / threads; ++b) one_block(blocks[b], part, atomic);
    });
    Crew::split(atoms, atoms < MANY ? 1 : threads, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i)
        for (int c = 0; c < 3; ++c) {
          double total = 0;
          for (const auto &part : parts) total += double(part->force[4 * i + c]);
          forces[3 * i + c] = total;
        }
    });
    double energy = 0;
    for (int64_t c = 0; c < 3 * atoms; ++c) energy += 0.0 * r[c];  // not finite where a position is not
    closest = 1e30, edges = 0;
    if (virial) std::fill(virial, virial + 9, 0.0);
    for (const auto &part : parts) {
      energy += part->energy, edges += part->edges, closest = std::min(closest, part->closest);
      for (int c = 0; virial && c < 9; ++c) virial[c] += part->virial[c];
    }
    return energy;
  }

  // Time steps; gives how many were taken, negative where the last of them passed a limit or is not finite.
  // To `sums` are added, of every step: energy, pressure, heat, twice the internal kinetic energy of each species.
  int64_t run(const Plan &plan, Point &at) {
    const double *cell = at.cell, *masses = at.masses;
    const int32_t *pbc = at.pbc;
    double *r = at.positions, *p = at.momenta, *middle = at.middle, *forces = at.forces, *energy = &at.energy;
    double *virial = at.virial, *sums = at.sums;
    const Atoms mine{atoms, species.data(), masses, threads};
    const double h = plan.time_step, drift_time = plan.ensemble == 1 ? 0.5 * h : h;
    const double *measured = plan.ensemble == 1 ? middle : p;
    if (!at.known) {
      follow(r, cell, pbc);
      *energy = evaluate(r, forces, virial, nullptr);
    }
    for (int64_t step = 0; step < plan.steps; ++step) {
      kick(mine, 0.5 * h, forces, p);
      drift(mine, drift_time, p, r);
      if (plan.ensemble == 1) {
        sums[2] += heat_of(mine, p, [&] { thermalise(mine, plan, plan.keys[step], p); });
        std::copy(p, p + 3 * atoms, middle);
        drift(mine, drift_time, p, r);
      }
      if (!in_range(mine, r)) {
        set_unknown(mine, energy, forces);
        return -(step + 1);
      }
      follow(r, cell, pbc);
      *energy = evaluate(r, forces, virial, nullptr);
      kick(mine, 0.5 * h, forces, p);
      if (plan.ensemble == 2) sums[2] += heat_of(mine, p, [&] { rescale(mine, plan, step, p); });
      add_potential(mine, add_kinetic(mine, measured, sums + 3), cell, *energy, virial, sums);
      if (!std::isfinite(*energy) || !finite(mine, forces)) return -(step + 1);
      const bool watched = plan.watch_every > 0 && (plan.first_step + step + 1) % plan.watch_every == 0;
      if (watched && suspicious(mine, plan, measured, forces, *energy, closest)) return -(step + 1);
    }
    return plan.steps;
  }

 private:
  struct Part {  // what one thread adds up
    typename Net::Workspace work;
    Array<real> force;  // [atom][4]
    double virial[9], energy, closest;
    int64_t edges;
    Part(const Net &net, int64_t atoms) : work(net), force(4 * atoms) {}
  };

  const Net &net;
  const int64_t atoms;
  const std::vector<int32_t> species;
  const int threads;
  std::vector<Block<Net>> blocks;
  std::vector<std::unique_ptr<Part>> parts;
  SkinList own_list;
  using Spot = typename Spots<real>::Spot;
  using Whole = typename Spots<real>::Whole;
  Spots<real> spots;
  Array<Spot> turned;                    // of the whole cells by which atoms lie outside
  const Candidates *spots_of = nullptr;  // the list that these are for, and its version
  int64_t version = 0;
  static constexpr int64_t MANY = 4000;  // atoms whose force buffers are added by all threads

  // Positions and shifts of the list in the form that is subtracted.
  void find_spots(const double *r) {
    const Candidates &list = pairs->list;
    if (spots_of != &list || version != list.version) {
      Spot lattice[3];
      for (int a = 0; a < 3; ++a) lattice[a] = spots.of(list.cell + 3 * a);
      const auto times = [&lattice](const std::array<int32_t, 3> &n) {
        Spot total{};
        for (int a = 0; a < 3; ++a) total += static_cast<Whole>(n[a]) * lattice[a];
        return total;
      };
      spots.spots.resize(atoms), turned.resize(atoms), spots.shifts.resize(list.images.size() + list.offsets.size());
      for (int64_t i = 0; i < atoms; ++i) turned[i] = times(list.turns[i]);
      for (size_t n = 0; n < list.images.size(); ++n) spots.shifts[n] = times(list.images[n]);
      for (size_t n = 0; n < list.offsets.size(); ++n) spots.shifts[n] = spots.of(list.offsets[n].data());
      spots_of = &list, version = list.version;
    }
    Crew::split(atoms, atoms < MANY ? 1 : threads, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) spots.spots[i] = spots.of(r + 3 * i) - turned[i];
    });
  }

  void one_block(const Block<Net> &block, Part &part, double *atomic) const {
    auto &e = part.work.edges;
    gather(net, block, pairs->list, spots, e);
    net.evaluate(block.species, part.work);
    part.edges += scatter<4>(net, block, e, part.force.begin());
    for (int b = 0; b < block.count; ++b) {
      part.energy += part.work.energy[b];
      if (atomic) atomic[block.atoms[b]] = part.work.energy[b];
    }
    part.closest = std::min(part.closest, e.closest);
    for (int c = 0; c < 9; ++c) part.virial[c] += double(sum<real>(e.virial[c]));
  }
};

}  // namespace mdistill
