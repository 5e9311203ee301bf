"""What `mlflow models serve` runs: a low-gradient system matrix in, its high-gradient counterpart out.

MLflow executes this file by its path ("model from code"), so no pickle is stored. A request is JSON:

    {"inputs": {"values": [[[[[re, im], …N voxels], …K components], …C channels], …B matrices],
                "mixing_orders": [[m_x, m_y], …K], "fx_hz": [25000.0, …B], "nd": [99, …B]}}

and the answer {"predictions": {"values": …}} has the same shape. Units as in `SystemMatrix`: A/m, or V for a model of
the voltage. Grid, low field and mixing orders belong to the checkpoint; C may be 1, the x-channel. What does not fit,
f_x and N_d outside what the model was trained for included, is answered with status 400 and the rule that it breaks, as
are more matrices than SM_SEARCH_MAX_MATRICES (16). The server gives a request up with status 504 after
MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT seconds (60), and the synthesis ends with the matrix that it is at.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from numpy.typing import NDArray

from sm_search.config.errors import DataError, SmSearchError
from sm_search.physics.system_matrix import SystemMatrix

MAX_MATRICES, MAX_MATRICES_VARIABLE = 16, "SM_SEARCH_MAX_MATRICES"
TIMEOUT_VARIABLE = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"
"""Set by whatever serves a model; not for a model that is loaded into a program."""


class Prediction:
    """The synthesiser of one checkpoint behind MLflow's interface."""

    def load_context(self, context: PythonModelContext) -> None:
        # Here and not above: storing a model executes this file too, and needs no network.
        from sm_search.synthesis import load_synthesiser

        self._synthesiser = load_synthesiser(Path(context.artifacts["checkpoint"]))

    # The signature is given where the model is stored; MLflow would take a type hint on the input for another one.
    def predict(  # type: ignore[no-untyped-def]
        self, context: PythonModelContext, model_input, params: dict[str, Any] | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """The answer to one request, tensors by name.

        Raises:
            MlflowException: the tensors do not fit together, or not the checkpoint; the server answers with status 400.
        """
        try:
            return {"values": self._answer({name: np.asarray(value) for name, value in model_input.items()})}
        except SmSearchError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None

    def _answer(self, given: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
        """(B, C, K, N, 2)."""
        batch = given["values"]
        if batch.ndim != 5 or batch.shape[-1] != 2 or 0 in batch.shape:
            rule = "must be matrices, channels, components, voxels, 2"
            raise DataError(f"values has the shape {list(batch.shape)}; {rule}")
        if not np.isfinite(batch).all():
            at = tuple(np.argwhere(~np.isfinite(batch))[0])
            matrix, channel, component, voxel, _ = at
            where = f"matrix {matrix}, channel {channel}, component {component}, voxel {voxel}"
            raise DataError(f"values: {where} is {batch[at]}: must be finite")
        for name in ("fx_hz", "nd"):
            if given[name].shape != (len(batch),):
                raise DataError(f"{name} has the shape {list(given[name].shape)}; must be [{len(batch)}], one a matrix")
            for value in given[name].tolist():
                if not 0 < value < np.inf:
                    raise DataError(f"{name} is {value}: must be a positive number")
        most = int(os.environ.get(MAX_MATRICES_VARIABLE, MAX_MATRICES))
        if len(batch) > most:
            raise DataError(f"values has {len(batch)} matrices; must be at most {most} in a request")
        orders = tuple((int(m_x), int(m_y)) for m_x, m_y in given["mixing_orders"])
        deadline = time.monotonic() + float(os.environ.get(TIMEOUT_VARIABLE, "inf"))
        made: list[NDArray[np.complex128]] = []
        for matrix, fx_hz, nd in zip(batch, given["fx_hz"].tolist(), given["nd"].tolist(), strict=True):
            if time.monotonic() > deadline:
                # Nobody waits for the answer, but the server cannot end the thread that makes it.
                raise DataError(f"{len(made)} of {len(batch)} matrices took longer than {TIMEOUT_VARIABLE} allows")
            made.append(self._synthesise(matrix[..., 0] + 1j * matrix[..., 1], orders, fx_hz, nd))
        return np.stack([np.stack([high_CKN.real, high_CKN.imag], axis=-1) for high_CKN in made])

    def _synthesise(
        self, values_CKN: NDArray[np.complex128], orders: tuple[tuple[int, int], ...], fx_hz: float, nd: int
    ) -> NDArray[np.complex128]:
        _, components, voxels = values_CKN.shape
        grid = self._synthesiser.grid
        if (components, voxels) != (len(orders), grid.voxels):
            raise DataError(
                f"values has {components} components of {voxels} voxels; "
                f"mixing_orders asks for {len(orders)} components, the model for {grid.voxels} voxels"
            )
        if set(orders) != set(self._synthesiser.orders):
            raise DataError("mixing_orders: must be the mixing orders that the model was trained for, in any order")
        field, unit = self._synthesiser.low, self._synthesiser.unit
        low = SystemMatrix(values_CKN, orders, grid, field, fx_hz, nd, unit=unit)
        if outside := self._synthesiser.outside(low):
            raise DataError(outside)
        return self._synthesiser.predict(low).values_CKN


# MLflow warns about a `predict` without such a hint, but only in the class that it finds it in.
class ServedSynthesiser(Prediction, PythonModel):
    """What MLflow loads."""


set_model(ServedSynthesiser())
