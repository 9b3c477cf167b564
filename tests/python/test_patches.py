"""extract_patches and add_patches: an adjoint pair, against plain torch."""

import ptyle
import pytest
import torch
from conftest import make_problem
from ptyle import reference

TYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]


def problem(dtype, n=9, slices=3, rows=11, columns=9, window=(4, 5)):
    generator = torch.Generator().manual_seed(n)
    image = torch.randn(slices, rows, columns, dtype=dtype, generator=generator)
    patches = torch.randn(n, slices, *window, dtype=dtype, generator=generator)
    # some windows hang over an edge, some lie wholly outside
    positions = torch.randint(-7, 14, (n, 2), generator=generator).double()
    return image, patches, positions


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n,slices", [(9, 3), (1, 1), (0, 2), (5, 0)])
def test_they_are_the_reference(dtype, n, slices):
    image, patches, positions = problem(dtype, n, slices)
    extracted = ptyle.extract_patches(image, positions, (4, 5), origin=(1, -2))
    assert extracted.shape == (n, slices, 4, 5) and extracted.dtype == dtype
    if slices:
        expected = reference.extract_patches(image, positions, (4, 5), origin=(1, -2))
        assert torch.equal(extracted, expected)
    added = ptyle.add_patches(patches, positions, (11, 9), origin=(1, -2))
    expected = reference.add_patches(patches, positions, (11, 9), origin=(1, -2))
    torch.testing.assert_close(added, expected)


def between(positions):
    """Some of them on whole pixels still, some along one axis."""
    fractions = torch.rand(positions.shape, generator=torch.Generator().manual_seed(3)).double()
    fractions[::3] = 0
    fractions[1::4, 0] = 0
    return positions + fractions


@pytest.mark.parametrize("dtype", TYPES)
def test_between_pixels_they_are_the_reference(dtype):
    image, patches, positions = problem(dtype)
    positions = between(positions)
    tolerance = 1e-5 if dtype.to_real() == torch.float32 else 1e-13
    extracted = ptyle.extract_patches(image, positions, (4, 5), origin=(1, -2), outside=1.0)
    expected = reference.extract_patches(image, positions, (4, 5), origin=(1, -2), outside=1.0)
    torch.testing.assert_close(extracted, expected, rtol=0, atol=20 * tolerance)
    added = ptyle.add_patches(patches, positions, (11, 9), origin=(1, -2))
    expected = reference.add_patches(patches, positions, (11, 9), origin=(1, -2))
    torch.testing.assert_close(added, expected, rtol=0, atol=20 * tolerance)


@pytest.mark.parametrize("move", [torch.Tensor.clone, between])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("derivative", [(0, 0), (1, 0), (2, 1)])
def test_each_is_the_others_adjoint(dtype, move, derivative):
    image, patches, positions = problem(dtype)
    positions = move(positions)
    ops = torch.ops.ptyle
    taken = ops.extract_patches(image, positions, [4, 5], derivative=derivative)
    added = ops.add_patches(patches, positions, [11, 9], derivative=derivative)
    left, right = (taken.conj() * patches).sum(), (image.conj() * added).sum()
    # rounding errors of an inner product scale with the norms
    assert taken.norm() > 0.1
    assert (left - right).abs() <= 1e-13 * taken.norm() * patches.norm()


def test_a_wave_is_moved_as_by_its_phase():
    """Against the shift theorem, on a wave that no window could hold; errors as documented."""
    rows = torch.arange(60, dtype=torch.double)[:, None]
    columns = torch.arange(64, dtype=torch.double)
    positions = torch.tensor([[20.5, 21.5], [20.3, 30.0], [11.0, 12.9]], dtype=torch.double)
    for frequency, error in ((0.125, 2e-6), (0.25, 5e-3)):  # of the Nyquist frequency: 1/4, 1/2
        for k in ((frequency, 0.0), (0.0, frequency)):
            wave = torch.exp(2j * torch.pi * (k[0] * rows + k[1] * columns))
            patches = ptyle.extract_patches(wave[None], positions, (9, 8))[:, 0]
            y = positions[:, 0, None, None] + torch.arange(9)[:, None]
            x = positions[:, 1, None, None] + torch.arange(8)
            expected = torch.exp(2j * torch.pi * (k[0] * y + k[1] * x))
            assert (patches - expected).abs().max() < 1.3 * error


