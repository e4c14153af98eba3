#include "threads.h"

#include <cstdlib>
#include <memory>

#ifndef _OPENMP
#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>
#endif

namespace x2sam {
namespace {

#ifdef _OPENMP
void run_tasks(const Threads& threads, size_t tasks, Threads::Task task, void* body) {
  const int count = static_cast<int>(threads.count);
#pragma omp parallel for schedule(dynamic, 1) num_threads(count)
  for (size_t index = 0; index < tasks; ++index) task(body, index);
}
#else
void run_tasks(const Threads& threads, size_t tasks, Threads::Task task, void* body) {
  std::atomic<size_t> next{0};
  auto work = [&] {
    for (size_t index = next++; index < tasks; index = next++) task(body, index);
  };
  std::vector<std::thread> helpers;
  for (size_t i = 1; i < std::min(threads.count, tasks); ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
}
#endif

}  // namespace

Threads own_threads(size_t count) { return {run_tasks, nullptr, count}; }

float* scratch(size_t floats) {
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  thread_local std::unique_ptr<float, Free> memory;
  thread_local size_t held = 0;
  if (floats > held) {
    const size_t bytes = (floats * sizeof(float) + 63) / 64 * 64;
    memory.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    held = memory ? floats : 0;
  }
  return memory.get();
}

}  // namespace x2sam
