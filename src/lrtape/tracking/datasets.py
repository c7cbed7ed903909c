"""What a run says about the data that it trained on: an input of the run, as MLflow calls it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

TRAIN, VAL = "train", "val"
"""What data are for; the metrics of each begin with that."""
_SOURCE_TYPE = "code"
"""MLflow's name for data that a function makes."""


@dataclass(frozen=True, slots=True)
class LoggedDataset:
    """One side of the data of a training. As JSON it is a part of a planned run.

    Attributes:
        name: shown in the UI.
        digest: of the content; at most 36 characters.
        context: `TRAIN` or `VAL`.
        source: dotted path of what has made them: no path of a machine, no URL.
        n_samples: how many there are.
        input_shape: of one sample.
        target_shape: of one sample; of a scalar it is empty.
        input_type: numpy's name of the type of its numbers.
        target_type: likewise.
        digest_of: which samples the digest is of, for people.
    """

    name: str
    digest: str
    context: str
    source: str
    n_samples: int
    input_shape: Sequence[int]
    target_shape: Sequence[int]
    input_type: str
    target_type: str
    digest_of: str

    def as_input(self) -> "DatasetInput":
        """As MLflow takes it."""
        # Late: mlflow takes a second to import.
        from mlflow.data.schema import TensorDatasetSchema
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        profile = {
            "num_samples": self.n_samples,
            "input_shape": list(self.input_shape),
            "target_shape": list(self.target_shape),
            "digest_of": self.digest_of,
        }
        schema = TensorDatasetSchema(
            _schema(self.input_type, self.input_shape), _schema(self.target_type, self.target_shape)
        )
        dataset = Dataset(
            self.name,
            self.digest,
            _SOURCE_TYPE,
            json.dumps({"tags": {"target": self.source}}),
            json.dumps(schema.to_dict()),
            json.dumps(profile),
        )
        return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, self.context)])


def _schema(type_name: str, shape: Sequence[int]) -> Any:
    import numpy as np
    from mlflow.types import Schema, TensorSpec

    return Schema([TensorSpec(np.dtype(type_name), (-1, *shape))])
