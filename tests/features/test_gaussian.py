"""What rate-distortion theory says of features."""

import numpy as np
import pytest

from fulgurite.features.gaussian import (
    gaussian_bits,
    gaussian_error,
    least_mean_errors,
    least_worst_error,
    uniform_errors,
)

STEEP = [4.0, 1.0, 0.25, 0.0]
FLAT = [1.0] * 4


def test_a_bit_a_dimension_leaves_a_quarter() -> None:
    assert gaussian_error(FLAT, 0) == 1
    assert gaussian_error(FLAT, 4) == pytest.approx(1 / 4)
    assert gaussian_error(FLAT, 8) == pytest.approx(1 / 16)


def test_bits_go_to_what_sticks_out_of_the_water() -> None:
    # a bit: the first of 4 comes down to 1, as high as the second; one more is shared by both
    assert gaussian_error(STEEP, 1) == pytest.approx((1 + 1 + 0.25) / 5.25)
    assert gaussian_error(STEEP, 2) == pytest.approx((0.5 + 0.5 + 0.25) / 5.25)


@pytest.mark.parametrize("spectrum", [STEEP, FLAT, np.geomspace(1e-6, 3, 50)])
@pytest.mark.parametrize("error", [0.9, 0.3, 0.01, 1e-4])
def test_bits_invert_errors(spectrum: list[float], error: float) -> None:
    assert gaussian_error(spectrum, gaussian_bits(spectrum, error)) == pytest.approx(error, rel=1e-6)


def test_the_least_worst_error_is_below_that_of_uniform_and_the_least_mean_below_all() -> None:
    spectra = {"steep": STEEP, "flat": FLAT}
    uniform = uniform_errors(spectra, 1.0)
    alike = least_worst_error(spectra, 8.0)
    assert alike < max(uniform.values())
    assert sum(gaussian_bits(spectrum, alike) for spectrum in spectra.values()) == pytest.approx(8, abs=1e-6)
    least = least_mean_errors(spectra, 8.0)
    assert sum(gaussian_bits(spectra[name], error) for name, error in least.items()) == pytest.approx(
        8, abs=1e-6
    )

    def squared(errors: dict[str, float]) -> float:
        return sum(error * sum(spectra[name]) for name, error in errors.items())

    assert squared(least) < squared(uniform)
    assert squared(least) <= squared(dict.fromkeys(spectra, alike))


def test_what_is_no_spectrum_is_refused() -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        gaussian_error([1.0, float("nan")], 1.0)
    with pytest.raises(ValueError, match="error must be above 0"):
        gaussian_bits(FLAT, 0.0)
