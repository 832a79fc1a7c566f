"""Runs image models of transformers: classifiers, and CLIP or SigLIP for labels that the user names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from smallai_assistant.engines.base import Engine, ImageModel, ImageTextModel, LoadedModel, ModelSpec
from smallai_assistant.engines.loading import bounded_building, own_weights
from smallai_assistant.engines.lora import LoraAdapters
from smallai_assistant.engines.tokenizer_process import TokenizerProcess
from smallai_assistant.engines.vision_tuning import linear_layers, tune
from smallai_assistant.errors import Cancelled, ModelInvalid
from smallai_assistant.feedback import Adapter
from smallai_assistant.models.boundary import model_errors
from smallai_assistant.models.entries import is_pinned
from smallai_assistant.models.files import check_model_folder, read_safetensors_header
from smallai_assistant.models.json_files import check_picture_sizes, read_json_object

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from smallai_assistant.engines.training_run import TrainingRun

    FloatArray = npt.NDArray[np.float32]
    ImageArray = npt.NDArray[np.uint8]

CLASSIFY = "image-classification"
MATCH = "zero-shot-image-classification"

# Model type -> the prompt of its paper, and whether texts are padded to the full length, as they were in training.
_PROMPTS = {
    "clip": ("a photo of a {}.", False),
    "metaclip_2": ("a photo of a {}.", False),
    "siglip": ("This is a photo of {}.", True),
    "siglip2": ("This is a photo of {}.", True),
}
_BATCH = 16  # pictures or texts in one forward pass
# Bytes per weight, including scales. They are above those of text models, because bitsandbytes leaves biases, norms and
# convolutions as they are.
_WEIGHT_BYTES = {"int8": 1.1, "nf4": 0.65}
# The layers that compute the scores stay at full precision: they are small and sensitive, and their rows have lengths
# that the 4-bit kernels cannot divide into blocks.
_NOT_QUANTIZED = [
    "classifier", "cls_classifier", "distillation_classifier", "head", "fc", "visual_projection", "text_projection"
]  # fmt: skip


class TransformersVisionEngine(Engine):
    """Loads local folders with config.json, preprocessor_config.json and safetensors."""

    name = "transformers-vision"

    def can_load(self, spec: ModelSpec, folder: Path) -> bool:
        try:
            config = read_json_object(folder / "config.json")
        except ModelInvalid:  # also if there is none: another engine's, and `Catalog.resolve` says what is wrong
            return False
        if spec.task == CLASSIFY:
            architectures = config.get("architectures")
            return isinstance(architectures, list) and any("ForImageClassification" in str(a) for a in architectures)
        return spec.task == MATCH and config.get("model_type") in _PROMPTS

    def estimate_bytes(self, spec: ModelSpec, folder: Path) -> int:
        headers = [read_safetensors_header(file) for file in folder.glob("*.safetensors")]
        n_weights = sum(prod(tensor["shape"]) for header in headers for tensor in header.values())
        full = 2 if spec.dtype in ("bfloat16", "float16") else 4
        return int(n_weights * _WEIGHT_BYTES.get(spec.quantization, full))

    def load(
        self, spec: ModelSpec, folder: Path, *, device: str, progress: Callable[[str, float], None]
    ) -> LoadedModel:
        check_model_folder(folder)
        progress(f"loading {spec.name}", 0.0)
        with model_errors(str(folder), hint="check or pull the model again"):
            for path in folder.glob("*processor_config.json"):
                check_picture_sizes(read_json_object(path), path.name)
            model = self._classifier(spec, folder, device) if spec.task == CLASSIFY else _matcher(spec, folder, device)
        progress(f"loading {spec.name}", 1.0)
        return model

    def _classifier(self, spec: ModelSpec, folder: Path, device: str) -> LoadedModel:
        from transformers import AutoModelForImageClassification

        network = _network(AutoModelForImageClassification, spec, folder, device)
        return TransformersImageModel(spec, network, _processor(folder), device=device)


def _matcher(spec: ModelSpec, folder: Path, device: str) -> LoadedModel:
    process = None if is_pinned(spec.name) else TokenizerProcess(folder, spec.name, is_chat=False)
    try:
        from transformers import AutoModel, AutoTokenizer

        if process is not None:
            process.wait()  # before a tokenizer that takes too much is loaded here
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if process is not None:
            process.replace_calls(tokenizer)
        network = _network(AutoModel, spec, folder, device)
        processors = _Processors(_processor(folder), tokenizer, process)
        return TransformersImageTextModel(spec, network, processors, device=device)
    except BaseException:
        if process is not None:
            process.close()
        raise


def _network(auto_class: Any, spec: ModelSpec, folder: Path, device: str) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    dtype = torch.float32 if spec.dtype == "auto" else getattr(torch, spec.dtype)
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": device}}
    if spec.quantization == "int8":
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_NOT_QUANTIZED)
    elif spec.quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=_NOT_QUANTIZED,
        )
    with bounded_building(folder):
        network, report = auto_class.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    own_weights(network)
    if missing := sorted(report["missing_keys"]):  # transformers fills missing weights with random numbers
        raise ModelInvalid(f"{folder}: {len(missing)} weights are missing, such as {missing[0]}")
    return network.eval().requires_grad_(False)


def _processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False, backend="pil")


def _prepare(processor: Any, images: Sequence[ImageArray]) -> dict[str, Any]:
    from PIL import Image

    return dict(processor([Image.fromarray(image) for image in images], return_tensors="pt"))


def _on_model(network: Any, inputs: dict[str, Any], device: str) -> dict[str, Any]:
    """Moves `inputs` to the device. Floats get the network's dtype; token ids and masks stay integers."""
    return {
        key: value.to(device, network.dtype) if value.is_floating_point() else value.to(device)
        for key, value in inputs.items()
    }


