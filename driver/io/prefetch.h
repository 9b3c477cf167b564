// Reads ahead, in one thread of its own, what is known to be asked for next.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <list>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace ptyle::driver {

// Request: what tells one reading from another (==, copyable). `read` is called by one thread at a
// time; what it throws is thrown by the `take` of that request.
template <typename Request, typename Result>
class Prefetch {
 public:
  // ahead: how many results may lie ready, at least 1. begin: what the thread does first.
  Prefetch(
      std::function<Result(const Request&)> read, std::size_t ahead,
      std::function<void()> begin = [] {})
      : read_(std::move(read)), ahead_(ahead), thread_([this, begin = std::move(begin)] {
          begin();
          work();
        }) {}
  Prefetch(const Prefetch&) = delete;
  Prefetch& operator=(const Prefetch&) = delete;
  ~Prefetch() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
      expected_.clear();
    }
    changed_.notify_all();
    thread_.join();
  }

  // These will be taken next, roughly in this order, after what is expected already.
  void expect(const std::vector<Request>& requests) {
    {
      const std::lock_guard lock(mutex_);
      expected_.insert(expected_.end(), requests.begin(), requests.end());
    }
    changed_.notify_all();
  }

  // From any thread. What nobody expected is read here and now.
  Result take(const Request& request) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !(reading_ == request); });
    const auto ready = std::find_if(ready_.begin(), ready_.end(),
                                    [&](const Ready& one) { return one.request == request; });
    if (ready != ready_.end()) {
      Ready one = std::move(*ready);
      ready_.erase(ready);
      lock.unlock();
      changed_.notify_all();
      if (one.error) std::rethrow_exception(one.error);
      return std::move(*one.result);
    }
    const auto expected = std::find(expected_.begin(), expected_.end(), request);
    if (expected != expected_.end()) expected_.erase(expected);
    lock.unlock();
    const std::lock_guard one_reader(reader_);
    return read_(request);
  }

  // Nothing of what is expected will be taken. Nothing is being read when this returns.
  void forget() {
    std::unique_lock lock(mutex_);
    expected_.clear();
    changed_.wait(lock, [&] { return !reading_; });
    ready_.clear();
  }

 private:
  struct Ready {
    Request request;
    std::optional<Result> result;
    std::exception_ptr error;
  };

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return over_ || (!expected_.empty() && ready_.size() < ahead_); });
      if (over_) return;
      reading_ = expected_.front();
      expected_.pop_front();
      Ready one{*reading_, std::nullopt, nullptr};
      lock.unlock();
      try {
        const std::lock_guard one_reader(reader_);
        one.result = read_(one.request);
      } catch (...) {
        one.error = std::current_exception();
      }
      lock.lock();
      ready_.push_back(std::move(one));
      reading_.reset();
      changed_.notify_all();
    }
  }

  std::function<Result(const Request&)> read_;
  std::size_t ahead_;
  std::mutex mutex_, reader_;
  std::condition_variable changed_;
  std::deque<Request> expected_;
  std::optional<Request> reading_;
  std::list<Ready> ready_;
  bool over_ = false;
  std::thread thread_;  // the last member: it uses the others
};

}  // namespace ptyle::driver
