"""What `mlflow models serve` runs: a low-gradient system matrix in, its high-gradient counterpart out.

MLflow executes this file by its path ("model from code"), so no pickle is stored. A request is JSON:

    {"inputs": {"values": [[[[[re, im], …N voxels], …K components], …C channels], …B matrices],
                "mixing_orders": [[m_x, m_y], …K], "fx_hz": [25000.0, …B], "nd": [99, …B]}}

and the answer {"predictions": {"values": …}} has the same shape. Units as in `SystemMatrix`: A/m, or V for a model of
the voltage. The grid and the low field belong to the checkpoint. What does not fit is answered with status 400 and the
rule that it breaks. A request takes as long as the synthesis of its matrices; the server ends one after
MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT seconds (60).
"""

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from numpy.typing import NDArray

from sm_search.config.errors import DataError, SmSearchError
from sm_search.physics.system_matrix import SystemMatrix


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
        orders = tuple((int(m_x), int(m_y)) for m_x, m_y in given["mixing_orders"])
        made = [
            self._synthesise(matrix[..., 0] + 1j * matrix[..., 1], orders, fx_hz, nd)
            for matrix, fx_hz, nd in zip(batch, given["fx_hz"].tolist(), given["nd"].tolist(), strict=True)
        ]
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
        low, unit = self._synthesiser.low, self._synthesiser.unit
        return self._synthesiser.predict(SystemMatrix(values_CKN, orders, grid, low, fx_hz, nd, unit=unit)).values_CKN


# MLflow warns about a `predict` without such a hint, but only in the class that it finds it in.
class ServedSynthesiser(Prediction, PythonModel):
    """What MLflow loads."""


set_model(ServedSynthesiser())
