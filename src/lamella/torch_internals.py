"""Every access to parts of torch that its documentation does not promise to keep.

Each function names the attributes that it touches, the reason, and what Lamella does when a later version of torch
has renamed them: it then computes the same result in torch's own, slower way.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim import optimizer as optimizer_module

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter  # its import takes long

P = ParamSpec("P")
T = TypeVar("T")
ParamGroup = dict[str, Any]  # an entry of `optimizer.param_groups`, as torch types it
Kernel = Callable[[list[Tensor]], None]  # takes one optimizer step with the gradients of a group

# The attributes that nn.Module gives every module. Two modules are compared by all others.
MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Return True if `optimizer.step()` calls hooks, which a direct call of the kernel would leave out.

    Touches the optimizer's and torch's global dictionaries of step hooks, because torch has no public way to list
    them. Raises AttributeError where one of them is gone; the optimizer's own step is then taken.
    """
    return any(
        (
            optimizer._optimizer_step_pre_hooks,
            optimizer._optimizer_step_post_hooks,
            optimizer_module._global_optimizer_pre_hooks,
            optimizer_module._global_optimizer_post_hooks,
        )
    )


def adam_kernel(group: ParamGroup, states: list[dict[str, Tensor]]) -> Kernel:
    """Return a function that takes a step of Adam or AdamW for a group by one call of torch's fused kernel.

    states: the optimizer's state of each parameter; the step counts in it become views of one tensor. Touches
    `torch._fused_adam_` and `torch._fused_adamw_`, because `optimizer.step()` prepares each call anew. Raises
    AttributeError where they are gone; the optimizer's own step is then taken.
    """
    counts = torch.stack([state["step"] for state in states])
    for state, count in zip(states, counts.unbind(), strict=True):
        state["step"] = count
    fused = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    keys = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step")
    lists = [[state[key] for state in states if key in state] for key in keys]
    options = ("lr", "weight_decay", "eps", "amsgrad", "maximize")

    def step(gradients: list[Tensor]) -> None:
        counts.add_(1)
        beta1, beta2 = group["betas"]
        values = {option: group[option] for option in options}
        fused(group["params"], gradients, *lists, beta1=beta1, beta2=beta2, **values)

    return step


def sgd_kernel(group: ParamGroup, states: list[dict[str, Tensor]]) -> Kernel:
    """Return a function that takes a step of SGD for a group by one call of torch's fused kernel.

    states: the optimizer's state of each parameter. Touches `torch._fused_sgd_`, because `optimizer.step()` prepares
    each call anew. Raises AttributeError where it is gone; the optimizer's own step is then taken.
    """
    buffers = [state["momentum_buffer"] for state in states] if group["momentum"] else []
    fused = torch._fused_sgd_
    options = ("lr", "weight_decay", "momentum", "dampening", "nesterov", "maximize")

    def step(gradients: list[Tensor]) -> None:
        values = {option: group[option] for option in options}
        fused(group["params"], gradients, buffers, is_first_step=False, **values)

    return step


def lerp_each(starts: list[Tensor], ends: list[Tensor], share: float) -> None:
    """Move each tensor, in place, by a share of the way to the tensor at the same place in `ends`.

    Touches `torch._foreach_lerp_`, which takes one call of a kernel for all tensors. Where it is gone, each tensor
    takes a call.
    """
    if hasattr(torch, "_foreach_lerp_"):
        torch._foreach_lerp_(starts, ends, share)
        return
    for start, end in zip(starts, ends, strict=True):
        start.lerp_(end, share)


def hooks(module: nn.Module) -> list[dict[Any, Any]]:
    """Return the dictionaries of a module's forward and backward hooks and pre-hooks, which change with the hooks.

    Touches the dictionaries in HOOKS, because torch has no public way to count hooks. Where one is gone, hooks that it
    would have held are not seen by compiled code.
    """
    return [vars(module)[name] for name in HOOKS if name in vars(module)]


def hook_counts(module: nn.Module) -> list[int]:
    """Return how many forward and backward hooks and pre-hooks a module has, by kind.

    Touches the dictionaries in HOOKS, because torch has no public way to count hooks. Where one is gone, its
    count is the id of the module, so that the module runs without CUDA graphs and is not computed with others.
    """
    return [len(vars(module)[name]) if name in vars(module) else id(module) for name in HOOKS]


def compile_with_gradients(function: Callable[P, T], mode: str) -> Callable[P, T]:
    """Return a function that torch.compile compiles when it is called, and that may call `torch.autograd.grad`.

    mode: of torch.compile. CUDA graphs are left out, because Lamella makes them itself. Random numbers are drawn as by
    the function itself, and what was compiled before is forgotten, because torch compiles a piece of code a few times
    only. Touches `torch._dynamo.config`, because torch does not compile `torch.autograd.grad` by default, and
    `torch._inductor`, because torch.compile takes no options beside a mode. Raises AttributeError where a name is
    gone; the function is then not compiled.
    """
    from torch import _dynamo, _inductor  # torch imports both only where something is compiled

    # They warn of a part of CUDA on a machine without a GPU, and of code that has been compiled often.
    for name in ("torch.utils.cpp_extension", "torch._dynamo.convert_frame"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.compiler.reset()
    _dynamo.config.trace_autograd_ops = True
    _dynamo.config.optimize_ddp = False  # would divide the function where DDP divides the gradients
    options = {**_inductor.list_mode_options(mode), "fallback_random": True}
    options.pop("triton.cudagraphs", None)
    compiled: Callable[P, T] = torch.compile(function, fullgraph=True, dynamic=False, options=options)
    return compiled


def own_attributes(module: nn.Module) -> dict[str, object]:
    """Return the attributes that a module has beside those of every nn.Module.

    Goes by MODULE_ATTRIBUTES, which are the attributes of an empty module in the installed version of torch.
    """
    return {name: value for name, value in vars(module).items() if name not in MODULE_ATTRIBUTES}


def has_registered_buffers(module: nn.Module) -> bool:
    """Return True if a module itself, without its children, has registered buffers, among them buffers that are None.

    Touches `_buffers`, because `module.buffers()` leaves out buffers that are None. Returns True where it is gone, so
    that the module is not computed together with others.
    """
    return bool(vars(module).get("_buffers", True))


def replace_data(tensor: Tensor, values: Tensor) -> None:
    """Make a tensor share the memory of `values`, which have its shape, without autograd taking note.

    Assigns `tensor.data`, so that optimizers and modules keep their tensor. If the attribute is gone, this fails, and
    the networks are not computed together.
    """
    tensor.data = values


def add_summary(writer: "SummaryWriter", summary: object, step: int) -> bool:
    """Write a `Summary` protobuf at `step` into the events file; return False if nothing was written.

    Touches `SummaryWriter._get_file_writer`, because no public method takes a summary that is encoded already. Where
    it is gone, the caller uses `SummaryWriter.add_image`.
    """
    if not hasattr(writer, "_get_file_writer"):
        return False
    writer._get_file_writer().add_summary(summary, step)  # type: ignore[no-untyped-call]
    return True


def gradient_shape(function: torch.autograd.graph.Node) -> tuple[int, ...]:
    """Return the shape of the first output of the operation that an autograd node differentiates, () if unknown.

    Touches `_input_metadata`, because torch has no public way to ask for the shape. Where it is gone, shapes are not
    shown.
    """
    metadata = getattr(function, "_input_metadata", ())
    return tuple(metadata[0].shape) if metadata else ()
