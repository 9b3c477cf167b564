// Reads a scripted module that calls ptyle's operators, and patterns that Python saved as uint16;
// the library is in the link line and nowhere in the code.
//
//   loader MODULE.pt        (made by loader.py)
#include <cstdio>
#include <exception>

#include <torch/script.h>

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: loader MODULE.pt\n");
    return 2;
  }
  try {
    torch::jit::Module module = torch::jit::load(argv[1]);
    // uint16 in the file as in Python: a module's attributes keep every type
    const torch::Tensor patterns = module.attr("patterns").toTensor();
    const double loss = module.forward({patterns}).toTensor().item<double>();
    const double expected = module.attr("expected").toTensor().item<double>();
    std::printf("loss %.9g, in Python %.9g; patterns %s\n", loss, expected,
                c10::toString(patterns.scalar_type()));
    return loss == expected && patterns.scalar_type() == torch::kUInt16 ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
