// Tasks over threads, whoever owns the threads: OpenMP, std::thread or ONNX Runtime's pool.
#pragma once

#include <stddef.h>

namespace x2sam {

struct Threads {
  using Task = void (*)(void* body, size_t index);

  // Calls task(body, 0) ... task(body, tasks - 1) in any order on any thread, and returns when all are done.
  void (*run)(const Threads& threads, size_t tasks, Task task, void* body);
  void* context;
  size_t count;

  template <class Body>
  void each(size_t tasks, Body& body) const {
    auto call = [](void* self, size_t index) { (*static_cast<Body*>(self))(index); };
    if (tasks == 1 || count == 1) {
      for (size_t index = 0; index < tasks; ++index) call(&body, index);
    } else {
      run(*this, tasks, call, &body);
    }
  }
};

// This library's own threads: OpenMP's pool (shared with torch in its process) or, built without it, std::thread.
Threads own_threads(size_t count);

// Work space of the calling thread: at least `floats` floats, 64-byte aligned, kept until the thread ends.
// Null when there is no memory.
float* scratch(size_t floats);

}  // namespace x2sam
