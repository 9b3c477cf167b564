// The bodies of the CUDA kernels beside the multislice model: windows, moves between tiles, sums.
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

// The emulator says what the kernels' words mean: it comes first.
// clang-format off
#include "tests/emulator/cuda_emulator.h"
#include "csrc/cuda/updates.cuh"
#include "csrc/cuda/windows.cuh"
// clang-format on

namespace ptyle {
namespace {

using emulator::Machine;
using emulator::Order;
using C = Complex<float>;

constexpr Order kOrders[] = {Order::kAscending, Order::kDescending, Order::kShuffled};

size_t at(int64_t k) { return static_cast<size_t>(k); }
// Sums of them depend on the order in which they are added.
float number(int64_t k) { return static_cast<float>(k % 101) / 7.0f; }

std::vector<C> numbers(int64_t count) {
  std::vector<C> made;
  for (int64_t k = 0; k < count; ++k) made.push_back({number(k), number(3 * k + 1)});
  return made;
}
void expect_same_bits(const std::vector<C>& a, const std::vector<C>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t k = 0; k < a.size(); ++k) {
    ASSERT_TRUE(a[k].re == b[k].re && a[k].im == b[k].im) << "entry " << k;
  }
}

struct Scan {
  std::vector<int64_t> corners;
  cuda::Windows windows;
};
// Some windows hang over the edges, some lie outside.
Scan scan(int64_t count, int64_t height, int64_t width, int64_t rows, int64_t columns) {
  Scan made;
  for (int64_t n = 0; n < count; ++n) {
    made.corners.push_back(n * 7 % (rows + 2 * height) - height - 1);
    made.corners.push_back(n * 11 % (columns + 2 * width) - width - 1);
  }
  made.windows = {made.corners.data(), count, height, width, rows, columns};
  return made;
}

template <typename Visit>
void for_each_pixel(const Scan& scan, int64_t planes, const Visit& visit) {
  const cuda::Windows& w = scan.windows;
  for (int64_t n = 0; n < w.count; ++n) {
    for (int64_t plane = 0; plane < planes; ++plane) {
      for (int64_t i = 0; i < w.height * w.width; ++i) {
        const int64_t row = scan.corners[at(2 * n)] + i / w.width;
        const int64_t column = scan.corners[at(2 * n + 1)] + i % w.width;
        const bool inside = row >= 0 && row < w.rows && column >= 0 && column < w.columns;
        visit((n * planes + plane) * w.height * w.width + i,
              inside ? (plane * w.rows + row) * w.columns + column : -1);
      }
    }
  }
}

// More windows than a block has threads; images of one pixel, of parts of a block and of several.
const int64_t kScans[][5] = {
    {300, 5, 4, 19, 70}, {256, 3, 3, 8, 32}, {7, 9, 40, 3, 4}, {1, 1, 1, 1, 1}, {0, 2, 2, 9, 9}};

TEST(EmulatedArrays, WindowsAreAddedInOrder) {
  for (const auto& [count, height, width, rows, columns] : kScans) {
    const Scan s = scan(count, height, width, rows, columns);
    for (const int64_t planes : {1, 2}) {
      const std::vector<C> patches = numbers(count * planes * height * width);
      std::vector<C> expected = numbers(planes * rows * columns);
      for_each_pixel(s, planes, [&](int64_t from, int64_t to) {
        if (to >= 0) expected[at(to)] += patches[at(from)];
      });
      for (const Order order : kOrders) {
        Machine::get().order = order;
        std::vector<C> sums = numbers(planes * rows * columns);
        Machine::get().launch(2, cuda::kBlockThreads, [&] {
          cuda::add_windows<C>(s.windows, patches.data(), planes * height * width, planes,
                               sums.data());
        });
        expect_same_bits(sums, expected);
      }
    }
  }
}

// fractions [count, 2], some of them 0; as many weights as they have.
struct Between {
  explicit Between(int64_t count) : fractions(at(2 * count)), weights(at(count * 2 * kTaps)) {
    for (size_t i = 0; i < fractions.size(); ++i) {
      fractions[i] = i % 3 == 0 ? 0.0 : static_cast<double>(i * 37 % 100) / 100;
    }
    Machine::get().launch(
        2, 64, [&] { cuda::fill_weights<float>(count, fractions.data(), 0, 0, weights.data()); });
  }
  float weight(int64_t n, int64_t axis, int64_t tap) const {
    return weights[at((2 * n + axis) * kTaps + tap)];
  }
  static constexpr int64_t kTaps = kInterpolationTaps;
  std::vector<double> fractions;
  std::vector<float> weights;
};

TEST(EmulatedArrays, WindowsBetweenPixelsAreTakenAndSpread) {
  for (const auto& [count, height, width, rows, columns] : kScans) {
    if (count > 10) continue;  // 144 taps a pixel, by fibers
    const Scan s = scan(count, height, width, rows, columns);
    const Between between(count);
    const int64_t planes = 2, pixels = height * width;
    const std::vector<C> image = numbers(planes * rows * columns);
    const std::vector<C> patches = numbers(count * planes * pixels);
    const C outside{1, 0};
    std::vector<C> taken(patches.size()), expected_taken(patches.size());
    std::vector<C> sums(image.size()), expected_sums(image.size());
    std::vector<int64_t> first_corners = s.corners;
    for (int64_t& corner : first_corners) corner -= kInterpolationBefore;
    for (int64_t i = 0; i < count * planes * pixels; ++i) {
      const int64_t n = i / (planes * pixels), plane = i / pixels % planes;
      for (int64_t k = 0; k < Between::kTaps; ++k) {
        for (int64_t l = 0; l < Between::kTaps; ++l) {
          const float weight = between.weight(n, 0, k) * between.weight(n, 1, l);
          const int64_t y = first_corners[at(2 * n)] + i % pixels / width + k;
          const int64_t x = first_corners[at(2 * n + 1)] + i % width + l;
          const bool inside = y >= 0 && y < rows && x >= 0 && x < columns;
          const size_t there = at((plane * rows + y) * columns + x);
          expected_taken[at(i)] += weight * (inside ? image[there] : outside);
          if (inside) expected_sums[there] += weight * patches[at(i)];
        }
      }
    }
    Machine::get().launch(3, 64, [&] {
      cuda::take_windows<C, float>(s.windows, image.data(), planes, between.weights.data(), outside,
                                   taken.data());
    });
    Machine::get().launch(2, cuda::kBlockThreads, [&] {
      cuda::spread_windows<C, float>(s.windows, patches.data(), planes, between.weights.data(),
                                     first_corners.data(), sums.data());
    });
    const auto expect_near = [](const std::vector<C>& a, const std::vector<C>& b) {
      for (size_t i = 0; i < a.size(); ++i) {
        EXPECT_NEAR(a[i].re, b[i].re, 1e-3);
        EXPECT_NEAR(a[i].im, b[i].im, 1e-3);
      }
    };
    expect_near(taken, expected_taken);
    expect_near(sums, expected_sums);
  }
}

// Two tensors [2, 6, 9] with rows of 9, into which parts of [2, 5, 7] go; the parts overlap.
struct Moves {
  std::vector<C> from = numbers(2 * 5 * 7), first = numbers(2 * 6 * 9), second = numbers(2 * 6 * 9);
  std::vector<Move> moves;
  int64_t elements = 0;

