"""The settings of the protocol `all`, and the named recipes that set them."""

from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from shards.section import NotHashed, Positive, Section, Since

# Recipes set what a configuration leaves out. tests/xdc_core/test_recipes.py holds the learning rates that the original
# schedulers give. docs/evaluation.md says where each value is from.
RECIPES: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        # GDT (scripts/run_finetune.sh, eval_video.py) and SeLaVi (finetune_video.py): rates of 2.5e-3 and 2.5e-4 that
        # the warm-up multiplies by 8, and milestones counted from its end.
        "gdt": {
            "optimizer": "sgd",
            "head_lr": 0.02,
            "body_lr": 0.002,
            "batch": 32,
            "epochs": 12,
            "clips_per_recording": 10,
            "warmup": 2.0,
            "warmup_from": 0.125,
            "rates_change": "epochs",
            "milestones": (7, 11),
            "factor": 0.05,
            "weight_decay": 5e-3,
            "dropout": 0.0,
        },
        # AVID (configs/benchmark/ucf/8at16-fold1.yaml, eval-action-recg.py).
        "avid": {
            "optimizer": "adam",
            "head_lr": 1e-4,
            "body_lr": 1e-4,
            "batch": 64,
            "head_epochs": 5,
            "epochs": 16,
            "clips_per_recording": 10,
            "warmup": 0.0,
            "rates_change": "epochs",
            "milestones": (6, 10, 14),
            "factor": 0.3,
            "weight_decay": 0.0,
            "dropout": 0.5,
        },
        # VMZ (scripts/finetune_ucf101.sh, tools/train_net.py): 1e-4 for each of 8 GPUs with 4 clips.
        "vmz": {
            "optimizer": "sgd",
            "nesterov": True,
            "head_lr": 8e-4,
            "body_lr": 8e-4,
            "batch": 32,
            "epochs": 8,
            "epoch_clips": 100_000,
            "warmup": 0.0,
            "milestones": (2, 4, 6, 8),  # The last one is that of the last step.
            "factor": 0.1,
            "weight_decay": 5e-3,
            "decay_on": "weights_and_scales",
            "dropout": 0.0,
        },
        # Ours, chosen on held-out recordings of ESC-10's first fold.
        "sound": {
            "optimizer": "adam",
            "head_lr": 1e-3,
            "body_lr": 1e-3,
            "batch": 32,
            "epochs": 10,
            "clips_per_recording": 10,
            "warmup": 1.0,
            "milestones": (6, 8),
            "factor": 0.1,
            "weight_decay": 0.0,
            "dropout": 0.0,
            "check_every": 2,
        },
    }
)


def _known_recipe(name: str | None) -> str | None:
    if name is not None and name not in RECIPES:
        raise ValueError(f"the recipe {name!r} is unknown. There are: {', '.join(RECIPES)}")
    return name


