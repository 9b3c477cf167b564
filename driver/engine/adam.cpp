// Adam (Kingma & Ba 2015), the second moment of a complex number taken as |g|^2.
#include <string>

#include "driver/engine/optimizer.h"
#include "driver/engine/vectors.h"

namespace ptyle::driver {
namespace {

class Adam final : public Optimizer {
 public:
  using Optimizer::Optimizer;

  void update(State& state, const Evaluation& at, const std::function<Evaluation()>&) override {
    each(state, at, [&](const Unknown& unknown, Values& values, const Slopes& slopes) {
      const std::string& name = unknown.name();
      double& scale = state.numbers["adam_scale_" + name];  // as it started
      if (scale == 0.0) scale = unknown.scale(values);
      const double t = (state.numbers["adam_steps_" + name] += 1);
      for (std::size_t k = 0; k < slopes.gradients.size(); ++k) {
        const at::Tensor x = unknown.updated(values.parts[k], k);
        Memory& memory = values.memory[k];
        const at::Tensor first = tensor_like(memory, "adam_first", x, x.scalar_type());
        const at::Tensor second =
            tensor_like(memory, "adam_second", x, at::toRealValueType(x.scalar_type()));
        adam(x, first, second, slopes.gradients[k],
             unknown.learning_rate() * unknown.step() * scale, static_cast<std::int64_t>(t));
      }
    });
  }

  // Gradients scale inversely to what they belong to.
  void rescale(State& state, const std::string& name, double factor) override {
    for (Memory& memory : state.unknowns.at(name).memory) {
      scale_if_present(memory, "adam_first", 1 / factor);
      scale_if_present(memory, "adam_second", 1 / (factor * factor));
    }
  }
};

}  // namespace

std::unique_ptr<Optimizer> make_adam(const Unknowns& unknowns) {
  return std::make_unique<Adam>(unknowns);
}

}  // namespace ptyle::driver
