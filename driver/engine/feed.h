// Patterns for the operators, block by block, where they compute.
#pragma once

#include <deque>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include "driver/io/problem.h"

namespace ptyle::driver {

class Feed {
 public:
  // `problem` must outlive it.
  Feed(const Problem& problem, const at::Device& device);

  // What will be taken next, the very tensors, in this order; and that it will not.
  void expect(const std::vector<at::Tensor>& rows);
  void forget();
  // The patterns of some rows of Problem::held, with the mask of bad pixels where there is one. On
  // the CPU safe on any thread. To a device the block after it is copied ahead, from pinned memory
  // on a stream of its own; at most two blocks are worked on at a time.
  PatternBlock take(const at::Tensor& rows);

 private:
  struct Copied {
    at::Tensor rows;
    PatternBlock block;
    c10::Event arrived;
  };
  PatternBlock on_host(const at::Tensor& rows) const;
  Copied copy(const at::Tensor& rows) const;

  const Problem& problem_;
  at::Device device_;
  std::optional<at::Tensor> mask_;  // [h, w] on the device
  std::optional<c10::Stream> copies_;
  std::deque<at::Tensor> expected_;
  std::optional<Copied> next_;
  std::optional<c10::Event> before_;  // when the block before the last was done with
};

}  // namespace ptyle::driver
