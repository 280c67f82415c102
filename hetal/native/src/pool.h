// Memory for limbs: blocks of one size, carved from large chunks on huge pages and reused for ever.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

namespace hetal {

typedef std::shared_ptr<double> Block;

class Pool : public std::enable_shared_from_this<Pool> {
 public:
  // An odd number of cache lines between blocks keeps equal offsets of different limbs out of the same cache set.
  explicit Pool(size_t words) : stride_((words * 8 + 63) / 64 * 64 + 17 * 64) {}

  ~Pool() {
    for (auto &chunk : chunks_) munmap(chunk.first, chunk.second);
  }

  Block acquire() {
    double *words;
    {
      std::lock_guard<std::mutex> hold(mutex_);
      if (free_.empty()) grow();
      words = free_.back();
      free_.pop_back();
    }
    auto self = shared_from_this();
    return Block(words, [self](double *back) {
      std::lock_guard<std::mutex> hold(self->mutex_);
      self->free_.push_back(back);
    });
  }

  size_t bytes() {
    std::lock_guard<std::mutex> hold(mutex_);
    size_t sum = 0;
    for (auto &chunk : chunks_) sum += chunk.second;
    return sum;
  }

 private:
  static constexpr size_t HUGE_PAGE = size_t(2) << 20, CHUNK = size_t(32) << 20;

  void grow() {
    const size_t want = stride_ > CHUNK / 8 ? (8 * stride_ + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE
                                            : (blocks_ < 64 ? HUGE_PAGE : CHUNK);
    void *memory = mmap(nullptr, want + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    chunks_.emplace_back(memory, want + HUGE_PAGE);
    char *begin = (char *)(((size_t)memory + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    madvise(begin, want, MADV_HUGEPAGE);
    for (char *at = begin + (want / stride_ - 1) * stride_; at >= begin; at -= stride_) {
      free_.push_back((double *)at);
      ++blocks_;
    }
  }

  size_t stride_, blocks_ = 0;
  std::mutex mutex_;
  std::vector<double *> free_;
  std::vector<std::pair<void *, size_t>> chunks_;
};

}  // namespace hetal