  void add(std::vector<C>& to, int64_t begin, int64_t end, int64_t row, int64_t column,
           int64_t rows, int64_t columns) {
    moves.push_back({from.data() + 1, to.data(), 35, 7, 54, 9, row, column, rows, columns, elements,
                     begin, end});
    elements += rows * columns;
  }
  Moves(bool overlapping) {
    add(first, 0, 3, 0, 0, 3, 4);
    add(first, 0, 3, overlapping ? 2 : 3, 0, 2, 5);
    add(first, 0, 3, overlapping ? 1 : 5, overlapping ? 3 : 6, 1, 3);
    add(second, 3, 5, 0, 8, 4, 1);
    add(second, 3, 5, overlapping ? 0 : 4, 4, 2, 5);
  }
  void run_plainly(bool adding) {
    for (const Move& move : moves) {
      for (int64_t slice = 0; slice < 2; ++slice) {
        for (int64_t i = 0; i < move.rows * move.columns; ++i) {
          const int64_t y = i / move.columns, x = i % move.columns;
          const C value = static_cast<const C*>(move.from)[slice * 35 + y * 7 + x];
          C& to = static_cast<C*>(move.to)[slice * 54 + (move.row + y) * 9 + move.column + x];
          to = adding ? to + value : value;
        }
      }
    }
  }
};

TEST(EmulatedArrays, PiecesAreCopiedAndAddedInOrder) {
  for (const bool adding : {false, true}) {
    Moves expected(adding);
    expected.run_plainly(adding);
    for (const Order order : kOrders) {
      Machine::get().order = order;
      Moves found(adding);
      Machine::get().launch(2, 32, [&] {
        cuda::move_pieces<C>(found.moves.data(), static_cast<int64_t>(found.moves.size()),
                             found.elements, 2, adding);
      });
      expect_same_bits(found.first, expected.first);
      expect_same_bits(found.second, expected.second);
    }
  }
}

TEST(EmulatedArrays, RowsAreSummed) {
  for (const int64_t columns : {0, 1, 255, 700}) {
    const ImageSize size{2, 3, columns};
    const std::vector<C> a = numbers(6 * columns), b = numbers(6 * columns + 5);
    const InnerProduct<float> term{{a.data(), 3 * columns, columns},
                                   {b.data() + 5, 3 * columns, columns}};
    std::vector<std::vector<double>> results;
    for (const Order order : kOrders) {
      Machine::get().order = order;
      std::vector<double> sums(6, -1.0);
      Machine::get().launch(4, cuda::kBlockThreads,
                            [&] { cuda::sum_rows(size, term, sums.data()); });
      results.push_back(sums);
    }
    EXPECT_EQ(results[0], results[1]);
    EXPECT_EQ(results[0], results[2]);
    for (int64_t line = 0; line < 6; ++line) {
      double expected = 0;
      for (int64_t x = 0; x < columns; ++x) expected += term(line / 3, line % 3, x);
      EXPECT_NEAR(results[0][at(line)], expected, 1e-12 * (1 + expected));
    }
  }
}

TEST(EmulatedArrays, UpdatesReachEveryElementOnce) {
  const ImageSize size{2, 5, 31};
  const std::vector<C> x = numbers(2 * 5 * 40), before = numbers(2 * 5 * 31);
  std::vector<C> y = before;
  const AddScaled<float> formula{{y.data(), 5 * 31, 31}, {x.data(), 5 * 40, 40}, 0.5f};
  Machine::get().launch(2, 64, [&] { cuda::update(size, formula); });
  std::vector<C> expected = before;
  for (int64_t i = 0; i < 2 * 5 * 31; ++i) {
    expected[at(i)] += 0.5f * x[at(i / 31 * 40 + i % 31)];
  }
  expect_same_bits(y, expected);
}

}  // namespace
}  // namespace ptyle
