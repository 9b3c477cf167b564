// Learned priors from files: TorchScript, or AOTInductor's .pt2, told apart by what is in them.
// Each holds a card that says what it is for (models/README.md).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace ptyle::driver {

// What a model was made for.
struct PriorCard {
  std::string kind;                   // denoiser | regulariser
  std::vector<std::string> channels;  // {"phase"}, {"phase", "amplitude"}, {"real", "imaginary"}
  // Pixels on each side that a pixel's result depends on; -1: all of the image.
  std::int64_t receptive_field = 0;
  double least_noise = 0.0, most_noise = 0.0;     // that a denoiser was trained with
  std::array<std::int64_t, 2> smallest = {1, 1};  // rows and columns that it takes
};

class Prior {
 public:
  Prior(std::string path, PriorCard card) : path_(std::move(path)), card_(std::move(card)) {}
  Prior(const Prior&) = delete;
  Prior& operator=(const Prior&) = delete;
  virtual ~Prior() = default;

  const std::string& path() const { return path_; }
  const PriorCard& card() const { return card_; }
  // Whether gradients flow through it.
  virtual bool differentiable() const = 0;

  // x [n, channels, rows, columns] float32 on its device -> the same shape; noise: the standard
  // deviation in x's units. Safe on any thread. RunError where the model fails, gives another shape
  // or numbers that are not finite.
  at::Tensor denoised(const at::Tensor& x, double noise) const;
  // The energy of every pixel, [n, rows, columns]; of the whole image, [], where its receptive
  // field is all of it. RunError also where no gradient flows to an x that requires one.
  at::Tensor energy(const at::Tensor& x) const;

 protected:
  virtual at::Tensor run(const std::vector<at::Tensor>& inputs) const = 0;

 private:
  at::Tensor checked_run(const std::vector<at::Tensor>& inputs, at::IntArrayRef wanted,
                         bool or_number) const;
  std::string path_;
  PriorCard card_;
};

// ConfigError naming the file where it is no model, has no card or one of another kind, or was
// compiled for a device or processor that is not here.
std::unique_ptr<Prior> load_prior(const std::string& path, const at::Device& device);

}  // namespace ptyle::driver
