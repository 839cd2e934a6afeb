// Batches of one call (getppid) repeated: what a round trip and what a call costs. A child that
// sleeps is the task. Run: remote_bench
#include <benchmark/benchmark.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "common/kernel/proc_status.h"
#include "common/remote/remote_task.h"

namespace godwit {
namespace {

class SleepingChild {
 public:
  explicit SleepingChild(std::int64_t threads = 1) : pid_(fork()) {
    if (pid_ != 0) {
      while (static_cast<std::int64_t>(list_threads(pid_).size()) < threads) usleep(1000);
      return;
    }
    for (std::int64_t i = 1; i < threads; ++i) std::thread([] { sleep_on(); }).detach();
    sleep_on();
  }
  ~SleepingChild() {
    ::kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }

 private:
  [[noreturn]] static void sleep_on() {
    for (;;) pause();
  }

  pid_t pid_;
};

void run_batch(benchmark::State& state) {
  const SleepingChild child;
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  SyscallBatch batch;
  for (std::int64_t i = 0; i < state.range(0); ++i) batch.add(SYS_getppid, {});
  task.run(batch);
  for (auto _ : state) benchmark::DoNotOptimize(task.run(batch));
  state.SetItemsProcessed(state.iterations() * state.range(0));
  task.detach();
}
BENCHMARK(run_batch)->Arg(1)->Arg(100)->Arg(10'000)->UseRealTime();

void stop_and_resume(benchmark::State& state) {
  const SleepingChild child(state.range(0));
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  task.resume();
  for (auto _ : state) {
    task.stop();
    task.resume();
  }
  task.detach();
}
BENCHMARK(stop_and_resume)->Arg(1)->Arg(1'000)->UseRealTime();

void stop_run_resume(benchmark::State& state) {
  const SleepingChild child;
  RemoteTask task = RemoteTask::attach(child.pid());
  SyscallBatch batch;
  batch.add(SYS_getppid, {});
  for (auto _ : state) {
    task.stop();
    task.run(batch);
    task.resume();
  }
  task.detach();
}
BENCHMARK(stop_run_resume)->UseRealTime();

}  // namespace
}  // namespace godwit
