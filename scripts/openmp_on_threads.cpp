// The few entry points of an OpenMP run time that gcc's code for the engine calls, on std::thread: ThreadSanitizer sees
// what it does, which it does not of libgomp. For scripts/sanitize.sh alone: one loop a region, no nesting, no pool.
#include <mutex>
#include <thread>
#include <vector>

namespace {

struct Team {
  int size;
  std::mutex mutex;
  bool open = false;
  long next = 0, end = 0, step = 1;
};

thread_local Team *team = nullptr;
thread_local int number = 0;

bool take(long chunk, long *begin, long *end) {
  std::lock_guard<std::mutex> hold(team->mutex);
  if ((team->end - team->next) * team->step <= 0) return false;
  *begin = team->next;
  const long last = team->next + chunk * team->step;
  *end = (last - team->end) * team->step > 0 ? team->end : last;
  team->next = *end;
  return true;
}

}  // namespace

extern "C" {

void GOMP_parallel(void (*work)(void *), void *data, unsigned threads, unsigned) {
  Team mine;
  mine.size = threads ? threads : 1;
  auto run = [&](int i) {
    Team *outer = team;
    const int outer_number = number;
    team = &mine;
    number = i;
    work(data);
    team = outer;
    number = outer_number;
  };
  std::vector<std::thread> others;
  for (int i = 1; i < mine.size; ++i) others.emplace_back(run, i);
  run(0);
  for (auto &thread : others) thread.join();
}

// Only chunks of one are asked for.
bool GOMP_loop_nonmonotonic_dynamic_next(long *begin, long *end) { return take(1, begin, end); }

bool GOMP_loop_nonmonotonic_dynamic_start(long begin, long end, long step, long, long *chunk_begin, long *chunk_end) {
  {
    std::lock_guard<std::mutex> hold(team->mutex);
    if (!team->open) {
      team->open = true;
      team->next = begin;
      team->end = end;
      team->step = step;
    }
  }
  return take(1, chunk_begin, chunk_end);
}

void GOMP_loop_end_nowait(void) {}

int omp_get_thread_num(void) { return number; }
int omp_get_num_threads(void) { return team ? team->size : 1; }
}
