"""From an ONNX file to a plan.

Strongly typed networks from version 10 on: fp16 is the graph's. 8.x gets the flags FP16 and INT8, where the
graph's explicit QDQ decides what runs in int8. TF32 is off everywhere: fp32 means fp32. (TensorRT developer
guide, "Strongly Typed Networks" and "Explicit Quantization")
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator

from targets.errors import CapabilityError, ModelError
from targets.nvidia.network import (
    MEND,
    Log,
    inputs_of,
    is_rtx,
    layers_of,
    lengths,
    logger_of,
    outputs_of,
    parse,
    strongly_typed,
)
from targets.nvidia.options import BuildOptions
from targets.toolchain import EngineOptions, TensorSpec

if TYPE_CHECKING:
    import tensorrt as trt

SHOWN = 5
# Precision → flags of a library that decides types by flags.
FLAGS = {"fp16": ("FP16",), "int8": ("FP16", "INT8")}


@dataclass(frozen=True)
class Built:
    """A plan and what is known of it.

    Args:
        plan: serialized engine.
        inputs, outputs: of the network, in the model's order.
        layers: name, kind and type of each layer of the parsed network, or of the plan where `inspected`.
        timing_cache: as it is after the build; b"" where the library has none.
        notes: facts worth showing.
        inspected: the layers are what the engine inspector said.
    """

    plan: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: list[dict[str, Any]]
    timing_cache: bytes
    notes: tuple[str, ...]
    inspected: bool = False


def build(library: Any, model: Path, options: EngineOptions) -> Built:
    """Build a plan: until two agree, or as often as the options allow.

    Args:
        library: the module tensorrt or tensorrt_rtx.
        model: ONNX file.
        options: precision and raw options.

    Raises:
        ModelError: an impossible option, or the parser or builder refuses the model.
        CapabilityError: a DLA or GPU architecture there is not.
    """
    asked, log = BuildOptions.read(options.raw), Log()
    builder: trt.Builder = library.Builder(logger_of(library, log))
    network = parse(library, builder, model, builder.logger, log)
    config = _Configuration(library, builder, network, options.precision, asked, log)
    plans: list[bytes] = []
    while len(plans) < asked.builds and (len(plans) < 2 or plans[-1] not in plans[:-1]):
        config.start_afresh()
        plans.append(_plan(builder, network, config.config, model, log))
    return Built(
        plan=plans[-1],
        inputs=inputs_of(library, network),
        outputs=outputs_of(library, network),
        layers=layers_of(network),
        timing_cache=config.timing_cache(),
        notes=(*config.notes(), agreement(plans)),
    )


class _Configuration:
    """How a builder is set."""

    def __init__(
        self,
        library: Any,
        builder: trt.Builder,
        network: trt.INetworkDefinition,
        precision: str,
        asked: BuildOptions,
        log: Log,
    ) -> None:
        self._trt, self._builder, self._network = library, builder, network
        self._precision, self._asked, self._log = precision, asked, log
        self.config: trt.IBuilderConfig = builder.create_builder_config()
        self._set_types()
        self._set_effort()
        if is_rtx(library):
            self._set_architectures()
        else:
            self._set_dla()
        self._add_profile()

    def start_afresh(self) -> None:
        """Forget the tactics of the build before, or it would only be repeated; pinned ones are kept."""
        if not is_rtx(self._trt):
            self._set_timing_cache()

    def notes(self) -> Iterator[str]:
        """What of the settings a user should know."""
        yield "TF32 off; " + (
            "strongly typed: every type is the graph's"
            if strongly_typed(self._trt)
            else f"flags {', '.join(FLAGS.get(self._precision, ())) or 'none'}"
        )
        for tensor in self._dynamic():
            low, usual, high = self._asked.profile(tensor.name, lengths(tensor.shape))
            yield f"{tensor.name} from {list(low)} over {list(usual)} to {list(high)}"
        if self._asked.dla_core is not None:
            yield self._dla_note(self._asked.dla_core)
        if self._asked.timing_cache:
            yield f"tactics from the timing cache {self._asked.timing_cache_sha256[:12]}"

    def timing_cache(self) -> bytes:
        """The tactics found; b"" where the library keeps none."""
        cache = None if is_rtx(self._trt) else self.config.get_timing_cache()
        return bytes(cache.serialize()) if cache else b""

    def _set_types(self) -> None:
        self.config.clear_flag(self._trt.BuilderFlag.TF32)
        for name in () if strongly_typed(self._trt) else FLAGS.get(self._precision, ()):
            self.config.set_flag(getattr(self._trt.BuilderFlag, name))

    def _set_effort(self) -> None:
        self.config.profiling_verbosity = self._trt.ProfilingVerbosity.DETAILED
        if self._asked.workspace_mib:
            pool = self._trt.MemoryPoolType.WORKSPACE
            self.config.set_memory_pool_limit(pool, self._asked.workspace_mib << 20)
        if self._asked.optimization_level is not None:
            self.config.builder_optimization_level = self._asked.optimization_level

    def _set_architectures(self) -> None:
        known = self._trt.ComputeCapability.__members__
        names = [f"SM{each.replace('.', '')}" for each in self._asked.compute_capabilities]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise CapabilityError(
                f"TensorRT-RTX does not build for {', '.join(unknown)}",
                where="raw.compute_capability",
                mend=f"it builds for: {', '.join(name for name in known if name.startswith('SM'))}",
            )
        # TensorRT has neither of these two.
        config: Any = self.config
        config.num_compute_capabilities = len(names)
        for index, name in enumerate(names):
            config.set_compute_capability(known[name], index)

    def _set_dla(self) -> None:
        core = self._asked.dla_core
        if core is None:
            return
        require_dla_precision(core, self._precision)
        if core >= self._builder.num_DLA_cores:
            raise CapabilityError(
                f"there is no DLA core {core}: this device has {self._builder.num_DLA_cores}",
                where="raw.dla_core",
                mend="leave dla_core out, or choose another core",
            )
        self.config.default_device_type = self._trt.DeviceType.DLA
        self.config.DLA_core = core
        if self._asked.gpu_fallback:
            self.config.set_flag(self._trt.BuilderFlag.GPU_FALLBACK)

    def _dla_note(self, core: int) -> str:
        layers = [self._network.get_layer(index) for index in range(self._network.num_layers)]
        left = [layer.name for layer in layers if not self.config.can_run_on_DLA(layer)]
        return dla_note(core, left)

    def _dynamic(self) -> list[trt.ITensor]:
        inputs = (self._network.get_input(index) for index in range(self._network.num_inputs))
        return [tensor for tensor in inputs if -1 in lengths(tensor.shape)]

    def _add_profile(self) -> None:
        if not self._dynamic():
            return
        profile = self._builder.create_optimization_profile()
        for tensor in self._dynamic():
            shapes = self._asked.profile(tensor.name, lengths(tensor.shape))
            profile.set_shape(tensor.name, *(self._trt.Dims(shape) for shape in shapes))
        if self.config.add_optimization_profile(profile) < 0:
            raise ModelError(
                f"the optimisation profile is refused: {self._log.reason()}",
                where="raw.profile",
                mend='give one, as in "profile.input" = "1x3x32x32,1x3x32x32,8x3x32x32"',
            )

    def _set_timing_cache(self) -> None:
        cache = self.config.create_timing_cache(self._asked.read_timing_cache())
        if not self.config.set_timing_cache(cache, False):
            raise ModelError(
                f"the timing cache is of another device or version: {self._log.reason()}",
                where="raw.timing_cache",
                mend="leave timing_cache out; the engine's folder then has one that fits",
            )


def _plan(
    builder: trt.Builder,
    network: trt.INetworkDefinition,
    config: trt.IBuilderConfig,
    model: Path,
    log: Log,
) -> bytes:
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ModelError(f"the builder refuses the network: {log.reason()}", where=str(model), mend=MEND)
    return bytes(plan)


def agreement(plans: list[bytes]) -> str:
    """Say whether the last of several builds is one of those before."""
    if len(plans) == 1:
        return "built once: whether another build gives the same plan is not known"
    if plans[-1] in plans[:-1]:
        return f"built {len(plans)} times: two plans agree to the byte"
    different = f"NOT DETERMINISTIC: {len(plans)} builds gave {len(plans)} different plans"
    return f"{different}; the timing cache beside this one, pinned, makes the next choose as it did"


def require_dla_precision(core: int | None, precision: str) -> None:
    """Go on only where a DLA takes the precision, or none is asked for.

    Raises:
        CapabilityError: it does not.
    """
    if core is not None and precision != "fp16":
        raise CapabilityError(
            f"the DLA takes fp16, not {precision}: it has no explicit QDQ",
            where="raw.dla_core",
            mend="build the fp16 variant for the DLA, or leave dla_core out",
        )


def dla_note(core: int, left: list[str]) -> str:
    """Say out loud which layers a DLA leaves to the GPU."""
    if not left:
        return f"DLA core {core} takes all layers"
    names = ", ".join(left[:SHOWN]) + (" …" if len(left) > SHOWN else "")
    return f"DLA core {core} leaves {len(left)} layers to the GPU: {names}"
