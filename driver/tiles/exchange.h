// The four exchanges, behind one interface. Gradients and objects are those of all tiles of this
// rank, [slices, rows, columns] of their frames.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "driver/tiles/decomposition.h"
#include "driver/tiles/ranks.h"

namespace ptyle::driver {

// Of this rank, since the start; without what `Ranks` counts itself.
struct Traffic {
  std::int64_t messages = 0, bytes = 0;
  double pack_seconds = 0.0, wait_seconds = 0.0;
};

class Exchange {
 public:
  virtual ~Exchange() = default;

  // Which positions may be worked on while messages travel: true for those whose window lies in the
  // tile's owned pixels. They neither read halos nor add to them.
  virtual bool overlaps() const = 0;

  // After begin the gradient's halos must not be written, its owned pixels may; after finish the
  // gradient of what the tile updates is complete.
  virtual void begin_gradients(const std::vector<at::Tensor>& gradients) = 0;
  virtual void finish_gradients(const std::vector<at::Tensor>& gradients) = 0;

  // After an update; between the two objects may be read, but for their halos, and not written.
  virtual void begin_objects(const std::vector<at::Tensor>& objects) = 0;
  virtual void finish_objects(const std::vector<at::Tensor>& objects) = 0;

  virtual Traffic traffic() const = 0;
};

// `decomposition` and `ranks` must outlive it.
std::unique_ptr<Exchange> make_exchange(const Decomposition& decomposition, const Ranks& ranks);
// Pixels of a plane that a rank holds packed, for other ranks and from them.
std::int64_t exchange_pixels(const Decomposition& decomposition, std::int64_t rank);

}  // namespace ptyle::driver
