// SPDX-License-Identifier: GPL-2.0-or-later
// The fix `mdistill/stride` of LAMMPS: a long-stride map of kicks and drifts (nets/splitting_map.py) on LAMMPS's decomposition, with
// the checks, the time steps in place of a stride, the thermostats and the energy correction of kernels/splitting_map.hpp, and
// a barostat.
//
// One step of LAMMPS is one stride. Kicks before its end and all drifts are made in `initial_integrate`, the last kick, for which
// LAMMPS has brought neighbours and ghost atoms up to date, in `final_integrate`. Potentials of the kicks belong to the fix; the
// student itself, `pair_style mdistill`, is evaluated only where its energy or an output is asked for.
//
// Included by lammps_pair.cpp, after the pair style.
#pragma once

#include <algorithm>

#include "fix.h"
#include "lammps_barostat.hpp"
#include "lammps_kicks.hpp"
#include "modify.h"
#include "output.h"

namespace {
class FixMdistillStride : public Fix {
 public:
  FixMdistillStride(LAMMPS *lmp, int narg, char **arg) : Fix(lmp, narg, arg), velocities(lmp), thermostat(lmp), barostat(lmp, thermostat) {
    const char *usage =
        "fix ID all mdistill/stride FILE [langevin TEMPERATURE FRICTION SEED | bussi TEMPERATURE RELAXATION SEED] "
        "[barostat PRESSURE RELAXATION COMPRESSIBILITY] [correct EVERY LARGEST]";
    if (narg < 4) error->all(FLERR, "needs: {}", usage);
    if (igroup != 0) error->all(FLERR, "fix mdistill/stride moves all atoms: give it the group all");
    for (int k = 4; k < narg;) {
      const std::string word = arg[k];
      const int values = word == "langevin" || word == "bussi" || word == "barostat" ? 3 : word == "correct" ? 2 : 0;
      if (values == 0) error->all(FLERR, "{} is no word of fix mdistill/stride, which needs: {}", word, usage);
      if (k + values >= narg) error->all(FLERR, "{} takes {} values: {}", word, values, usage);
      if (word == "correct") {
        const double every = utils::numeric(FLERR, arg[k + 1], false, lmp);
        if (!(every >= 0)) error->all(FLERR, "EVERY of correct must not be negative");
        correct_every = static_cast<bigint>(every), largest_correction = utils::numeric(FLERR, arg[k + 2], false, lmp);
        if (!(largest_correction >= 0 && largest_correction <= 0.5)) error->all(FLERR, "LARGEST of correct must be 0 to 0.5");
      } else {
        word == "barostat" ? barostat.read(arg + k) : thermostat.read(arg + k);
      }
      k += 1 + values;
    }
    if (barostat.given && !(thermostat.kelvin > 0)) error->all(FLERR, "barostat needs a thermostat beside it: langevin or bussi");
    if (barostat.given) box_change |= BOX_CHANGE_X | BOX_CHANGE_Y | BOX_CHANGE_Z, no_change_box = 1;
    time_integrate = restart_global = vector_flag = global_freq = 1;
    size_vector = 3, extvector = 0, comm_reverse = 3, maxexchange = BEFORE + 1;
    path = arg[3];
    kicks.open(lmp, arg[3]);
    barostat.stride = kicks.stride;
    FixMdistillStride::grow_arrays(atom->nmax);
    atom->add_callback(Atom::GROW);
  }

  ~FixMdistillStride() override { atom->delete_callback(id, Atom::GROW); }

  int setmask() override { return FixConst::INITIAL_INTEGRATE | FixConst::FINAL_INTEGRATE | FixConst::POST_NEIGHBOR | FixConst::POST_RUN; }

