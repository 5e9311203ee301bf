"""The scanner that a low and a high system matrix share: how its fields and coils differ from the ideal ones.

A field in source-free space is the gradient of solid harmonics (`sm_search.physics.harmonics`). Each coil is given by
the terms that come on top of its ideal field, as [degree, order, coefficient]: degree 1 is a homogeneous field (an
offset; of a drive or receive coil its rotation, tilt and amplitude), degree 2 a linear one (rotation, tilt and
asymmetry of a gradient), degree 3 a quadratic one, and so on. The field of a term has a root mean square of its
coefficient over the sphere of the reference radius. Order m < 0 is the sine partner of |m|.

The coils are the same at both gradients, so coefficients are relative to what drives a coil.
"""

import math
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from sm_search.config.base import Settings
from sm_search.config.streams import stream

MAX_DEGREE = 8
Term = tuple[int, int, float]


def _valid(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    for degree, order, _ in terms:
        if not 1 <= degree <= MAX_DEGREE:
            raise ValueError(f"degree {degree}: must be 1 to {MAX_DEGREE}")
        if abs(order) > degree:
            raise ValueError(f"order {order} of degree {degree}: must be -{degree} to {degree}")
    if len({term[:2] for term in terms}) < len(terms):
        raise ValueError("a degree and order appear twice")
    return terms


Terms = Annotated[tuple[Term, ...], AfterValidator(_valid)]
Error = Annotated[float, Field(gt=-1, lt=1)]
Deviation = Annotated[float, Field(ge=0, le=100)]
CrossTalk = Annotated[float, Field(ge=-0.5, le=0.5)]


class ScannerSettings(Settings):
    """The deviations of one scanner from the ideal one, which has none.

    Attributes:
        reference_radius_mm: radius of the sphere about the centre that coefficients refer to.
        selection_mm: selection field, in mT at a mean gradient (G_x + G_y)/2 of 1 T/m: so mm of displacement.
        drive_x_percent, drive_y_percent: field of a drive coil, in percent of its amplitude.
        receive_x_percent, receive_y_percent: sensitivity of a receive coil, in percent of `coil_sensitivity_per_m`.
        gradient_error: the selection field is (1 + this) times what the file says.
        drive_error: the same of the x and the y drive.
        cross_talk: share of the y-channel that the x-channel sees, and of the x-channel that the y-channel sees.
    """

    reference_radius_mm: Annotated[float, Field(gt=0)] = 20.0
    selection_mm: Terms = ()
    drive_x_percent: Terms = ()
    drive_y_percent: Terms = ()
    receive_x_percent: Terms = ()
    receive_y_percent: Terms = ()
    gradient_error: Error = 0.0
    drive_error: tuple[Error, Error] = (0.0, 0.0)
    cross_talk: tuple[CrossTalk, CrossTalk] = (0.0, 0.0)

    @property
    def ideal(self) -> bool:
        """Whether nothing deviates."""
        return self == ScannerSettings(reference_radius_mm=self.reference_radius_mm)

    @property
    def ideal_fields(self) -> bool:
        """Whether all voxels see the ideal fields, of whatever amplitude."""
        return not (self.selection_mm or self.drive_x_percent or self.drive_y_percent)

    @property
    def ideal_coils(self) -> bool:
        """Whether each channel receives its own component of the moment, everywhere alike."""
        return not (self.receive_x_percent or self.receive_y_percent or any(self.cross_talk))

    def plus(self, other: "ScannerSettings") -> "ScannerSettings":
        """Both deviations together, at the reference radius of this one.

        Raises:
            ValueError: the other has another reference radius.
        """
        if other.reference_radius_mm != self.reference_radius_mm:
            raise ValueError(
                f"reference_radius_mm {other.reference_radius_mm:g} must be that of the dataset's scanner, "
                f"{self.reference_radius_mm:g}"
            )
        values: dict[str, Any] = {name: _sum(getattr(self, name), getattr(other, name)) for name in _TERMS}
        for name in ("drive_error", "cross_talk"):
            values[name] = tuple(a + b for a, b in zip(getattr(self, name), getattr(other, name), strict=True))
        values["gradient_error"] = self.gradient_error + other.gradient_error
        return ScannerSettings(reference_radius_mm=self.reference_radius_mm, **values)


_TERMS = ("selection_mm", "drive_x_percent", "drive_y_percent", "receive_x_percent", "receive_y_percent")


def _sum(first: tuple[Term, ...], second: tuple[Term, ...]) -> tuple[Term, ...]:
    total: dict[tuple[int, int], float] = {}
    for degree, order, coefficient in (*first, *second):
        total[degree, order] = total.get((degree, order), 0.0) + coefficient
    return tuple((degree, order, coefficient) for (degree, order), coefficient in total.items())


class ScannerSpread(Settings):
    """How far the scanners of a dataset differ: number n is drawn from the stream ("scanner", n) of the seed.

    Each field's deviation is Gaussian, isotropic about the centre, with equal shares of every degree: its root mean
    square at the distance r from the centre is `…`·√(mean over l of (r/R)^(2l−2)), the same in every direction.

    Attributes:
        seed: of all draws.
        degree: largest degree of the harmonics, 4 for displacements up to cubic ones.
        reference_radius_mm: R.
        displacement_mm: root mean square of the selection field's displacement at R, as a vector.
        drive_percent, receive_percent: of a drive field's and of a sensitivity's deviation at R, as a vector.
        gradient_error, drive_error, cross_talk: standard deviations.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    degree: Annotated[int, Field(ge=1, le=MAX_DEGREE)] = 4
    reference_radius_mm: Annotated[float, Field(gt=0)] = 20.0
    displacement_mm: Deviation = 1.5
    drive_percent: Deviation = 3.0
    receive_percent: Deviation = 10.0
    gradient_error: Annotated[float, Field(ge=0, le=0.15)] = 0.0
    drive_error: Annotated[float, Field(ge=0, le=0.15)] = 0.0
    cross_talk: Annotated[float, Field(ge=0, le=0.1)] = 0.0

    @model_validator(mode="after")
    def _something(self) -> "ScannerSpread":
        if not any(getattr(self, name) for name in _SIZES):
            raise ValueError(f"all of {', '.join(_SIZES)} are 0: every scanner would be the same")
        return self

    def scanner(self, number: int, factor: float = 1.0) -> ScannerSettings:
        """The scanner of that number, its deviations `factor` times as large."""

        def terms(coil: str, size: float) -> tuple[Term, ...]:
            if size == 0:
                return ()
            draws = stream(self.seed, "scanner", number, coil)
            found = []
            for degree in range(1, self.degree + 1):
                # Of the 2l+1 fields of a degree each has this root mean square at R.
                deviation = size / math.sqrt(self.degree * (2 * degree + 1))
                for order in range(-degree, degree + 1):
                    found.append((degree, order, factor * deviation * draws.standard_normal()))
            return tuple(found)

        errors = np.clip(stream(self.seed, "scanner", number, "errors").standard_normal(5), -3, 3) * factor
        gradient, drive_x, drive_y, talk_x, talk_y = errors.tolist()
        return ScannerSettings(
            reference_radius_mm=self.reference_radius_mm,
            selection_mm=terms("selection", self.displacement_mm),
            drive_x_percent=terms("drive-x", self.drive_percent),
            drive_y_percent=terms("drive-y", self.drive_percent),
            receive_x_percent=terms("receive-x", self.receive_percent),
            receive_y_percent=terms("receive-y", self.receive_percent),
            gradient_error=self.gradient_error * gradient,
            drive_error=(self.drive_error * drive_x, self.drive_error * drive_y),
            cross_talk=(self.cross_talk * talk_x, self.cross_talk * talk_y),
        )


_SIZES = ("displacement_mm", "drive_percent", "receive_percent", "gradient_error", "drive_error", "cross_talk")
