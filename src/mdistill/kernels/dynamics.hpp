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
      : net(net), atoms(atoms), species(of, of + atoms), threads(std::max(1, threads)), own_list(species, net.cutoff, skin, this->threads) {
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

  // Make sure that every pair closer than the cutoff is listed.
  void follow(const double *r, const double *cell, const int32_t *pbc) { pairs->follow(r, cell, pbc); }

  // Energy (eV), forces (eV/Å) and virial Σ d ⊗ g (eV; or null) of the listed pairs. `atomic`: energy per atom, or null.
  double evaluate(const double *r, double *forces, double *virial, double *atomic) {
    const int64_t n_blocks = static_cast<int64_t>(blocks.size());
    Crew::run(threads, [&](int t) {
      Part &part = *parts[t];
      std::fill(part.force.begin(), part.force.begin() + 3 * atoms, real(0));
      std::fill(part.virial, part.virial + 9, 0.0);
      part.energy = 0, part.closest = 1e30, part.edges = 0;
      for (int64_t b = n_blocks * t / threads; b < n_blocks * (t + 1) / threads; ++b) one_block(blocks[b], r, part, atomic);
    });
    Crew::split(3 * atoms, atoms < MANY ? 1 : threads, [&](int64_t from, int64_t to) {
      for (int64_t c = from; c < to; ++c) {
        double total = 0;
        for (const auto &part : parts) total += double(part->force[c]);
        forces[c] = total;
      }
    });
    double energy = 0;
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
    Array<real> force;
    double virial[9], energy, closest;
    int64_t edges;
    Part(const Net &net, int64_t atoms) : work(net), force(3 * atoms) {}
  };

  const Net &net;
  const int64_t atoms;
  const std::vector<int32_t> species;
  const int threads;
  std::vector<Block<Net>> blocks;
  std::vector<std::unique_ptr<Part>> parts;
  SkinList own_list;
  static constexpr int64_t MANY = 4000;  // atoms whose force buffers are added by all threads

  void one_block(const Block<Net> &block, const double *r, Part &part, double *atomic) const {
    auto &e = part.work.edges;
    const Candidates &list = pairs->list;
    const auto move = [&list](int64_t m, double *d) {
      for (int c = 0; c < 3; ++c) d[c] += list.offset[m][c];
    };
    gather(net, block, list.first.data(), list.sender.data(), species.data(), r, move, e);
    net.evaluate(block.species, part.work);
    part.edges += scatter(net, block, e, part.force.begin());
    for (int b = 0; b < block.count; ++b) {
      part.energy += part.work.energy[b];
      if (atomic) atomic[block.atoms[b]] = part.work.energy[b];
    }
    part.closest = std::min(part.closest, e.closest);
    for (int c = 0; c < 9; ++c) part.virial[c] += double(e.virial[c]);
  }
};

}  // namespace mdistill