  void init() override {
    pair = dynamic_cast<PairMdistill *>(force->pair);
    if (!pair) error->all(FLERR, "fix mdistill/stride needs pair_style mdistill, alone: other forces have no part in its kicks");
    if (pair->digest != kicks.map.student) error->all(FLERR, "{} belongs to another student than that of pair_coeff", path);
    if (kicks.map.cutoff > pair->cutforce) error->all(FLERR, "the map's cutoff {} is beyond the student's, {}", kicks.map.cutoff, pair->cutforce);
    species_of.assign(atom->ntypes + 1, -1);
    for (int i = 1; i <= atom->ntypes; ++i) {
      const auto found = std::find(kicks.map.elements.begin(), kicks.map.elements.end(), pair->element(i));
      if (found == kicks.map.elements.end()) error->all(FLERR, "type {} is no element of the map {}", i, path);
      species_of[i] = static_cast<int32_t>(found - kicks.map.elements.begin());
    }
    if (utils::strmatch(update->integrate_style, "^verlet$") == 0) error->all(FLERR, "fix mdistill/stride needs run_style verlet");
    reset_dt();
    if (neighbor->every != 1 || neighbor->delay != 0 || !neighbor->dist_check)
      error->all(FLERR, "fix mdistill/stride needs: neigh_modify every 1 delay 0 check yes");
    if (thermostat.kelvin > 0 && !atom->tag_enable) error->all(FLERR, "thermostats need atom IDs");
    for (Fix *other : modify->get_fix_list()) {
      if (other == this) continue;
      if (other->time_integrate) error->all(FLERR, "fix {} ({}) moves atoms too; fix mdistill/stride does so alone", other->id, other->style);
      if (modify->get_fix_mask(other) & FixConst::POST_FORCE)
        error->all(FLERR, "fix {} ({}) changes forces, which have no part in the kicks of fix mdistill/stride", other->id, other->style);
      if (other->box_change & ~BOX_CHANGE_DOMAIN)
        error->all(FLERR, "fix {} ({}) changes the box; fix mdistill/stride has a barostat of its own", other->id, other->style);
      for (const char *style : {"^temp/", "^heat", "^ehex", "^momentum", "^viscosity", "^thermal/conductivity"})
        if (utils::strmatch(other->style, style))
          error->all(FLERR, "fix {} ({}) changes velocities by an unknown heat: use langevin or bussi of fix mdistill/stride", other->id,
                     other->style);
    }
    if (barostat.given && domain->nonperiodic) error->all(FLERR, "barostat needs a box that is periodic in three directions");
    pair->asleep = false;
  }

  void reset_dt() override {
    if (std::fabs(update->dt / kicks.stride - 1.0) > 1e-9) error->all(FLERR, "the map {} needs: timestep {:.12g}", path, kicks.stride);
  }

  void setup_post_neighbor() override { ++lists; }
  void post_neighbor() override { ++lists; }

  // The energy to which strides are corrected: the present one and what earlier ones lack.
  void setup(int) override { target = sum(pair->energy) + kinetic() + debt, heat = 0, seen.clear(); }

  void post_run() override {
    if (running) debt = missing(), running = false;
    pair->asleep = false;
  }

  void initial_integrate(int) override {
    ++strides, running = true;
    heat += thermostat.act(velocities, update->ntimestep, kicks.stride, 0);
    remember();
    begun = kinetic();
    moved = first_kick();
    for (int k = 1; moved && k < kicks.count; ++k) {
      drift(between());
      follow();
      evaluate(kicks.potential(k));
      moved = usable(kicks.potential(k));
      if (moved) kick(between());
    }
    if (moved)
      drift(between());
    else
      take_time_steps();
    pair->asleep = !due() && update->ntimestep != output->next;
    shuffled = false;
  }

  void final_integrate() override {
    energy = pair->energy;
    if (moved) {
      const double last = sum(evaluate(0));
      moved = usable(0);
      if (moved) {
        keep(last);
        kick(0.5 * between());
        const double change = kinetic() + last - begun;
        moved = std::fabs(change) <= kicks.looked_at * root_of_atoms() || energy_kept();
      }
      if (!moved) energy = take_time_steps();
    }
    heat += thermostat.act(velocities, update->ntimestep, kicks.stride, 1);
    if (due()) correct(target + sum(heat) - sum(energy) - kinetic());
    if (barostat.due(update->ntimestep)) strain();
    if (shuffled && pair->awake) renew_forces();
  }

  // Strides, those replaced by time steps, heat of the thermostat in this run (eV).
  double compute_vector(int k) override { return k == 0 ? double(strides) : k == 1 ? double(fallbacks) : sum(heat); }

  void write_restart(FILE *file) override {
    const double state[3] = {running ? missing() : debt, double(strides), double(fallbacks)};
    const int size = sizeof state;
    if (comm->me == 0) fwrite(&size, sizeof size, 1, file), fwrite(state, sizeof state, 1, file);
  }

  void restart(char *buffer) override {
    const auto *state = reinterpret_cast<const double *>(buffer);
    debt = state[0], strides = static_cast<bigint>(state[1]), fallbacks = static_cast<bigint>(state[2]);
  }

  void grow_arrays(int most) override { before.resize(size_t(BEFORE) * most), image.resize(most); }
  void copy_arrays(int from, int to, int) override {
    std::copy_n(&before[size_t(BEFORE) * from], BEFORE, &before[size_t(BEFORE) * to]), image[to] = image[from];
  }
  int pack_exchange(int i, double *buffer) override {
    std::copy_n(&before[size_t(BEFORE) * i], BEFORE, buffer), buffer[BEFORE] = ubuf(image[i]).d;
    return BEFORE + 1;
  }
  int unpack_exchange(int i, double *buffer) override {
    std::copy_n(buffer, BEFORE, &before[size_t(BEFORE) * i]), image[i] = static_cast<imageint>(ubuf(buffer[BEFORE]).i);
    return BEFORE + 1;
  }
  int pack_reverse_comm(int count, int from, double *buffer) override {
    std::copy_n(&forces[3 * size_t(from)], 3 * size_t(count), buffer);
    return 3 * count;
  }
  void unpack_reverse_comm(int count, int *to, double *buffer) override {
    for (int k = 0; k < count; ++k)
      for (int c = 0; c < 3; ++c) forces[3 * size_t(to[k]) + c] += buffer[3 * k + c];
  }

