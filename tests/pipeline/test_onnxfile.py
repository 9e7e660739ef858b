"""Reading ONNX files others wrote, describing them, counting their cost."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_networks import changed, images, make_model, residual_net, saved

from pipeline.onnxmodel.file import data_files, describe, read_model, write_model
from pipeline.onnxmodel.macs import count_macs
from pipeline.onnxmodel.session import OnnxSession
from targets.errors import ModelError
from targets.toolchain import TensorSpec


def external(folder, location="model.data", **entries):
    """A model in `folder` whose weight w3 lies in `location`, and that file's bytes."""
    model = residual_net()
    tensor = next(each for each in model.graph.initializer if each.name == "w3")
    data = numpy_helper.to_array(tensor).tobytes()
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": 0, "length": len(data), **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return saved(model, folder / "model.onnx"), data


def test_external_data_are_loaded_and_copied_into_one_file(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "out").mkdir()
    path, data = external(tmp_path, "weights/w3.bin", offset=16)
    (tmp_path / "weights" / "w3.bin").write_bytes(b"x" * 16 + data + b"rest")
    copied = tmp_path / "out" / "model.onnx"
    write_model(read_model(path), copied)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]
    expected = OnnxSession(residual_net())(images())
    assert np.array_equal(OnnxSession(copied)(images())["logits"], expected["logits"])


def test_a_models_data_files_are_found_without_reading_them(tmp_path):
    path, _ = external(tmp_path, "weights/w3.bin", offset=16)
    assert data_files(path) == {}
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w3.bin").touch()
    assert data_files(path) == {"weights/w3.bin": tmp_path / "weights" / "w3.bin"}
    path.write_bytes(b"no model")
    assert data_files(path) == data_files(tmp_path / "none.onnx") == {}


def test_missing_external_data_are_named(tmp_path):
    path, _ = external(tmp_path)
    with pytest.raises(ModelError, match="w3") as error:
        read_model(path)
    assert "model.data" in str(error.value)


@pytest.mark.parametrize(
    "location", ["/etc/hostname", "../secret.bin", "a/../../secret.bin", "..\\secret.bin", "C:\\x.bin", ""]
)
def test_external_data_outside_the_folder_are_refused(tmp_path, location):
    inside = tmp_path / "inside"
    inside.mkdir()
    path, data = external(inside, location)
    (tmp_path / "secret.bin").write_bytes(data)
    with pytest.raises(ModelError, match="not in the model's folder"):
        read_model(path)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    path, data = external(inside)
    (tmp_path / "secret.bin").write_bytes(data)
    (inside / "model.data").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match="not in the model's folder"):
        read_model(path)


def test_a_linked_folder_out_of_the_folder_is_refused(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    path, data = external(inside, "sub/w3.bin")
    (outside / "w3.bin").write_bytes(data)
    (inside / "sub").symlink_to(outside)
    with pytest.raises(ModelError, match="not in the model's folder"):
        read_model(path)


def test_short_external_data_are_refused(tmp_path):
    path, data = external(tmp_path)
    (tmp_path / "model.data").write_bytes(data[:-1])
    with pytest.raises(ModelError, match="ends before tensor 'w3'"):
        read_model(path)


@pytest.mark.parametrize("entries", [{"length": 4}, {"length": -1}, {"offset": -4}, {"offset": "x"}])
def test_impossible_external_entries_are_refused(tmp_path, entries):
    path, data = external(tmp_path, **entries)
    (tmp_path / "model.data").write_bytes(data)
    with pytest.raises(ModelError, match="impossible"):
        read_model(path)


def test_external_data_count_towards_the_limit(tmp_path):
    path, data = external(tmp_path)
    (tmp_path / "model.data").write_bytes(data)
    with pytest.raises(ModelError, match="external data have"):
        read_model(path, max_bytes=path.stat().st_size + 100)


def test_a_large_file_is_refused_before_it_is_parsed(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\0" * 1000)
    with pytest.raises(ModelError, match="1,000 bytes"):
        read_model(path, max_bytes=999)


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0.0, 0.999))
def test_no_truncated_file_is_taken_for_a_whole_one(tmp_path_factory, share):
    whole = residual_net().SerializeToString()
    path = tmp_path_factory.mktemp("cut") / "model.onnx"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError):
        read_model(path)


