// Runs the bodies of CUDA kernels on the host: a block's threads are fibers, so that barriers,
// shared memory, shuffles and atomics do what they do on a device. Blocks run one after the other,
// threads in a chosen order between two barriers: a missing barrier shows as a result that depends
// on the order. Memory models, occupancy and alignment are not emulated.
//
// Include it before a .cuh file. What kernels read and write through read() and write() of
// csrc/cuda/memory.cuh is counted, by kernel.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include <cxxabi.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define PTYLE_CUDA_EMULATED 1
#if defined(__SANITIZE_ADDRESS__)
// gcc surrounds statics with forbidden memory only where no other file can have the same function.
#define __global__ [[maybe_unused]] static
#else
#define __global__
#endif
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)

namespace ptyle::emulator {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

enum class Order { kAscending, kDescending, kShuffled };

struct Counters {
  std::int64_t bytes_read = 0, bytes_written = 0, launches = 0;
};

// "transmit" for ptyle::cuda::transmit<float>: kernels of the program itself have names where it is
// linked with its symbols (CMake: ENABLE_EXPORTS) and they are not static.
inline std::string kernel_name(const void* kernel) {
  Dl_info found;
  if (kernel == nullptr || dladdr(kernel, &found) == 0 || found.dli_saddr != kernel) return "?";
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> readable(
      abi::__cxa_demangle(found.dli_sname, nullptr, nullptr, &status), std::free);
  std::string name = readable ? readable.get() : found.dli_sname;
  name.resize(std::min(name.find('<'), name.find('(')));  // npos is the largest number
  name.erase(0, name.find_last_of(": ") + 1);
  return name;
}

class Machine {
 public:
  static Machine& get() {
    static Machine machine;
    return machine;
  }

  Dim3 thread_index, block_index, block_size, grid_size;
  Order order = Order::kAscending;
  Counters counters;
  std::map<const void*, Counters> by_kernel;  // of the kernels that were launched with `function`

  void launch(unsigned blocks, unsigned threads, const std::function<void()>& kernel,
              const void* function = nullptr) {
    const Counters before = counters;
    ++counters.launches;
    grid_size = {blocks, 1, 1};
    block_size = {threads, 1, 1};
    for (unsigned block = 0; block < blocks; ++block) {
      block_index = {order == Order::kDescending ? blocks - 1 - block : block, 0, 0};
      run_block(threads, kernel);
    }
    Counters& of_kernel = by_kernel[function];
    ++of_kernel.launches;
    of_kernel.bytes_read += counters.bytes_read - before.bytes_read;
    of_kernel.bytes_written += counters.bytes_written - before.bytes_written;
  }
  void count_anew() {
    counters = {};
    by_kernel.clear();
  }

  // What a thread calls.
  void block_barrier() { wait(State::kAtBarrier); }

  // Every lane of a warp that still runs must come; gives the value of the lane `from`.
  template <typename V>
  V shuffle(V value, unsigned from) {
    static_assert(sizeof(V) <= 16);
    Fiber& self = *fibers_[current_];
    std::memcpy(self.slot, &value, sizeof(V));
    wait(State::kAtWarp);
    V result = value;
    const unsigned first = current_ / 32 * 32;
    if (from < 32 && first + from < running_) {
      std::memcpy(&result, fibers_[first + from]->slot, sizeof(V));
    }
    wait(State::kAtWarp);
    return result;
  }
  unsigned lane() const { return current_ % 32; }

 private:
  enum class State { kReady, kAtBarrier, kAtWarp, kDone };
  struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(std::size_t{128} << 10);
    State state = State::kReady;
    alignas(16) char slot[16];
    void* sanitizer = nullptr;  // what it keeps of a fiber that waits
  };

  // From one stack to the other; the sanitizer must know which.
  void to_fiber(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler_sanitizer_, fiber.stack.data(), fiber.stack.size());
    swapcontext(&scheduler_, &fiber.context);
    __sanitizer_finish_switch_fiber(scheduler_sanitizer_, nullptr, nullptr);
#else
    swapcontext(&scheduler_, &fiber.context);
#endif
  }
  void arrived_in_fiber([[maybe_unused]] void* sanitizer) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(sanitizer, &scheduler_stack_, &scheduler_stack_size_);
