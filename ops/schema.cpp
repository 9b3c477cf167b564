// The operators of ptyle as torch sees them. Words, shapes and conventions: ops/README.md.
#include <torch/library.h>

TORCH_LIBRARY(ptyle, library) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};

  // object [slices, rows, columns], probe [modes, h, w], positions [n, 2] -> [n, modes, h, w]
  library.def(
      "exit_waves(Tensor object, Tensor probe, Tensor positions, Tensor? propagator=None, *, "
      "SymInt[2] origin=[0, 0]) -> Tensor",
      tags);
  library.def(
      "exit_waves_backward(Tensor gradient, Tensor object, Tensor probe, Tensor positions, "
      "Tensor? propagator, *, SymInt[2] origin, bool[4] needs) -> (Tensor, Tensor, Tensor, Tensor)",
      tags);

  // -> [n, h, w]
  library.def(
      "diffraction(Tensor object, Tensor probe, Tensor positions, Tensor? propagator=None, *, "
      "SymInt[2] origin=[0, 0], Tensor? detector=None) -> Tensor",
      tags);
  library.def(
      "diffraction_backward(Tensor gradient, Tensor object, Tensor probe, Tensor positions, "
      "Tensor? propagator, *, SymInt[2] origin, Tensor? detector, bool[4] needs) -> (Tensor, "
      "Tensor, Tensor, Tensor)",
      tags);

  // patterns [n, h, w] -> loss [], losses [n]
  library.def(
      "diffraction_loss(Tensor object, Tensor probe, Tensor positions, Tensor? propagator, Tensor "
      "patterns, *, Tensor? weights=None, Tensor? mask=None, Tensor? background=None, str "
      "likelihood=\"amplitude\", SymInt[2] origin=[0, 0], Tensor? detector=None) -> (Tensor loss, "
      "Tensor losses)",
      tags);
  library.def(
      "diffraction_loss_gradients(Tensor object, Tensor probe, Tensor positions, Tensor? "
      "propagator, Tensor patterns, *, Tensor? weights=None, Tensor? mask=None, Tensor? "
      "background=None, str likelihood=\"amplitude\", SymInt[2] origin=[0, 0], Tensor? "
      "detector=None, bool[4] needs) -> (Tensor loss, Tensor losses, Tensor g_object, Tensor "
      "g_probe, Tensor g_positions, Tensor g_propagator)",
      tags);
  library.def(
      "diffraction_loss_accumulate_(Tensor object, Tensor probe, Tensor positions, Tensor? "
      "propagator, Tensor patterns, *, Tensor? weights=None, Tensor? mask=None, Tensor? "
      "background=None, str likelihood=\"amplitude\", SymInt[2] origin=[0, 0], Tensor? "
      "detector=None, Tensor(a!)? grad_object, Tensor(b!)? grad_probe, Tensor(c!)? "
      "grad_positions, Tensor(d!)? grad_propagator, Tensor(e!) losses, Tensor(f!)? "
      "illumination=None, "
      "Tensor(g!)? amplitude_errors=None) -> ()",
      tags);

  // object [slices, rows, columns] -> [n, slices, h, w], interpolated between whole pixels.
  // derivative: how often with respect to each position's row and column.
  library.def(
      "extract_patches(Tensor object, Tensor positions, SymInt[2] window, *, SymInt[2] origin=[0, "
      "0], float outside=0., int[2] derivative=[0, 0]) -> Tensor",
      tags);
  // The adjoint: patches [n, slices, h, w] -> [slices, rows, columns]
  library.def(
      "add_patches(Tensor patches, Tensor positions, SymInt[2] shape, *, SymInt[2] origin=[0, 0], "
      "int[2] derivative=[0, 0]) -> Tensor",
      tags);

  // -> [rows, columns]
  library.def(
      "illumination(Tensor probe, Tensor positions, SymInt[2] shape, *, SymInt[2] origin=[0, 0]) "
      "-> Tensor",
      tags);

  // Which CPU kernels work on a window: "fused v4"
  library.def("cpu_kernels(int height, int width) -> str", tags);
  // The nearest number without prime factors but 2, 3 and 5
  library.def("good_size(int size, *, bool down=False) -> int", tags);

  // Tiles of a grid over the object: owned [slices, rows, columns] of this rank's tiles, ascending
  // -> extended ones, halos filled from their owners. owners: the rank of every tile.
  library.def(
      "halo_insert(Tensor[] owned, int[] row_cuts, int[] column_cuts, int[2] halo, int[] owners, "
      "*, "
      "str group=\"\") -> Tensor[]",
      tags);
  // The adjoint: halos are added to their owners.
  library.def(
      "halo_add(Tensor[] extended, int[] row_cuts, int[] column_cuts, int[2] halo, int[] owners, "
      "*, "
      "str group=\"\") -> Tensor[]",
      tags);
}
