"""The training state: all of a run that changes during training, and the content of a checkpoint."""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel

from openddpm.errors import UserError
from openddpm.record.schema import RAW, InitialWeightsRecord, Weights

Tensors = dict[str, dict[str, torch.Tensor]]
"""File stem ("unet", "ema", "optimizer") -> tensor name -> tensor."""


def describe_weights(weights: dict[str, torch.Tensor]) -> InitialWeightsRecord:
    """Return the digest and the norm of weights."""
    digest, squares = hashlib.sha256(), 0.0
    for name, tensor in sorted(weights.items()):
        values = tensor.detach().cpu().contiguous()
        dtype, shape = str(values.dtype).removeprefix("torch."), "x".join(map(str, values.shape))
        digest.update(f"{name} {dtype} {shape}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
        squares += float(values.double().square().sum())
    return InitialWeightsRecord(sha256=digest.hexdigest(), norm=squares**0.5)


def weights_stem(name: Weights) -> str:
    """Return the file stem of these weights in a checkpoint."""
    return "unet" if name == RAW else name


class NotFinite(UserError):
    """The loss or the gradient is infinite or NaN; the weights are those before the step."""

    def __init__(self, found: str, hint: str, what: Literal["loss", "gradient"], step: int, may_go_back: bool) -> None:
        """Store the message, what is not finite, at which step, and whether a rollback may follow."""
        self.what: Literal["loss", "gradient"] = what
        self.step = step
        self.may_go_back = may_go_back
        super().__init__(found, hint)


@dataclass
class TrainingState:
    """The live training state. `images_seen`, the number of training images so far, is the position of the run."""

    unet: UNet2DModel
    averages: dict[Weights, EMAModel]
    """Averages of the weights by name, the exported one first."""
    optimizer: Any
    scaler: torch.amp.GradScaler | None
    images_seen: int
    step: int
    wall_seconds: float
    loss_sum: torch.Tensor
    """Sum of this process's losses, () float32, over the steps since the last logged line."""
    steps_since_log: int
    evaluation_due: bool = False
    """Whether this state still has to be evaluated or previewed, for example if saved on a signal."""

    def weights(self) -> dict[Weights, dict[str, torch.Tensor]]:
        """Return all sets of weights by name, averages first: parameters, and the live buffers (not copies)."""
        parameters, buffers = dict(self.unet.named_parameters()), dict(self.unet.named_buffers())
        averages = {
            name: dict(zip(parameters, average.shadow_params, strict=True)) for name, average in self.averages.items()
        }
        return {name: {**tensors, **buffers} for name, tensors in {**averages, RAW: parameters}.items()}

    def _optimizer_names(self) -> list[str]:
        """Return the names of the parameters in the order of the optimizer."""
        names = {id(parameter): name for name, parameter in self.unet.named_parameters()}
        return [names[id(parameter)] for group in self.optimizer.param_groups for parameter in group["params"]]

    def tensors(self) -> Tensors:
        """Return the tensors of a checkpoint (not copies)."""
        names = self._optimizer_names()
        optimizer = {
            f"{names[index]}/{key}": value
            for index, entry in self.optimizer.state_dict()["state"].items()
            for key, value in entry.items()
        }
        return {**{weights_stem(name): weights for name, weights in self.weights().items()}, "optimizer": optimizer}

    def scalars(self, accelerator: Accelerator) -> dict[str, Any]:
        """Return the JSON values of a checkpoint. A collective call: every process contributes its loss sum."""
        loss_sums = accelerator.gather(self.loss_sum.reshape(1))
        return {
            "images_seen": self.images_seen,
            "step": self.step,
            "wall_seconds": self.wall_seconds,
            "loss_sums": loss_sums.tolist(),  # type: ignore[union-attr]
            "steps_since_log": self.steps_since_log,
            "evaluation_due": self.evaluation_due,
            "optimizer_steps": [group.get("step") for group in self.optimizer.param_groups],
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }

    def restore(
        self, tensors: Tensors, scalars: dict[str, Any], process_index: int = 0, num_processes: int = 1
    ) -> None:
        """Replace the present state by the content of a checkpoint."""
        self.unet.load_state_dict(tensors["unet"])
        if tensors.keys() != self.tensors().keys():
            found = f"the checkpoint has {', '.join(tensors)}; the run keeps {', '.join(self.tensors())}"
            raise UserError(found, "Resume with the options that the run started with.")
        weights = self.weights()
        for name, average in self.averages.items():
            for tensor_name, shadow in weights[name].items():
                shadow.data.copy_(tensors[name][tensor_name])
            average.optimization_step = scalars["step"]
        names = self._optimizer_names()
        parameters = dict(self.unet.named_parameters())
        entries: dict[int, dict[str, torch.Tensor]] = {}
        for path, tensor in tensors["optimizer"].items():
            name, key = path.rsplit("/", 1)
            parameter = parameters[name].detach()
            if tensor.shape == parameter.shape:  # fused AdamW needs moments in the weights' memory layout
                tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
            else:  # a view of the checkpoint's file would keep Windows from removing it
                tensor = tensor.clone()
            entries.setdefault(names.index(name), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        for group, steps in zip(groups, scalars["optimizer_steps"], strict=False):
            if steps is not None:  # Muon counts steps per group, AdamW per parameter
                group["step"] = steps
        self.optimizer.load_state_dict({"state": entries, "param_groups": groups})
        if self.scaler is not None and scalars["scaler"]:
            self.scaler.load_state_dict(scalars["scaler"])
        self.images_seen, self.step = scalars["images_seen"], scalars["step"]
        self.wall_seconds, self.steps_since_log = scalars["wall_seconds"], scalars["steps_since_log"]
        self.evaluation_due = scalars["evaluation_due"]
        loss_sums = scalars["loss_sums"]
        if len(loss_sums) != num_processes:  # only their mean over the processes is ever logged
            loss_sums = [sum(loss_sums) / len(loss_sums)] * num_processes
        self.loss_sum.fill_(loss_sums[process_index])