class TransformersImageModel(ImageModel):
    """An image classifier of transformers.

    The embedding is the input of the classifier head: the pooled output of the backbone, or its first token, or the
    mean over the picture. It can be computed with LoRA weights. The class probabilities are always those of the bare
    model.

    Attributes:
        can_tune: whether the backbone has linear layers that `tune` can train.
    """

    def __init__(self, spec: ModelSpec, network: Any, processor: Any, *, device: str) -> None:
        import numpy as np

        super().__init__(spec, device=device, n_bytes=_n_bytes(network))
        self._network: Any = network
        self._processor = processor
        self._adapters = LoraAdapters(network, make_room=self.make_room)
        self.can_tune = bool(linear_layers(network))
        names = network.config.id2label
        self.labels = tuple(str(names[index]) for index in sorted(names))
        # A trial run finds a processor that does not fit the network now, and not at the user's first picture.
        try:
            blank = [np.zeros((32, 32, 3), np.uint8)]
            self.n_dimensions = self.embed(blank).shape[1]
            n_scores = self.classify(blank).shape[1]
            if n_scores != len(self.labels):
                raise ModelInvalid(f"{spec.name}: {n_scores} classes and {len(self.labels)} names for them")
        except BaseException:
            self.close()
            raise

    def classify(self, images: Sequence[ImageArray]) -> FloatArray:
        return self._run(images, self._probabilities, len(self.labels))

    def embed(self, images: Sequence[ImageArray], *, adapter: Adapter | None = None) -> FloatArray:
        compute = partial(pooled, self._network)
        return self._run(images, compute, getattr(self, "n_dimensions", 0), adapter=adapter)

    def tune(self, pictures: Sequence[ImageArray], classes: Sequence[int], training: TrainingRun) -> None:
        """Trains LoRA weights of the backbone to tell the classes apart, and writes them into `training.folder`.

        It trains a copy of the network, so answers continue meanwhile.

        Args:
            pictures: RGB, uint8, shape (height, width, 3); sizes may differ.
            classes: the class index of each picture, 0 and up.

        Raises:
            TrainingFailed: the loss became NaN.
            Cancelled: the training was stopped. Its checkpoint stays in `training.work_folder`.
        """
        from transformers import AutoModelForImageClassification

        folder = training.models.folder_of(self.spec)
        copy = _network(AutoModelForImageClassification, self.spec, folder, self.device)
        inputs = [_prepare(self._processor, [picture]) for picture in pictures]
        tune(copy, inputs, classes, training, pooled)

    def retire_adapter(self, adapter_id: str) -> None:
        self._adapters.retire(adapter_id)
        self.call(self._adapters.drop_unused)

    @property
    def extra_bytes(self) -> int:
        return self._adapters.n_bytes

    def drop_extras(self) -> None:
        with suppress(Cancelled):
            self.call(self._adapters.drop_idle)

    def release(self) -> None:
        self._network = None
        self._adapters = LoraAdapters(None)

    def _run(
        self,
        images: Sequence[ImageArray],
        compute: Callable[[dict[str, Any]], Any],
        n_columns: int,
        *,
        adapter: Adapter | None = None,
    ) -> FloatArray:
        import numpy as np

        rows = []
        if adapter is not None:
            self._adapters.begin(adapter)
        try:
            for start in range(0, len(images), _BATCH):
                inputs = _prepare(self._processor, images[start : start + _BATCH])
                rows.append(self.call(partial(self._forward, inputs, compute, adapter)))
        finally:
            if adapter is not None:
                self._adapters.end(adapter)
        return np.concatenate(rows) if rows else np.zeros((0, n_columns), np.float32)

    def _forward(
        self, inputs: dict[str, Any], compute: Callable[[dict[str, Any]], Any], adapter: Adapter | None
    ) -> Any:
        import torch

        self._adapters.activate(None if adapter is None else adapter.part)
        with torch.inference_mode():
            return compute(_on_model(self._network, inputs, self.device)).float().cpu().numpy()

    def _probabilities(self, inputs: dict[str, Any]) -> Any:
        logits = self._network(**inputs).logits.float()
        if self._network.config.problem_type == "multi_label_classification":
            return logits.sigmoid()
        return logits.softmax(-1)