  double memory_usage() override {
    const size_t numbers = before.capacity() + forces.capacity() + first.capacity() + seen.capacity();
    return 8.0 * double(numbers + image.capacity()) + kicks.memory_usage();
  }

 private:
  static constexpr int BEFORE = 6;  // position and velocity

  std::string path;
  Kicks kicks;
  Velocities velocities;
  Thermostat thermostat;
  Barostat barostat;
  double largest_correction = 0.05;
  bigint correct_every = 20, strides = 0, fallbacks = 0, lists = 0, taken = -1;
  PairMdistill *pair = nullptr;

  double target = 0, debt = 0, begun = 0, first_energy = 0;  // of all ranks, eV
  double heat = 0, energy = 0;                               // of this rank, eV
  bool running = false, moved = false, shuffled = false;
  std::vector<double> before, forces, first, seen;  // by atom: where the stride began; of ghosts too; of the first kick at `seen`
  std::vector<imageint> image;                      // where the stride began
  std::vector<int32_t> species_of;                  // by type

  double between() const { return kicks.stride / kicks.count; }
  double root_of_atoms() const { return std::sqrt(double(atom->natoms)); }
  bool due() const { return correct_every > 0 && mdistill::due(update->ntimestep, correct_every); }

  double sum(double mine) const { return velocities.sum(mine); }
  double kinetic() const { return velocities.kinetic(); }

  // The energy that is missing now.
  double missing() { return target + sum(heat) - place().energy - kinetic(); }

  // The crystal as the student has it.
  Barostat::Place place() {
    mdistill::RankAnswers out{};
    forces.assign(3 * size_t(atom->nlocal + atom->nghost), 0.0), out.forces = forces.data();
    pair->answer(out);
    return {sum(out.energy), sum(out.virial[0] + out.virial[4] + out.virial[8]), domain->xprd * domain->yprd * domain->zprd};
  }

  // Strains box and atoms; the energy of a strain is not missing.
  void strain() {
    const Barostat::Place old = place();
    const double amount = barostat.strain(old, update->ntimestep), factor = std::exp(amount / std::sqrt(3.0));
    barostat.scale(factor);
    rebuild();
    const Barostat::Place trial = place();
    if (barostat.accepts(old, trial, amount, update->ntimestep)) {
      target += trial.energy - old.energy;
    } else {
      barostat.scale(1.0 / factor);
      rebuild();
    }
  }

  void kick(double time) {
    for (int i = 0; i < atom->nlocal; ++i)
      for (int c = 0; c < 3; ++c) atom->v[i][c] += time * Velocities::ACCELERATION / velocities.mass(i) * forces[3 * size_t(i) + c];
  }
  void drift(double time) {
    for (int i = 0; i < atom->nlocal; ++i)
      for (int c = 0; c < 3; ++c) atom->x[i][c] += time * atom->v[i][c];
  }

  // Neighbours and ghost atoms after a drift: every atom that moved by half the skin has the list made anew, as LAMMPS makes it.
  void follow() {
    const bigint danger = neighbor->ndanger;  // the distance is checked at every drift, so no pair is ever missed
    const bool far = neighbor->check_distance();
    neighbor->ndanger = danger;
    if (far)
      rebuild();
    else
      comm->forward_comm();
  }

  void rebuild() {
    if (domain->triclinic) domain->x2lamda(atom->nlocal);
    domain->pbc();
    if (domain->box_change) {
      domain->reset_box();
      comm->setup();
      neighbor->setup_bins();
    }
    comm->exchange();
    comm->borders();
    if (domain->triclinic) domain->lamda2x(atom->nlocal + atom->nghost);
    if (modify->n_pre_neighbor) modify->pre_neighbor();
    neighbor->build(1);
    modify->post_neighbor();
    shuffled = true;
  }

  // Forces of a kick's potential into `forces`; gives this rank's energy.
  double evaluate(int potential) {
    if (taken != lists) kicks.take(*atom, *pair->list, species_of), taken = lists;
    return collected([&](mdistill::RankAnswers &out) { kicks.evaluate(potential, here(), out); });
  }

  // The same of the student.
  double evaluate_student() {
    return collected([&](mdistill::RankAnswers &out) { pair->answer(out); });
  }

