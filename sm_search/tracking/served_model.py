"""What `mlflow models serve` runs: a low-gradient system matrix in, its high-gradient counterpart out.

MLflow executes this file by its path ("model from code"), so no pickle is stored. A request is JSON:

    {"inputs": {"values": [[[[re, im], …N voxels], …K components], …C channels],
                "mixing_orders": [[m_x, m_y], …K], "fx_hz": [25000.0], "nd": [99]}}

and the answer {"predictions": {"values": …}} has the same shape. Units as in `SystemMatrix`: A/m. The grid and the
low field belong to the checkpoint.
"""

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from numpy.typing import NDArray

from sm_search.config.errors import SmSearchError
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
        values_CKN = model_input["values"][..., 0] + 1j * model_input["values"][..., 1]
        orders = tuple((int(m_x), int(m_y)) for m_x, m_y in model_input["mixing_orders"])
        _, components, voxels = values_CKN.shape
        grid = self._synthesiser.grid
        if (components, voxels) != (len(orders), grid.voxels):
            raise MlflowException.invalid_parameter_value(
                f"values has {components} components of {voxels} voxels; "
                f"mixing_orders asks for {len(orders)} components, the model for {grid.voxels} voxels"
            )
        low = SystemMatrix(
            values_CKN,
            orders,
            grid,
            self._synthesiser.low,
            float(model_input["fx_hz"][0]),
            int(model_input["nd"][0]),
            unit=self._synthesiser.unit,
        )
        try:
            high_CKN = self._synthesiser.predict(low).values_CKN
        except SmSearchError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return {"values": np.stack([high_CKN.real, high_CKN.imag], axis=-1)}


# MLflow warns about a `predict` without such a hint, but only in the class that it finds it in.
class ServedSynthesiser(Prediction, PythonModel):
    """What MLflow loads."""


set_model(ServedSynthesiser())