def pooled(network: Any, inputs: dict[str, Any]) -> Any:
    """The input of the classifier head, shape (n, n_dimensions)."""
    output = network.base_model(**inputs)
    given = getattr(output, "pooler_output", None)
    if given is not None:
        return given.flatten(1)
    hidden = output.last_hidden_state
    # A transformer gives (n, n_tokens, n_dimensions), a convolutional network (n, n_channels, height, width).
    return hidden[:, 0] if hidden.ndim == 3 else hidden.mean((2, 3))


class _Processors(NamedTuple):
    """What prepares pictures and texts.

    Attributes:
        process: runs the tokenizer of a folder that the catalogue does not pin, None for one that it does.
    """

    pictures: Any
    texts: Any
    process: TokenizerProcess | None


class TransformersImageTextModel(ImageTextModel):
    """CLIP or SigLIP: a softmax, over the texts, of the scaled cosines of picture and text.

    SigLIP was trained with a sigmoid for each pair. Its softmax is used as well, because users ask which of their
    labels fits best.
    """

    def __init__(self, spec: ModelSpec, network: Any, processors: _Processors, *, device: str) -> None:
        import numpy as np

        super().__init__(spec, device=device, n_bytes=_n_bytes(network))
        self._network: Any = network
        self._processor, self._tokenizer, self._process = processors
        self._prompt, self._pads_fully = _PROMPTS[network.config.model_type]
        try:
            self.match([np.zeros((32, 32, 3), np.uint8)], ["cat"])
        except BaseException:
            self.close()
            raise

    def match(self, images: Sequence[ImageArray], texts: Sequence[str]) -> FloatArray:
        import numpy as np

        if not images or not texts:
            return np.zeros((len(images), len(texts)), np.float32)
        prompts = [self._prompt.format(text) for text in texts]
        text_rows = [self.call(partial(self._embed_texts, batch)) for batch in _batches(prompts)]
        image_rows = [self.call(partial(self._embed_images, _prepare(self._processor, b))) for b in _batches(images)]
        cosines = np.concatenate(image_rows) @ np.concatenate(text_rows).T
        # SigLIP adds a constant to all logits. A softmax does not change with it, so it is left out.
        logits = cosines * self.call(lambda: float(self._network.logit_scale.float().exp()))
        shares = np.exp(logits - logits.max(1, keepdims=True))  # minus the maximum, so that exp does not overflow
        result: FloatArray = (shares / shares.sum(1, keepdims=True)).astype(np.float32)
        return result

    def release(self) -> None:
        self._network = None
        if self._process is not None:
            self._process.close()

    def _embed_texts(self, prompts: Sequence[str]) -> Any:
        tokens = self._tokenizer(
            list(prompts),
            padding="max_length" if self._pads_fully else True,
            truncation=True,
            max_length=self._network.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        return self._unit(self._network.get_text_features, dict(tokens))

    def _embed_images(self, inputs: dict[str, Any]) -> Any:
        return self._unit(self._network.get_image_features, inputs)

    def _unit(self, embed: Callable[..., Any], inputs: dict[str, Any]) -> Any:
        import torch

        with torch.inference_mode():
            vectors = embed(**_on_model(self._network, inputs, self.device)).pooler_output.float()
            return torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy()


def _batches(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (values[start : start + _BATCH] for start in range(0, len(values), _BATCH))


def _n_bytes(network: Any) -> int:
    return LoadedModel.measure([*network.parameters(), *network.buffers()])
