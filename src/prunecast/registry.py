"""Names to objects, loaded only when asked for: adding a thing is one file and one line here.

Listing names imports nothing, so `prunecast list` and `--help` stay fast; an absent optional package breaks
only the entry that needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from prunecast.errors import UserError, near


@dataclass(frozen=True)
class Registry:
    """A table of one kind of thing: name -> "module:attribute"."""

    kind: str
    entries: Mapping[str, str]

    def names(self) -> tuple[str, ...]:
        """Returns the registered names in the order of the table."""
        return tuple(self.entries)

    def check(self, name: str) -> str:
        """Returns the name when it is known.

        Raises:
            UserError: when it is not; the message suggests the nearest name.
        """
        if name not in self.entries:
            raise UserError(f"unknown {self.kind} {name!r}; {near(name, self.entries)}")
        return name

    def load(self, name: str) -> Any:
        """Imports and returns what the name stands for.

        Raises:
            UserError: on an unknown name.
        """
        module, _, attribute = self.entries[self.check(name)].partition(":")
        return getattr(import_module(module), attribute)


MODELS = Registry(
    "model",
    {
        "transformer": "prunecast.models.transformer:Transformer",
        "informer": "prunecast.models.informer:Informer",
        "autoformer": "prunecast.models.autoformer:Autoformer",
        "fedformer": "prunecast.models.fedformer:FEDformer",
        "crossformer": "prunecast.models.crossformer:Crossformer",
        "patchtst": "prunecast.models.patchtst:PatchTST",
        "itransformer": "prunecast.models.itransformer:ITransformer",
        "dlinear": "prunecast.models.dlinear:DLinear",
        "fits": "prunecast.models.fits:FITS",
        "sparsetsf": "prunecast.models.sparsetsf:SparseTSF",
        "lstm": "prunecast.models.lstm:LSTM",
        "repeat": "prunecast.models.baselines:Repeat",
        "seasonal_naive": "prunecast.models.baselines:SeasonalNaive",
    },
)

PUBLISHED = Registry(
    "published model",
    {
        "transformer/tslib": "prunecast.models.convert.published:TRANSFORMER",
        "transformer/original": "prunecast.models.convert.published:TRANSFORMER",
        "informer/tslib": "prunecast.models.convert.published:INFORMER_TSLIB",
        "informer/original": "prunecast.models.convert.published:INFORMER_ORIGINAL",
        "autoformer/tslib": "prunecast.models.convert.published:AUTOFORMER_TSLIB",
        "autoformer/original": "prunecast.models.convert.published:AUTOFORMER_ORIGINAL",
        "fedformer/tslib": "prunecast.models.convert.fedformer:TSLIB",
        "fedformer/original": "prunecast.models.convert.fedformer:ORIGINAL",
        "crossformer/tslib": "prunecast.models.convert.crossformer:TSLIB",
        "crossformer/original": "prunecast.models.convert.crossformer:ORIGINAL",
        "patchtst/tslib": "prunecast.models.convert.published:PATCHTST",
        "itransformer/tslib": "prunecast.models.convert.published:ITRANSFORMER",
        "itransformer/original": "prunecast.models.convert.published:ITRANSFORMER",
        "dlinear/tslib": "prunecast.models.convert.published:DLINEAR_TSLIB",
        "fits/original": "prunecast.models.convert.published:FITS_ORIGINAL",
        "sparsetsf/original": "prunecast.models.convert.published:SPARSETSF",
        "dlinear/original": "prunecast.models.convert.published:DLINEAR_ORIGINAL",
    },
)
"""Our model / whose implementation; what an import, the reference tests and the benchmarks need of it."""

RUNTIMES = Registry(
    "runtime",
    {
        "eager": "prunecast.export.eager:RUNTIME",
        "csr": "prunecast.export.eager:CSR",
        "compile": "prunecast.export.eager:COMPILE",
        "onnxruntime": "prunecast.export.onnxruntime:RUNTIME",
        "openvino": "prunecast.export.openvino:RUNTIME",
        "executorch": "prunecast.export.executorch:RUNTIME",
        "c": "prunecast.export.c.runtime:RUNTIME",
    },
)

METHODS = Registry(
    "method",
    {
        "magnitude": "prunecast.prune.methods:MAGNITUDE",
        "magnitude-layer": "prunecast.prune.methods:MAGNITUDE_LAYER",
        "gradual-magnitude": "prunecast.prune.methods:GRADUAL_MAGNITUDE",
        "gradual-magnitude-lamp": "prunecast.prune.methods:GRADUAL_MAGNITUDE_LAMP",
        "movement": "prunecast.prune.methods:MOVEMENT",
        "acdc": "prunecast.prune.methods:ACDC",
        "rigl": "prunecast.prune.methods:RIGL",
        "random": "prunecast.prune.methods:RANDOM",
        "structured": "prunecast.prune.methods:STRUCTURED",
        "compress": "prunecast.prune.methods:COMPRESS",
        "structured-magnitude": "prunecast.prune.methods:STRUCTURED_MAGNITUDE",
        "structured-random": "prunecast.prune.methods:STRUCTURED_RANDOM",
        "structured-taylor": "prunecast.prune.methods:STRUCTURED_TAYLOR",
        "structured-fisher": "prunecast.prune.methods:STRUCTURED_FISHER",
        "structured-gauss-newton": "prunecast.prune.methods:STRUCTURED_GAUSS_NEWTON",
        "structured-ema-taylor": "prunecast.prune.methods:STRUCTURED_EMA_TAYLOR",
        "structured-flap": "prunecast.prune.methods:STRUCTURED_FLAP",
        "structured-loo": "prunecast.prune.methods:STRUCTURED_LEAVE_ONE_OUT",
        "unstructured": "prunecast.prune.methods:UNSTRUCTURED",
        "obc": "prunecast.prune.methods:OBC",
        "obc-layer": "prunecast.prune.methods:OBC_LAYER",
        "sparsegpt": "prunecast.prune.methods:SPARSEGPT",
        "alps": "prunecast.prune.methods:ALPS",
        "forward": "prunecast.prune.methods:FORWARD",
        "obc-2:4": "prunecast.prune.methods:OBC_2_4",
        "sparsegpt-2:4": "prunecast.prune.methods:SPARSEGPT_2_4",
        "wanda-2:4": "prunecast.prune.methods:WANDA_2_4",
        "magnitude-2:4": "prunecast.prune.methods:MAGNITUDE_2_4",
        "obc-1x4": "prunecast.prune.methods:OBC_1X4",
        "obc-1x16": "prunecast.prune.methods:OBC_1X16",
        "obc-16x1": "prunecast.prune.methods:OBC_16X1",
        "magnitude-1x16": "prunecast.prune.methods:MAGNITUDE_1X16",
        "wanda": "prunecast.prune.methods:WANDA",
        "ria": "prunecast.prune.methods:RIA",
        "wanda-owl": "prunecast.prune.methods:WANDA_OWL",
        "magnitude-erk": "prunecast.prune.methods:MAGNITUDE_ERK",
        "magnitude-lamp": "prunecast.prune.methods:MAGNITUDE_LAMP",
    },
)

DEFAULT_METHOD = "structured"
"""What prunes where no method is named: of what makes a model smaller and faster, the best there is."""

SCORES = Registry(
    "score",
    {
        "magnitude": "prunecast.prune.scores:magnitude",
        "random": "prunecast.prune.scores:random",
        "movement": "prunecast.prune.scores:movement",
        "unit-magnitude": "prunecast.prune.scores:unit_magnitude",
        "unit-obs": "prunecast.prune.surgeon:unit_obs",
        "unit-random": "prunecast.prune.scores:unit_random",
        "unit-taylor": "prunecast.prune.scores:unit_taylor",
        "unit-fisher": "prunecast.prune.scores:unit_fisher",
        "unit-gauss-newton": "prunecast.prune.scores:unit_gauss_newton",
        "unit-ema-taylor": "prunecast.prune.scores:unit_ema_taylor",
        "mode-energy": "prunecast.prune.mode_scores:mode_energy",
        "unit-fluctuation": "prunecast.prune.scores:unit_fluctuation",
        "unit-leave-one-out": "prunecast.prune.scores:unit_leave_one_out",
        "wanda": "prunecast.prune.layerwise:wanda_scores",
        "ria": "prunecast.prune.layerwise:ria_scores",
    },
)

ALLOCATIONS = Registry(
    "allocation",
    {
        "global": "prunecast.prune.allocate:global_masks",
        "layer": "prunecast.prune.allocate:layer_masks",
        "row": "prunecast.prune.allocate:row_masks",
        "erk": "prunecast.prune.allocate:erk_masks",
        "lamp": "prunecast.prune.allocate:lamp_masks",
        "owl": "prunecast.prune.allocate:owl_masks",
        "map-uniform": "prunecast.prune.layerwise:uniform_blocks",
        "map-damage": "prunecast.prune.layerwise:damage_blocks",
        "unit-uniform": "prunecast.prune.allocate:uniform_order",
        "unit-global": "prunecast.prune.allocate:global_order",
        "unit-damage": "prunecast.prune.damage:by_damage",
    },
)

GRANULARITIES = Registry(
    "granularity",
    {
        "element": "prunecast.prune.unstructured:ELEMENT",
        "update": "prunecast.prune.layerwise:UPDATE",
        "unit": "prunecast.prune.structured:UNIT",
    },
)

SCHEDULES = Registry(
    "schedule",
    {
        "gradual": "prunecast.prune.schedule:GradualMasks",
        "movement": "prunecast.prune.schedule:MovementMasks",
        "alternating": "prunecast.prune.schedule:AlternatingMasks",
        "rigged": "prunecast.prune.schedule:RiggedMasks",
    },
)
"""How masks change in training."""

SOLVERS = Registry(
    "solver",
    {
        "obc": "prunecast.prune.second_order:obc",
        "forward": "prunecast.prune.second_order:forward",
        "alps": "prunecast.prune.second_order:alps",
        "sparsegpt": "prunecast.prune.second_order:sparse_gpt",
        "least-damage": "prunecast.prune.second_order:least_damage",
        "magnitude": "prunecast.prune.layerwise:by_magnitude",
        "wanda": "prunecast.prune.layerwise:by_wanda",
    },
)
"""How the weights of a linear map are chosen and solved for."""

RECOVERIES = Registry("recovery", {"ridge": "prunecast.prune.second_order:ridge"})
"""How a linear map is solved anew after pruning."""

METRICS = Registry(
    "metric",
    {
        "mse": "prunecast.train.metrics:MSE",
        "mae": "prunecast.train.metrics:MAE",
        "rmse": "prunecast.train.metrics:RMSE",
        "mape": "prunecast.train.metrics:MAPE",
        "mase": "prunecast.train.metrics:MASE",
    },
)

EXECUTORS = Registry(
    "engine", {"local": "prunecast.study.local:LocalExecutor", "ray": "prunecast.study.ray:RayExecutor"}
)

TRACKERS = Registry(
    "tracker",
    {
        "parquet": "prunecast.study.trackers:to_parquet",
        "mlflow": "prunecast.study.trackers:to_mlflow",
        "wandb": "prunecast.study.trackers:to_wandb",
    },
)
"""Where a study's records can be handed to."""