class FinetuneSettings(Section):
    """The training of the protocol `all`.

    The defaults are this project's: the rates and milestones of GDT's and SeLaVi's command lines without the factor of
    8 that their warm-up adds, and one view of a recording per epoch. `recipe` names what others trained with.
    """

    recipe: Annotated[str | None, AfterValidator(_known_recipe), NotHashed()] = Field(
        None,
        description="gdt, avid, vmz (of videos) or sound: the values of settings that are not given here; "
        "see docs/evaluation.md; null: the defaults",
    )
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="sgd has momentum 0.9; adam is AVID's choice")
    nesterov: Annotated[bool, Since("0.2.0")] = Field(False, description="for sgd: Nesterov momentum")
    head_lr: Positive = Field(2.5e-3, description="peak learning rate of the head")
    body_lr: Positive = Field(2.5e-4, description="peak learning rate of the encoder")
    batch: int = Field(32, ge=2, description="clips per step, over all processes")
    head_epochs: Annotated[int, Since("0.2.0")] = Field(
        0, ge=0, description="epochs before the others in which only the head learns, at head_lr"
    )
    epochs: int = Field(12, ge=1, description="epochs in which encoder and head learn")
    clips_per_recording: Annotated[int, Since("0.2.0")] = Field(
        1, ge=1, description="random views of every recording per epoch"
    )
    epoch_clips: Annotated[int | None, Since("0.2.0")] = Field(
        None,
        ge=2,
        description="views per epoch, however many recordings there are; null: clips_per_recording of each",
    )
    warmup: float = Field(2.0, ge=0, description="epochs in which the learning rates rise")
    warmup_from: Annotated[float, Since("0.2.0")] = Field(
        0.0, ge=0, le=1, description="share of the peak learning rates at which the warm-up begins"
    )
    rates_change: Annotated[Literal["steps", "epochs"], Since("0.2.0")] = Field(
        "steps",
        description="steps: learning rates follow the position at the end of each step; epochs: they are constant in "
        "an epoch, and follow its start",
    )
    milestones: tuple[int, ...] = Field(
        (6, 10), description="epochs before which the learning rates are reduced, counted without head_epochs"
    )
    factor: float = Field(0.05, gt=0, le=1, description="factor of each reduction")
    weight_decay: float = Field(5e-3, ge=0, description="on the parameters of decay_on")
    decay_on: Annotated[Literal["all", "weights_and_scales", "weights"], Since("0.2.0")] = Field(
        "all", description="all parameters; weights_and_scales: not biases; weights: nor the scales of norms"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="before the head")
    check_every: Annotated[int, Since("0.2.0")] = Field(
        1,
        ge=1,
        description="epochs between two checks on the held-out recordings; the last epoch is always checked, and the "
        "best one that was checked is tested",
    )
    precision: Annotated[Literal["float32", "bfloat16"], Since("0.2.0")] = Field(
        "float32", description="of the encoder's passes; bfloat16 is for GPUs. Weights stay float32"
    )
    channels_last: Annotated[bool, Since("0.2.0")] = Field(
        False, description="the memory layout that GPUs convolve fastest; for GPUs"
    )
    processes: Annotated[int, Since("0.2.0")] = Field(
        1, ge=1, description="processes (GPUs) that share every batch, joined by torchrun"
    )
    workers: Annotated[int, NotHashed()] = Field(
        0,
        ge=0,
        description="decoding processes per training process. With any, or with several processes, each random "
        "view has its own seed: the views differ from those with 0 workers and 1 process",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_the_recipe(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(name := values.get("recipe"), str):
            recipe = RECIPES.get(name, {})
            # A size of an epoch that the configuration gives replaces the recipe's, which may be the other kind.
            sizes = {"clips_per_recording", "epoch_clips"}
            left_out = sizes if sizes & values.keys() else set()
            return {key: value for key, value in recipe.items() if key not in left_out} | values
        return values

    @model_serializer(mode="wrap")
    def _keep_what_differs_from_the_recipe(
        self, dump: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """Keep a value that is the default but not the recipe's, if defaults are left out."""
        values: dict[str, Any] = dump(self)
        if self.recipe is None or not info.exclude_defaults:
            return values
        everything = self.model_dump(mode=info.mode)
        recipe = type(self)(recipe=self.recipe).model_dump(mode=info.mode)
        return {name: value for name, value in everything.items() if name == "recipe" or value != recipe[name]}

    @model_validator(mode="after")
    def _one_size_of_an_epoch(self) -> "FinetuneSettings":
        if self.epoch_clips is not None and self.clips_per_recording > 1:
            raise ValueError(
                f"epoch_clips ({self.epoch_clips}) and clips_per_recording ({self.clips_per_recording}) both say how "
                "long an epoch is: give one of them"
            )
        return self

    @model_validator(mode="after")
    def _batch_is_shared_out(self) -> "FinetuneSettings":
        if self.batch % self.processes or self.batch < 2 * self.processes:
            raise ValueError(
                f"batch ({self.batch}) must be a multiple of processes ({self.processes}), and at least twice that: "
                "every process gets the same number of clips, and batch norm needs two"
            )
        return self

    @property
    def all_epochs(self) -> int:
        """Return the number of epochs, those of the head alone included."""
        return self.head_epochs + self.epochs

    @property
    def seed_per_view(self) -> bool:
        """Return whether every random view has its own seed; else one generator draws all views of an epoch in turn."""
        return self.workers > 0 or self.processes > 1