#endif
  }
  void to_scheduler(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
    const bool over = fiber.state == State::kDone;
    __sanitizer_start_switch_fiber(over ? nullptr : &fiber.sanitizer, scheduler_stack_,
                                   scheduler_stack_size_);
#endif
    swapcontext(&fiber.context, &scheduler_);
    arrived_in_fiber(fiber.sanitizer);
  }

  static void entry() {
    Machine& machine = get();
    machine.arrived_in_fiber(nullptr);
    try {
      (*machine.kernel_)();
    } catch (const std::exception& error) {
      machine.error_ = error.what();
    }
    machine.fibers_[machine.current_]->state = State::kDone;
    machine.to_scheduler(*machine.fibers_[machine.current_]);
  }

  void wait(State state) {
    Fiber& self = *fibers_[current_];
    self.state = state;
    to_scheduler(self);
  }

  void resume(unsigned k) {
    current_ = k;
    thread_index = {k, 0, 0};
    fibers_[k]->state = State::kReady;
    to_fiber(*fibers_[k]);
  }

  bool all(unsigned begin, unsigned end, State state) const {
    for (unsigned k = begin; k < end; ++k) {
      if (fibers_[k]->state != state && fibers_[k]->state != State::kDone) return false;
    }
    return true;
  }

  // A function of its own: the compiler takes it for one that returns twice.
  __attribute__((noinline)) static void prepare(Fiber& fiber) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    fiber.state = State::kReady;
    makecontext(&fiber.context, &Machine::entry, 0);
#if defined(__SANITIZE_ADDRESS__)
    // A fiber that was given up left marks of its variables.
    __asan_unpoison_memory_region(fiber.stack.data(), fiber.stack.size());
    fiber.context.uc_stack.ss_size = 0;  // else swapcontext does that at every switch
#endif
  }

  void run_block(unsigned threads, const std::function<void()>& kernel) {
    while (fibers_.size() < threads) fibers_.push_back(std::make_unique<Fiber>());
    kernel_ = &kernel;
    running_ = threads;
    error_.clear();
    std::vector<unsigned> turns(threads);
    for (unsigned k = 0; k < threads; ++k) turns[k] = k;
    for (unsigned k = 0; k < threads; ++k) {
      prepare(*fibers_[k]);
    }
    while (true) {
      if (order == Order::kDescending) std::sort(turns.rbegin(), turns.rend());
      if (order == Order::kShuffled) std::shuffle(turns.begin(), turns.end(), random_);
      bool moved = false;
      for (const unsigned k : turns) {
        if (fibers_[k]->state != State::kReady) continue;
        resume(k);
        moved = true;
        if (!error_.empty()) throw std::runtime_error("a kernel threw: " + error_);
      }
      if (all(0, threads, State::kDone)) return;
      // A warp's shuffle needs its lanes alone; a barrier needs all threads, none of them gone.
      for (unsigned first = 0; first < threads; first += 32) {
        const unsigned end = std::min(threads, first + 32);
        bool any = false;
        for (unsigned k = first; k < end; ++k) any = any || fibers_[k]->state == State::kAtWarp;
        if (!any || !all(first, end, State::kAtWarp)) continue;
        for (unsigned k = first; k < end; ++k) {
          if (fibers_[k]->state == State::kAtWarp) fibers_[k]->state = State::kReady;
        }
        moved = true;
      }
      bool barrier = true;
      for (unsigned k = 0; k < threads; ++k) {
        barrier = barrier && fibers_[k]->state == State::kAtBarrier;
      }
      if (barrier) {
        for (unsigned k = 0; k < threads; ++k) fibers_[k]->state = State::kReady;
        moved = true;
      }
      if (!moved) throw std::runtime_error("a barrier was not reached by all threads of a block");
    }
  }

  ucontext_t scheduler_;
#if defined(__SANITIZE_ADDRESS__)
  void* scheduler_sanitizer_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  std::size_t scheduler_stack_size_ = 0;
#endif
  std::vector<std::unique_ptr<Fiber>> fibers_;
  const std::function<void()>* kernel_ = nullptr;
  unsigned current_ = 0, running_ = 0;
  std::string error_;
  std::mt19937 random_{1};
};

}  // namespace ptyle::emulator

#define threadIdx (::ptyle::emulator::Machine::get().thread_index)
#define blockIdx (::ptyle::emulator::Machine::get().block_index)
#define blockDim (::ptyle::emulator::Machine::get().block_size)
#define gridDim (::ptyle::emulator::Machine::get().grid_size)

inline void __syncthreads() { ::ptyle::emulator::Machine::get().block_barrier(); }

template <typename V>
V __shfl_down_sync(unsigned, V value, unsigned delta) {
  auto& machine = ::ptyle::emulator::Machine::get();
  return machine.shuffle(value, machine.lane() + delta);
}

template <typename V>
V atomicAdd(V* to, V value) {
  ::ptyle::emulator::Counters& counters = ::ptyle::emulator::Machine::get().counters;
  counters.bytes_read += static_cast<std::int64_t>(sizeof(V));
  counters.bytes_written += static_cast<std::int64_t>(sizeof(V));
  const V before = *to;
  *to = before + value;
  return before;
}