def test_vacuum_stays_vacuum_and_whole_pixels_are_the_pixels_themselves():
    positions = between(torch.tensor([[-9.0, 2.0], [3.0, -30.0], [2.0, 40.0], [3.0, 3.0]]).double())
    ones = ptyle.extract_patches(torch.ones(2, 8, 9), positions, (6, 7), outside=1.0)
    torch.testing.assert_close(ones, torch.ones(4, 2, 6, 7), rtol=0, atol=1e-6)
    image = torch.randn(1, 8, 9)
    image[0, 2, 2] = torch.nan  # a neighbour of weight 0 is not looked at
    there = ptyle.extract_patches(image, torch.tensor([[3.0, 3.0]]).double(), (4, 4))
    assert torch.equal(there[0, 0], image[0, 3:7, 3:7])


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_derivatives(dtype):
    image, patches, positions = problem(dtype)
    whole, positions = positions, positions + 0.1 + 0.8 * torch.rand(positions.shape).double()
    for function, leaf, size in (
        (ptyle.extract_patches, image, (4, 5)),
        (ptyle.add_patches, patches, (11, 9)),
    ):
        leaf.requires_grad_()

        def squared(x, p=whole, function=function, size=size):
            return function(x, p, size) ** 2

        assert torch.autograd.gradcheck(squared, leaf, fast_mode=True)
        assert torch.autograd.gradgradcheck(squared, leaf, fast_mode=True)
        both = (leaf, positions.requires_grad_())
        assert torch.autograd.gradcheck(squared, both, fast_mode=True)
        assert torch.autograd.gradgradcheck(squared, both, fast_mode=True)


def test_a_stack_of_windows_is_what_the_operators_take():
    """The probe at rest on moved patches, |F (P O_moved)|^2, and gradients by the chain rule."""
    obj, probe, positions, _, _ = make_problem(slices=1, real_object=True)
    obj.requires_grad_(), positions.requires_grad_()
    patches = ptyle.extract_patches(obj, positions, probe.shape[1:])
    intensity = ptyle.diffraction(*put(ptyle.window_stack(patches), probe))
    exit_waves = probe * torch.polar(torch.ones_like(patches), patches)
    expected = torch.fft.fft2(exit_waves, norm="ortho").abs().square().sum(1)
    torch.testing.assert_close(intensity, expected)
    ours = torch.autograd.grad(intensity.sqrt().sum(), (obj, positions), retain_graph=True)
    plain = torch.autograd.grad(expected.sqrt().sum(), (obj, positions))
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)


def put(stack, probe):
    windows, corners = stack
    return windows, probe, corners


@pytest.mark.parametrize("gradient", [False, True])
def test_opcheck(gradient):
    image, patches, positions = problem(torch.complex64)
    image.requires_grad_(gradient)
    patches.requires_grad_(gradient)
    torch.library.opcheck(torch.ops.ptyle.extract_patches.default, (image, positions, [4, 5]))
    torch.library.opcheck(
        torch.ops.ptyle.add_patches.default, (patches, positions, [11, 9]), dict(origin=[1, 2])
    )


def test_the_bits_do_not_depend_on_the_number_of_threads():
    patches = torch.randn(400, 2, 32, 32)
    positions = torch.randint(-5, 90, (400, 2)).double()
    threads = torch.get_num_threads()
    sums = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        sums.append(ptyle.add_patches(patches, positions, (100, 99)))
    torch.set_num_threads(threads)
    assert torch.equal(sums[0], sums[1]) and torch.equal(sums[0], sums[2])


def test_one_slice_of_exit_waves_is_probe_times_patch():
    obj, probe, positions, _, _ = make_problem(slices=1, whole_pixels=True)
    inside = ptyle.extract_patches(torch.ones_like(obj), positions, probe.shape[1:])
    patch = ptyle.extract_patches(obj, positions, probe.shape[1:]) + (1 - inside)
    torch.testing.assert_close(ptyle.exit_waves(obj, probe, positions), probe * patch)


def test_errors():
    image, patches, positions = problem(torch.float32)
    with pytest.raises(ValueError, match="ptyle::add_patches: positions must be finite"):
        ptyle.add_patches(patches, positions / 0, (11, 9))
    with pytest.raises(ValueError, match="derivative must be two numbers of at least 0, got"):
        torch.ops.ptyle.add_patches(patches, positions, [11, 9], derivative=[0, -1])
    with pytest.raises(
        ValueError, match="patches must have as many entries as there are positions"
    ):
        ptyle.add_patches(patches[:2], positions, (11, 9))
    with pytest.raises(TypeError, match="object must be float32, float64, complex64 or complex128"):
        ptyle.extract_patches(image.long(), positions, (4, 5))
    with pytest.raises(ValueError, match="window must not be negative"):
        ptyle.extract_patches(image, positions, (4, -5))