  template <class Answer>
  double collected(const Answer &answer) {
    mdistill::RankAnswers out{};
    forces.assign(3 * size_t(atom->nlocal + atom->nghost), 0.0), out.forces = forces.data();
    answer(out);
    comm->reverse_comm(this);
    return out.energy;
  }

  // Takes the mean from the forces; whether none was beyond its limit or no number.
  bool usable(int potential) {
    double mine[4] = {0, 0, 0, 0}, all[4];
    for (size_t i = 0; i < size_t(atom->nlocal); ++i) {
      const double *f = &forces[3 * i], limit = potential < 0 ? INFINITY : kicks.limits[potential][species_of[atom->type[i]]];
      mine[3] += !(f[0] * f[0] + f[1] * f[1] + f[2] * f[2] <= limit);
      for (int c = 0; c < 3; ++c) mine[c] += f[c] / double(atom->natoms);
    }
    MPI_Allreduce(mine, all, 4, MPI_DOUBLE, MPI_SUM, world);
    for (size_t i = 0; i < size_t(atom->nlocal); ++i)
      for (int c = 0; c < 3; ++c) forces[3 * i + c] -= all[c];
    return all[3] == 0.0;
  }

  // Stores the forces of the first kick, which are those of the last.
  void keep(double its_energy) {
    first.assign(forces.begin(), forces.begin() + 3 * size_t(atom->nlocal)), first_energy = its_energy;
    seen.assign(here(), here() + 3 * size_t(atom->nlocal));
  }
  double *here() const { return atom->nlocal + atom->nghost ? atom->x[0] : nullptr; }

  bool first_kick() {
    const int mine = seen.size() == 3 * size_t(atom->nlocal) && std::equal(seen.begin(), seen.end(), here());
    int known = 0;
    MPI_Allreduce(&mine, &known, 1, MPI_INT, MPI_MIN, world);
    if (known) {
      forces = first;
    } else {
      follow();
      first_energy = sum(evaluate(0));
      if (!usable(0)) return false;
    }
    begun += first_energy;
    kick(0.5 * between());
    return true;
  }

  void remember() {
    for (size_t i = 0; i < size_t(atom->nlocal); ++i) {
      std::copy_n(atom->x[i], 3, &before[BEFORE * i]), std::copy_n(atom->v[i], 3, &before[BEFORE * i + 3]);
      image[i] = atom->image[i];
    }
  }

  // Exchanges the present state with that where the stride began.
  void exchange_states() {
    for (size_t i = 0; i < size_t(atom->nlocal); ++i) {
      std::swap_ranges(atom->x[i], atom->x[i] + 3, &before[BEFORE * i]);
      std::swap_ranges(atom->v[i], atom->v[i] + 3, &before[BEFORE * i + 3]);
      std::swap(atom->image[i], image[i]);
    }
    rebuild();
  }

  // Whether the stride changed the energy by no more than it may.
  bool energy_kept() {
    if (!pair->awake) energy = evaluate_student();
    const double now = sum(energy) + kinetic();
    exchange_states();
    const double then = sum(evaluate_student()) + kinetic();
    exchange_states();
    return std::fabs(now - then) <= kicks.largest_change * root_of_atoms();
  }

  // The stride in time steps of velocity Verlet with the student; gives this rank's energy where they end.
  double take_time_steps() {
    ++fallbacks;
    exchange_states();
    const double h = kicks.stride / kicks.time_steps;
    evaluate_student();
    bool good = usable(-1);
    double last = 0;
    for (int step = 0; step < kicks.time_steps && good; ++step) {
      kick(0.5 * h);
      drift(h);
      follow();
      last = evaluate_student();
      good = usable(-1);
      kick(0.5 * h);
    }
    if (!good || !std::isfinite(sum(last)))
      error->all(FLERR, "a stride and the time steps in place of it end in forces that are no numbers, at step {}", update->ntimestep);
    return last;
  }

  // Rescales the momenta relative to the centre of mass by a bounded factor, so that the kinetic energy grows by `lacking` (eV).
  void correct(double lacking) {
    double centre[3];
    const double kinetic = velocities.internal(centre);
    if (!(kinetic > 0.0)) return;
    const double exact = std::sqrt(std::max(0.0, 1.0 + lacking / kinetic));
    const double change = std::min(std::max(exact, 1.0 - largest_correction), 1.0 + largest_correction) - 1.0;
    velocities.grow_internal(change, centre);
  }

  // Forces, energies and virials for an output, after atoms moved or came to other ranks behind LAMMPS's back.
  void renew_forces() {
    if (atom->nlocal + atom->nghost) std::fill(atom->f[0], atom->f[0] + 3 * size_t(atom->nlocal + atom->nghost), 0.0);
    pair->compute(pair->flags[0], pair->flags[1]);
    comm->reverse_comm();
  }
};

}  // namespace
