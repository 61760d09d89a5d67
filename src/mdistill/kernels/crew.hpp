// Threads of this process that share out the parts of a job. A part belongs to whoever comes first, and what it does depends on
// its number alone: a thread that the system keeps away leaves its parts to the others and changes no result. Waiting ends in
// sleep, so that other processes get the cores.
#pragma once

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace mdistill {

class Crew {
 public:
  // Calls work(0) … work(parts − 1), and returns once all are done. One job at a time is shared: a second one is done by its
  // caller alone.
  template <class Work>
  static void run(int parts, const Work &work) {
    if (parts > 1) {
      Crew &crew = here();
      if (std::unique_lock<std::mutex> alone(crew.busy, std::try_to_lock); alone) {
        crew.share(parts, {[](const void *w, int part) { (*static_cast<const Work *>(w))(part); }, &work});
        return;
      }
    }
    for (int part = 0; part < parts; ++part) work(part);
  }

  // Calls work(from, to) for even shares of 0 … count.
  template <class Work>
  static void split(int64_t count, int parts, const Work &work) {
    run(parts, [&](int part) { work(count * part / parts, count * (part + 1) / parts); });
  }

 private:
  struct Job {
    void (*call)(const void *, int) = nullptr;
    const void *work = nullptr;
  };
  // Of the job that is shared, in one number: its own number (32 bits), its parts (16), and the next one that nobody took (16).
  using Ticket = uint64_t;
  static int parts_of(Ticket t) { return static_cast<int>(t >> 16 & 0xFFFF); }
  static int next_of(Ticket t) { return static_cast<int>(t & 0xFFFF); }
  static constexpr std::chrono::microseconds PATIENCE{20};  // before sleep: about the time between two jobs of a small structure

  std::mutex busy, gate;
  std::condition_variable job_there, all_done;
  std::atomic<Ticket> ticket{0};
  std::atomic<int> done{0}, sleepers{0};
  std::atomic<bool> waits{false};
  Job job;
  int workers = 0;

  // Of this process: a child has none of its parent's threads. Never deleted, because its threads never end.
  static Crew &here() {
    static std::mutex making;
    static Crew *crew = nullptr;
    static pid_t owner = 0;
    const std::lock_guard<std::mutex> lock(making);
    if (owner != getpid()) crew = new Crew, owner = getpid();
    return *crew;
  }

  void share(int parts, Job wanted) {
    for (; workers < parts - 1; ++workers) std::thread([this] { serve(); }).detach();
    job = wanted, done = 0;
    ticket = ((ticket >> 32) + 1) << 32 | static_cast<Ticket>(parts) << 16;
    if (sleepers > 0) {
      { const std::lock_guard<std::mutex> lock(gate); }
      job_there.notify_all();
    }
    while (take_one()) {
    }
    if (soon([&] { return done == parts; })) return;
    std::unique_lock<std::mutex> lock(gate);
    waits = true;
    all_done.wait(lock, [&] { return done == parts; });
    waits = false;
  }

  [[noreturn]] void serve() {
    for (;;) {
      if (take_one() || soon([this] { return open(); })) continue;
      std::unique_lock<std::mutex> lock(gate);
      ++sleepers;
      job_there.wait(lock, [this] { return open(); });
      --sleepers;
    }
  }

  bool open() const {
    const Ticket now = ticket;
    return next_of(now) < parts_of(now);
  }

  bool take_one() {
    Ticket now = ticket;
    do {
      if (next_of(now) >= parts_of(now)) return false;
    } while (!ticket.compare_exchange_weak(now, now + 1));
    job.call(job.work, next_of(now));
    if (++done == parts_of(now) && waits) {
      { const std::lock_guard<std::mutex> lock(gate); }
      all_done.notify_one();
    }
    return true;
  }

  template <class Condition>
  static bool soon(const Condition &condition) {
    const auto until = std::chrono::steady_clock::now() + PATIENCE;
    do {
      for (int i = 0; i < 16; ++i) {
        if (condition()) return true;
        pause();
      }
    } while (std::chrono::steady_clock::now() < until);
    return false;
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
};

}  // namespace mdistill