@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=200))
def test_foreign_bytes_are_refused_with_a_model_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("foreign") / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError):
        read_model(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ModelError, match="no such ONNX file"):
            read_model(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(tmp_path, value):
    def spoil(values):
        values[3, 1, 0, 2] = value
        return values

    path = saved(changed(residual_net(), "w4", spoil), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="'w4' holds 1 NaN or infinite"):
        read_model(path)


def clip_model(bound):
    nodes = [helper.make_node("Clip", ["input", "low", "high"], ["output"])]
    return make_model(
        nodes, {"low": np.array(0.0), "high": np.array(bound)}, {"input": [1, 4]}, {"output": [1, 4]}
    )


def test_the_open_end_of_a_clip_may_be_infinite_but_not_nan(tmp_path):
    assert read_model(saved(clip_model(np.inf), tmp_path / "open.onnx")).graph.node
    with pytest.raises(ModelError, match="'high'"):
        read_model(saved(clip_model(np.nan), tmp_path / "nan.onnx"))


def test_a_tensor_whose_data_do_not_fill_its_shape_is_named(tmp_path):
    model = residual_net()
    model.graph.initializer[0].dims[0] = 2**40
    with pytest.raises(ModelError, match="malformed"):
        read_model(saved(model, tmp_path / "model.onnx"))


def test_an_impossible_input_shape_is_refused(tmp_path):
    with pytest.raises(ModelError, match="impossible shape"):
        read_model(saved(residual_net(batch=2**40), tmp_path / "model.onnx"))


def test_what_the_checker_refuses_is_refused(tmp_path):
    model = residual_net()
    model.graph.node[3].input[0] = "nowhere"
    with pytest.raises(ModelError, match="checker"):
        read_model(saved(model, tmp_path / "model.onnx"))


def test_equal_models_give_equal_bytes(tmp_path):
    write_model(residual_net(), tmp_path / "a.onnx")
    write_model(residual_net(), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_facts_of_a_model():
    facts = describe(residual_net())
    assert facts.inputs == (TensorSpec("input", "float32", (-1, 2, 9, 9)),)
    assert facts.outputs == (TensorSpec("logits", "float32", (-1, 5)),)
    assert facts.opset == 18
    assert facts.operators == {
        "Add": 3, "Conv": 6, "Flatten": 1, "Gemm": 1, "GlobalAveragePool": 1, "Relu": 6
    }  # fmt: skip
    assert facts.custom_operators == ()
    assert facts.parameters == 8 * 2 * 9 + 5 * 8 * 8 * 9 + 6 * 8 + 8 * 5 + 5
    assert facts.size_bytes == len(residual_net().SerializeToString())


def test_custom_operators_are_listed(tmp_path):
    nodes = [helper.make_node("Sparkle", ["input"], ["output"], domain="acme")]
    model = make_model(nodes, {}, {"input": [1, 4]}, {"output": [1, 4]})
    model.opset_import.append(helper.make_opsetid("acme", 1))
    assert describe(read_model(saved(model, tmp_path / "m.onnx"))).custom_operators == ("acme::Sparkle",)


def test_output_shapes_the_exporter_left_out_are_inferred():
    model = residual_net(batch=1)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert describe(model).outputs[0].shape == (1, 5)


@pytest.mark.parametrize("batch", ["batch", 1])
def test_macs_of_the_residual_net(batch):
    assert count_macs(residual_net(batch)) == 81 * (8 * 2 * 9 + 5 * 8 * 8 * 9) + 8 * 5


def test_macs_ignore_stale_symbolic_shapes():
    model = onnx.shape_inference.infer_shapes(residual_net())
    assert count_macs(model) == count_macs(residual_net(1))


def single(op, weight, inputs, outputs, **attributes):
    nodes = [helper.make_node(op, ["input", "w"], ["output"], **attributes)]
    return make_model(nodes, {"w": np.zeros(weight)}, {"input": inputs}, {"output": outputs})


def test_macs_of_a_grouped_strided_convolution():
    # 12 channels in 3 groups: each of 6·4·5 outputs sums 4 channels × 3×3.
    model = single("Conv", (6, 4, 3, 3), ["n", 12, 10, 12], ["n", 6, 4, 5], group=3, strides=[2, 2])
    assert count_macs(model) == 6 * 4 * 5 * 4 * 9


def test_macs_of_a_depthwise_convolution():
    model = single("Conv", (16, 1, 3, 3), [1, 16, 8, 8], [1, 16, 6, 6], group=16)
    assert count_macs(model) == 16 * 36 * 9


def test_macs_of_a_grouped_transposed_convolution():
    # Each of 8·5·5 inputs is spread over 3 output channels × 2×2.
    model = single("ConvTranspose", (8, 3, 2, 2), ["n", 8, 5, 5], ["n", 6, 10, 10], group=2, strides=[2, 2])
    assert count_macs(model) == 8 * 25 * 3 * 4


def test_macs_of_gemm_and_matmul():
    assert count_macs(single("Gemm", (7, 4), [7, 3], [3, 4], transA=1)) == 3 * 7 * 4
    assert count_macs(single("MatMul", (6, 4), ["n", 5, 6], ["n", 5, 4])) == 5 * 6 * 4


def test_macs_need_fixed_sizes():
    with pytest.raises(ModelError, match="dimension 2 of input 'input' is dynamic"):
        count_macs(single("Conv", (4, 3, 3, 3), ["n", 3, "h", 8], ["n", 4, "a", 6]))


def test_weights_are_counted_in_the_bits_they_are_stored_in():
    model = residual_net()
    floats = describe(model).parameters
    assert describe(model).weight_bytes == 4 * floats
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.zeros((3, 5), np.int8), "quantized"),
            helper.make_tensor("packed", TensorProto.INT4, [7], [1] * 7),
        ]
    )
    assert describe(model).weight_bytes == 4 * floats + 15 + 4
