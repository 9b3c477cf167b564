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


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_each_is_the_others_adjoint(dtype):
    image, patches, positions = problem(dtype)
    left = (ptyle.extract_patches(image, positions, (4, 5)).conj() * patches).sum()
    right = (image.conj() * ptyle.add_patches(patches, positions, (11, 9))).sum()
    # rounding errors of an inner product scale with the norms
    assert (left - right).abs() <= 1e-14 * image.norm() * patches.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_derivatives(dtype):
    image, patches, positions = problem(dtype)
    for function, leaf, size in (
        (ptyle.extract_patches, image, (4, 5)),
        (ptyle.add_patches, patches, (11, 9)),
    ):
        leaf.requires_grad_()

        def squared(x, function=function, size=size):
            return function(x, positions, size) ** 2

        assert torch.autograd.gradcheck(squared, leaf, fast_mode=True)
        assert torch.autograd.gradgradcheck(squared, leaf, fast_mode=True)


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
    with pytest.raises(ValueError, match="ptyle::add_patches: positions must be whole pixels"):
        ptyle.add_patches(patches, positions + 0.5, (11, 9))
    with pytest.raises(
        ValueError, match="patches must have as many entries as there are positions"
    ):
        ptyle.add_patches(patches[:2], positions, (11, 9))
    with pytest.raises(TypeError, match="object must be float32, float64, complex64 or complex128"):
        ptyle.extract_patches(image.long(), positions, (4, 5))
    with pytest.raises(ValueError, match="window must not be negative"):
        ptyle.extract_patches(image, positions, (4, -5))
    with pytest.raises(NotImplementedError, match="positions must not require a gradient"):
        ptyle.extract_patches(image, positions.requires_grad_(), (4, 5))
